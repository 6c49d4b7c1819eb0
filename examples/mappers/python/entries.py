"""Release notes, taken apart. Pure: knows nothing of components.

An entry is a list item with everything that is indented below it. The headings above it say which section it belongs to; what is in
no list (the title, an introduction, links) stays with the release itself.
"""

import copy
import hashlib
import re
from dataclasses import dataclass

HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
ITEM = re.compile(r"^ *(?:[-*+]|\d{1,9}[.)])\s+(\S.*)$")
FENCE = re.compile(r"^\s*(```|~~~)")
# What a markdown link, an emphasis or a reference adds to the words of an entry.
MARKUP = re.compile(r"\]\([^)]*\)|[`*_\[\]]")


# The host takes no more parts of one experience.
MOST = 999


@dataclass
class Entry:
    section: str
    text: str


def parse(notes):
    """The entries of a text, and the text without them."""
    entries, rest, headings = [], [], []
    current, margin, fenced = None, 0, False
    for line in notes.splitlines():
        indent = len(line) - len(line.lstrip())
        fence = FENCE.match(line) is not None
        heading = None if fenced or fence else HEADING.match(line)
        item = None if fenced or fence else ITEM.match(line)
        # Below an item belong what is indented, empty lines, and a line right behind it.
        behind = current and not current.text.endswith("\n")
        belongs = current and (fenced or not line.strip() or indent > margin + 1 or (behind and not heading))
        if heading:
            level = len(heading.group(1))
            headings = [(l, title) for l, title in headings if l < level] + [(level, heading.group(2))]
            current = None
            rest.append(line)
        elif item and not (current and indent > margin + 1):
            current, margin = Entry(" / ".join(title for _, title in headings), item.group(1)), indent
            entries.append(current)
        elif belongs:
            current.text += "\n" + line
        else:
            current = None
            rest.append(line)
        fenced ^= fence
    for entry in entries:
        entry.text = entry.text.strip()
    return entries, "\n".join(without_empty_sections(rest)).strip()


def without_empty_sections(lines):
    """A heading stays only if there is something to read between it and the next one of its level."""
    kept, pending = [], []
    for line in lines:
        heading = HEADING.match(line)
        if heading:
            pending = [other for other in pending if len(HEADING.match(other).group(1)) < len(heading.group(1))] + [line]
        elif line.strip():
            for other in pending:
                kept += [other, ""]
            pending = []
            kept.append(line)
        elif kept and kept[-1] and not pending:
            kept.append(line)
    return kept


def split(experience, least):
    """The release with what is in no list, and one experience per entry; or the release alone."""
    title, _, notes = experience.content.partition("\n")
    entries, rest = parse(notes)
    if not least <= len(entries) <= MOST:
        return [experience]
    head = copy.copy(experience)
    head.content = f"{title}\n\n{rest}" if rest else title
    return [head] + [part(experience, title, entry, name) for entry, name in zip(entries, names(entries))]


def part(experience, title, entry, name):
    piece = copy.copy(experience)
    piece.source_id = f"{experience.source_id}~{name}"
    # An entry is read by itself: it says which release, and which section.
    piece.content = f"{title}: {entry.section}\n\n{entry.text}" if entry.section else f"{title}\n\n{entry.text}"
    piece.preceded_by = [experience.source_id]
    return piece


def names(entries):
    """A name for each entry that stays the same when others are added, moved or taken away: its first words, and where two entries
    begin alike, a digest of each."""
    slugs = [slug(entry.text) for entry in entries]
    marks = [f"{s}-{digest(e)}" if s and slugs.count(s) > 1 else s or digest(e) for s, e in zip(slugs, entries)]
    # Entries that are equal to the letter are told apart by their order.
    seen = {}
    for index, mark in enumerate(marks):
        seen[mark] = seen.get(mark, 0) + 1
        if seen[mark] > 1:
            marks[index] = f"{mark}.{seen[mark]}"
    return marks


def slug(text):
    words = re.findall(r"[a-z0-9]+", MARKUP.sub(" ", text.splitlines()[0]).lower())
    return "-".join(words[:6])[:40].strip("-")


def digest(entry):
    return hashlib.sha256(f"{entry.section}\n{entry.text}".encode()).hexdigest()[:12]
