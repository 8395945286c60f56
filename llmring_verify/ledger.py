"""The calls of an export, each as its leaf, in little memory; among them, those of a batch."""

import struct
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import BinaryIO, NamedTuple
from uuid import UUID

from llmring_verify import call, merkle
from llmring_verify.jsonl import Lines, chunks, spread
from llmring_verify.canonical_json import Refused, Unchecked, parse
from llmring_verify.verify import Body

_FIRST_YEAR = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Time, id, leaf; tokens; cost in 10^-10 USD, and whether it is known. Sorts by time.
_PACKED = struct.Struct(">Q16s32sQQQQ?")
_ID, _LEAF = slice(8, 24), slice(24, 56)
_UNIT = 10
_LARGEST = 2**64 - 1


class Line(NamedTuple):
    """One call of an export."""

    logged_at: int
    log_id: bytes
    leaf: bytes
    input: int
    output: int
    cached_input: int
    cost: int
    priced: bool


def moment(text: str) -> int:
    """Return microseconds since the first year."""
    return (datetime.fromisoformat(text) - _FIRST_YEAR) // _MICROSECOND


def _packed(line: bytes) -> bytes:
    told = parse(line, Decimal)
    if type(told) is not dict:
        raise Refused("line: not an object")
    one = call.from_export(told)
    amount, tokens = one["cost"]["amount"], one["tokens"]
    return _PACKED.pack(
        moment(one["logged_at"]),
        UUID(one["log_id"]).bytes,
        merkle.leaf(call.entry(one)),
        tokens["input"],
        tokens["output"],
        tokens["cached_input"],
        _units(amount or "0"),
        amount is not None,
    )


def _units(amount: str) -> int:
    cost = int(Decimal(amount).scaleb(_UNIT))
    if cost > _LARGEST:
        raise Refused("line: its cost is larger than can be counted")
    return cost


def _pack(lines: Lines) -> list[bytes]:
    return [_numbered(number, line) for number, line in lines]


def _numbered(number: int, line: bytes) -> bytes:
    try:
        return _packed(line)
    except Refused as exc:
        raise Unchecked(f"line {number}: {exc}") from None


def load(file: BinaryIO) -> "Ledger":
    """Read an export in JSON lines; Refused, Unchecked."""
    return Ledger(each for some in spread(_pack, chunks(file)) for each in some)


class Ledger:
    """Calls by time."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = sorted(lines)
        self.leaves = {line[_ID]: line[_LEAF] for line in self._lines}
        if len(self.leaves) != len(self._lines):
            raise Refused("a call occurs twice")

    def between(self, since: str, until: str, without: Collection[bytes] = ()) -> list[Line]:
        """Return the calls of this time, in order of their ids, but for some."""
        first = bisect_left(self._lines, _PACKED.pack(moment(since), *_FIRST))
        last = bisect_left(self._lines, _PACKED.pack(moment(until) + 1, *_FIRST))
        found = (Line(*_PACKED.unpack(each)) for each in self._lines[first:last])
        return sorted((each for each in found if each.log_id not in without), key=_id)

    def batch(self, body: Body, taken: Collection[bytes]) -> list[Line] | None:
        """Return the calls that a batch commits to, if they are here, or None.

        A root names no calls: they are all of its time, or those that no other receipt has.
        """
        for without in ((), taken):
            found = self.between(body["from"], body["to"], without)
            leaves = [each.leaf for each in found]
            if len(found) == body["count"] and merkle.root(leaves).hex() == body["leaves_root"]:
                return found
        return None


_FIRST = (b"", b"", 0, 0, 0, 0, False)


def _id(line: Line) -> bytes:
    return line.log_id


def totals(found: Sequence[Line]) -> Body:
    """Add calls up as a batch's receipt does."""
    cost = sum(each.cost for each in found)
    return {
        "tokens": {
            "input": sum(each.input for each in found),
            "output": sum(each.output for each in found),
            "cached_input": sum(each.cached_input for each in found),
        },
        "cost": {
            "currency": "USD",
            "amount": f"{cost // 10**_UNIT}.{cost % 10**_UNIT:010}",
            "unpriced": sum(not each.priced for each in found),
        },
    }
