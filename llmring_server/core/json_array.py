"""Entries of a JSON array that does not parse as a whole, so that one of them spoils no other."""

import re
from typing import NamedTuple

# Up to the next bracket or comma that is not within a string; or to a quote that none ends.
_STRUCTURE = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+(["\[\]{},])', re.DOTALL)
_CLOSING = {b"[": b"]", b"{": b"}"}
_WHITE_SPACE = b" \t\r\n"


class ArrayEntry(NamedTuple):
    """The text of an entry, and the line and column of the body where it starts."""

    text: bytes
    line: int
    column: int


def split_array(data: bytes, max_entries: int) -> list[ArrayEntry] | None:
    """Return the texts of an array's entries, whatever each of them contains, up to a maximum.

    None if the text is no array, or if it is not clear where its entries end.
    """
    closing: list[bytes] = []
    bounds: list[tuple[int, int]] = []
    start = 0
    for match in _STRUCTURE.finditer(data):
        character = match[1]
        if character in _CLOSING:
            if not closing:
                if character != b"[" or data[: match.start(1)].strip(_WHITE_SPACE):
                    return None
                start = match.end()
            closing.append(_CLOSING[character])
            continue
        if character == b'"' or not closing:
            return None
        ends_entry = len(closing) == 1
        if character != b"," and closing.pop() != character:
            return None
        if ends_entry:
            bounds.append((start, match.start(1)))
            start = match.end()
        if not closing and data[start:].strip(_WHITE_SPACE):
            return None
        if not closing or len(bounds) == max_entries:
            return _entries(data, bounds)
    return None


def _entries(data: bytes, bounds: list[tuple[int, int]]) -> list[ArrayEntry] | None:
    entries = []
    line, counted = 1, 0
    for start, end in bounds:
        line += data.count(b"\n", counted, start)
        counted = start
        text = data[start:end]
        if not text.strip(_WHITE_SPACE):
            return None
        entries.append(ArrayEntry(text, line, start - data.rfind(b"\n", 0, start)))
    return entries
