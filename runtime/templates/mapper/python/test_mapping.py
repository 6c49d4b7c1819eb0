import unittest
from types import SimpleNamespace

from mapping import map_one


def experience(event_type):
    return SimpleNamespace(
        source_id=f"gl:{event_type}:42/7",
        event_type=event_type,
        modality="document",
        content="Title\n\nText",
        observed_at="2026-11-22T10:00:00Z",
        recorded_at=None,
        author="user:17",
        labels=["gitlab", event_type, "user:ada"],
        attributes=[("state", "opened")],
        preceded_by=[],
        thread=None,
    )


class Mapping(unittest.TestCase):
    def test_only_what_is_named_is_left_out(self):
        settings = {"drop": ["pipeline"]}
        issue = experience("issue")
        self.assertEqual(map_one(settings, experience("pipeline")), [])
        self.assertEqual(map_one(settings, issue), [issue])
