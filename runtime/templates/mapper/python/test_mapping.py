import unittest
from types import SimpleNamespace

from mapping import map_one


class Mapping(unittest.TestCase):
    def test_only_what_is_named_is_left_out(self):
        settings = {"drop": ["pipeline"]}
        issue = SimpleNamespace(event_type="issue")
        self.assertEqual(map_one(settings, SimpleNamespace(event_type="pipeline")), [])
        self.assertEqual(map_one(settings, issue), [issue])
