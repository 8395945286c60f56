"""JSON in slices: a large text is parsed in slices, each of which takes only milliseconds.

While a parser runs, no other thread does. Between two slices they may, so that a worker thread can
parse a large text beside the event loop. Slices end between members of arrays and objects, or
within long strings.
"""

import re
from collections.abc import Callable
from typing import Any, NoReturn

# A slice has at most about so many bytes and members.
SLICE_BYTES = 64 * 1024
SLICE_MEMBERS = 2000

_MAX_DEPTH = 128

# Members without brackets and without long strings, and the comma behind each.
_SHORT_STRING = rb'"(?:[^"\\]{1,100}+|\\.){0,50}+"'
_FLAT = rb'(?:[^"\[\]{},]{1,1000}+|%b){0,50}+' % _SHORT_STRING
_FLAT_MEMBER = re.compile(_FLAT, re.DOTALL)
_FLAT_MEMBERS = re.compile(rb"(?:%b,){1,250}+" % _FLAT, re.DOTALL)
# Up to a bracket, or to a string that is long or does not end.
_TO_BRACKET = re.compile(
    rb'(?:[^"\[\]{}]{1,1000}+|%b){0,250}+(["\[\]{}])?' % _SHORT_STRING, re.DOTALL
)
_SCALAR = re.compile(rb'[^"\[\]{},: \t\r\n]{1,65536}')
_SPACE = re.compile(rb"[ \t\r\n]*+")

# A part of a string that ends within no character, escape sequence or pair of surrogates.
_STRING_PART = re.compile(
    rb"(?:[ !#-\[\]-\x7f]{1,1024}+"
    rb"|(?:[\xc0-\xff][\x80-\xbf]{0,3}+){1,256}+"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u[0-9a-fA-F]{4}|\\[^u]){1,256}+",
    re.DOTALL,
)
_ANY_STRING_PART = re.compile(rb'(?:[^"\\]{1,4096}+|\\.){1,256}+', re.DOTALL)

_CLOSING = {b"[": b"]", b"{": b"}"}

# Parses a text that stands at a position of the whole; raises what is wrong with it.
ParseSlice = Callable[[bytes, int], Any]


class NotJsonError(ValueError):
    """The text is not JSON: what is wrong, and where."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.position = position


def is_large(data: bytes) -> bool:
    """Tell whether a text takes so long to parse that it should be parsed in slices."""
    return len(data) > SLICE_BYTES and (
        len(data) > 8 * SLICE_BYTES or data.count(b",") > 4 * SLICE_MEMBERS
    )


def parse_in_slices(data: bytes, parse_slice: ParseSlice) -> Any:
    """Parse JSON with `parse_slice`, which is given some members, or a part of a string, at a time.

    NotJsonError for errors between these.
    """
    reader = _Reader(data, parse_slice)
    value, end = reader.value(reader.skip_space(0), 1)
    end = reader.skip_space(end)
    if end < len(data):
        raise NotJsonError("trailing characters", end)
    return value


def end_of_string(data: bytes, start: int) -> int | None:
    """Return where the string that starts here ends, behind its last quote; None if nowhere."""
    position = start + 1
    while match := _ANY_STRING_PART.match(data, position):
        position = match.end()
    return position + 1 if data[position : position + 1] == b'"' else None


class _Reader:
    """Reads values from a position of a text; returns them with the position behind them."""

    def __init__(self, data: bytes, parse_slice: ParseSlice) -> None:
        self._data = data
        self._parse_slice = parse_slice

    def value(self, start: int, depth: int) -> tuple[Any, int]:
        first = self._at(start)
        if first == b'"':
            return self._string(start)
        if first in _CLOSING:
            if depth > _MAX_DEPTH:
                raise NotJsonError("recursion limit exceeded", start)
            return self._container(start, depth)
        scalar = _SCALAR.match(self._data, start)
        if not scalar:
            self._refuse(start, "expected value")
        return self._parse_slice(scalar[0], start), scalar.end()

    def skip_space(self, start: int) -> int:
        match = _SPACE.match(self._data, start)
        return match.end() if match else start

    def _at(self, position: int) -> bytes:
        return self._data[position : position + 1]

    def _refuse(self, position: int, reason: str) -> NoReturn:
        if position >= len(self._data):
            reason = "EOF while parsing a value"
        raise NotJsonError(reason, position)

    def _string(self, start: int) -> tuple[str, int]:
        if self._at(start) != b'"':
            self._refuse(start, "key must be a string")
        plain = self._data[start : self._data.find(b'"', start + 1) + 1]
        if plain and plain.isascii() and b"\\" not in plain:
            # Like an encoded image, it is only copied: a millisecond for 4 MiB. Of parts, the
            # memory would stay in use for long.
            return self._parse_slice(plain, start), start + len(plain)
        parts = []
        position = start + 1
        while match := _STRING_PART.match(self._data, position):
            parts.append(self._parse_slice(b'"%b"' % match[0], position - 1))
            position = match.end()
        if self._at(position) != b'"':
            self._refuse(position, "invalid character or escape in a string")
        return "".join(parts), position + 1

    def _container(self, start: int, depth: int) -> tuple[Any, int]:
        """Read an array or an object."""
        opening = self._at(start)
        result: list[Any] | dict[str, Any] = [] if opening == b"[" else {}
        # Members from `pending` to `position` are complete and not parsed yet.
        pending = position = start + 1
        members = 0
        while True:
            end = self._end_of_members(position)
            is_large = end is None
            if end is None:
                if position > pending:
                    self._add_slice(result, pending, position - 1)
                end = pending = self._add_large(result, position, depth)
            if self._at(end) == b",":
                members += 1 + self._data.count(b",", position, end)
                position = end + 1
                if is_large:
                    pending, members = position, 0
                elif position - pending > SLICE_BYTES or members > SLICE_MEMBERS:
                    self._add_slice(result, pending, end)
                    pending, members = position, 0
                continue
            if self._at(end) != _CLOSING[opening]:
                self._refuse(end, f"expected `,` or `{_CLOSING[opening].decode()}`")
            if not is_large:
                self._add_last_slice(result, pending, end)
            return result, end + 1

    def _end_of_members(self, start: int) -> int | None:
        """Return where some members end, at a comma or a bracket; None if the first is large.

        One that is not complete counts as large.
        """
        if members := _FLAT_MEMBERS.match(self._data, start):
            return members.end() - 1
        flat = _FLAT_MEMBER.match(self._data, start)
        position = flat.end() if flat else start
        if self._at(position) in {b"]", b"}"}:
            return position
        if self._at(position) not in _CLOSING:
            return None
        depth = brackets = 0
        while position - start <= SLICE_BYTES and brackets <= SLICE_MEMBERS:
            match = _TO_BRACKET.match(self._data, position)
            if match is None or match.end() == position or match[1] == b'"':
                return None
            position = match.end()
            if match[1] is None:
                continue
            brackets += 1
            depth += 1 if match[1] in _CLOSING else -1
            if depth == 0:
                is_large = self._data.count(b",", start, position) > SLICE_MEMBERS
                return None if is_large else self.skip_space(position)
        return None

    def _add_large(self, result: list[Any] | dict[str, Any], start: int, depth: int) -> int:
        """Read one member and add it; return where it ends."""
        start = self.skip_space(start)
        if isinstance(result, list):
            value, end = self.value(start, depth + 1)
            result.append(value)
            return self.skip_space(end)
        key, end = self._string(start)
        end = self.skip_space(end)
        if self._at(end) != b":":
            self._refuse(end, "expected `:`")
        value, end = self.value(self.skip_space(end + 1), depth + 1)
        self._add_members(result, {key: value}, start)
        return self.skip_space(end)

    def _add_slice(self, result: list[Any] | dict[str, Any], start: int, end: int) -> None:
        """Parse complete members and add them."""
        text = self._data[start:end]
        # In place of the brackets, or of the comma before it.
        if isinstance(result, list):
            part = self._parse_slice(b"[%b]" % text, start - 1)
            if not part:
                self._refuse(start, "expected value")
            result += part
        else:
            part = self._parse_slice(b"{%b}" % text, start - 1)
            if not part:
                self._refuse(start, "key must be a string")
            self._add_members(result, part, start)

    def _add_last_slice(self, result: list[Any] | dict[str, Any], start: int, end: int) -> None:
        if self.skip_space(start) < end:
            self._add_slice(result, start, end)
        elif self._at(start - 1) == b",":
            self._refuse(start, "trailing comma")

    @staticmethod
    def _add_members(result: dict[str, Any], part: dict[str, Any], position: int) -> None:
        if not result.keys().isdisjoint(part):
            raise NotJsonError("a key occurs twice", position)
        result |= part
