import unittest
from types import SimpleNamespace

import entries

NOTES = """Big one (v1.0)

Intro text.

## Features

- Add retry with back-off (!17)
  and more
- Add [feed](https://x)
  - nested

## Fixes

* Crash on empty input
* Crash on empty input, again
right behind it

```
- not an item
```

Full changelog: https://x
"""


def release(content):
    return SimpleNamespace(source_id="gl:release:42/v1.0", event_type="release", content=content, attributes=[("tag", "v1.0")], preceded_by=[])


class Entries(unittest.TestCase):
    def test_each_list_item_is_an_experience_and_the_rest_stays_with_the_release(self):
        head, *parts = entries.split(release(NOTES), 2)
        self.assertEqual(head.source_id, "gl:release:42/v1.0")
        self.assertEqual(head.content, "Big one (v1.0)\n\nIntro text.\n\n## Fixes\n\n```\n- not an item\n```\n\nFull changelog: https://x")
        self.assertEqual(
            [(part.source_id, part.content) for part in parts],
            [
                ("gl:release:42/v1.0~add-retry-with-back-off-17", "Big one (v1.0): Features\n\nAdd retry with back-off (!17)\n  and more"),
                ("gl:release:42/v1.0~add-feed", "Big one (v1.0): Features\n\nAdd [feed](https://x)\n  - nested"),
                ("gl:release:42/v1.0~crash-on-empty-input", "Big one (v1.0): Fixes\n\nCrash on empty input"),
                ("gl:release:42/v1.0~crash-on-empty-input-again", "Big one (v1.0): Fixes\n\nCrash on empty input, again\nright behind it"),
            ],
        )
        self.assertEqual(parts[0].preceded_by, ["gl:release:42/v1.0"])

    def test_names_stay_when_entries_come_and_go_and_are_never_the_same(self):
        def names(*texts):
            return entries.names([entries.Entry("Fixes", text) for text in texts])

        self.assertEqual(names("Add a thing", "Fix b"), ["add-a-thing", "fix-b"])
        self.assertEqual(names("New", "Fix b", "Add a thing"), ["new", "fix-b", "add-a-thing"])
        self.assertEqual(names("修正しました"), names("別の", "修正しました")[1:])
        alike = names("Fix a\nmore", "Fix a\nless", "Fix a\nless", "**Fix** `a`")
        self.assertEqual(len(set(alike)), 4)
        for name in alike + names("修正", "x" * 500):
            self.assertRegex(name, r"^[A-Za-z0-9._-]{1,64}$")

    def test_notes_with_too_few_or_too_many_entries_stay_whole(self):
        for notes in ["v1", "v1\n\ntext alone", "v1\n\n- one", "v1\n\n" + "- one\n" * 1000]:
            experience = release(notes)
            self.assertEqual(entries.split(experience, 2), [experience])


if __name__ == "__main__":
    unittest.main()
