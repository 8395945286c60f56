"""JSON as evidence: read in one way only, and written in one way only (RFC 8785)."""

import json
from decimal import Decimal
from typing import Any

LARGEST = 16 * 2**20
MOST = 2**53 - 1


class Refused(ValueError):
    """This is not proved, and the text says why; it holds nothing of the document's values."""


class Unchecked(Exception):
    """Whether this is genuine cannot be told from what is here; the text says what is missing."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Refused("a name occurs twice in one object")
    return members


def _no_constant(_: str) -> None:
    raise Refused("NaN and Infinity are no JSON")


Number = type[float] | type[Decimal]


def _reader(number: Number) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_once, parse_constant=_no_constant, parse_float=number
    )


_READERS: dict[Number, json.JSONDecoder] = {number: _reader(number) for number in (float, Decimal)}
# Its C encoder takes a fifth of the time of a canonicaliser, and writes the same bytes for what is
# signed: names in ASCII, text, integers, booleans, null. A test compares them.
_write = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
).encode


def parse(data: bytes, number: Number = float) -> Any:
    """Read one JSON text of UTF-8; Refused: no name may be given twice, nothing may be huge.

    A number with a fraction or exponent becomes a `number`: a float, or exactly, a Decimal.
    """
    if len(data) > LARGEST:
        raise Refused(f"it is longer than {LARGEST >> 20} MiB")
    try:
        return _READERS[number].decode(data.decode())
    except Refused:
        raise
    except RecursionError:
        raise Refused("it is nested too deep") from None
    except (ValueError, ArithmeticError):
        # A Decimal's exponent has its bounds.
        raise Refused("it is not JSON of UTF-8") from None


def canonical(value: Any) -> bytes:
    """Write what a shape has approved, as RFC 8785 does; Refused: half a surrogate pair."""
    try:
        return _write(value).encode()
    except UnicodeEncodeError:
        raise Refused("a text holds half a surrogate pair") from None
