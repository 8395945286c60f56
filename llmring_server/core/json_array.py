"""Entries of a JSON array that does not parse as a whole, so that one of them spoils no other."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from llmring_server.core.json_slices import end_of_string

# Up to the next bracket or comma that is not within a string; or to a string that is long or does
# not end. A match of a long text would keep other threads waiting.
_STRUCTURE = re.compile(
    rb'(?:[^"\[\]{},]{1,1000}+|"(?:[^"\\]{1,100}+|\\.){0,50}+"){0,250}+(["\[\]{},])?', re.DOTALL
)
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
    for position in _structure(data):
        character = data[position : position + 1]
        if character in _CLOSING:
            if not closing:
                if character != b"[" or data[:position].strip(_WHITE_SPACE):
                    return None
                start = position + 1
            closing.append(_CLOSING[character])
            continue
        if character == b'"' or not closing:
            return None
        ends_entry = len(closing) == 1
        if character != b"," and closing.pop() != character:
            return None
        if ends_entry:
            bounds.append((start, position))
            start = position + 1
        if not closing and data[start:].strip(_WHITE_SPACE):
            return None
        if not closing or len(bounds) == max_entries:
            return _entries(data, bounds)
    return None


def _structure(data: bytes) -> Iterator[int]:
    """Yield where brackets and commas are that are in no string; or a quote that none ends."""
    position = 0
    while (match := _STRUCTURE.match(data, position)) and match.end() > position:
        position = match.end()
        if match[1] == b'"':
            end = end_of_string(data, position - 1)
            if end is None:
                yield position - 1
                return
            position = end
        elif match[1]:
            yield position - 1


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
