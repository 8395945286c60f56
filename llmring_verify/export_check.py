"""Check an export against its receipts: which calls are certified, and what differs.

An ExportIndex holds the calls of an export in little memory, each as its Merkle leaf, and finds
those of a batch. An ExportCheck compares the calls of an export with those that receipts certify.
"""

import struct
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import BinaryIO, NamedTuple
from uuid import UUID

from llmring_verify.canonical_json import CannotVerify, NotVerified, parse
from llmring_verify.jsonl import Chunk, chunks, map_in_processes
from llmring_verify.merkle import leaf_hash, merkle_root
from llmring_verify.receipt import call_from_export, call_from_receipt, leaf_entry
from llmring_verify.report import NOT_PROVED, Outcome, Report, counted
from llmring_verify.verify import LEGACY, Body

_YEAR_ONE = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COST_DECIMALS = 10
_MAX_COST_UNITS = 2**64 - 1
# The fields of ExportedCall. Packed calls sort by time.
_PACKED_CALL = struct.Struct(">Q16s32sQQQQ?")
_LOG_ID, _LEAF = slice(8, 24), slice(24, 56)


class ExportedCall(NamedTuple):
    """A call of an export, as the index stores it."""

    # Microseconds since the year 1.
    logged_at: int
    log_id: bytes
    leaf: bytes
    input: int
    output: int
    cached_input: int
    # In units of 10^-10 USD; 0 if the call is unpriced.
    cost: int
    priced: bool


def _microseconds(timestamp: str) -> int:
    return (datetime.fromisoformat(timestamp) - _YEAR_ONE) // _MICROSECOND


def _pack_chunk(chunk: Chunk) -> list[bytes]:
    packed = []
    for number, line in chunk:
        try:
            packed.append(_pack_call(line))
        except NotVerified as exc:
            raise CannotVerify(f"line {number}: {exc}") from None
    return packed


def _pack_call(line: bytes) -> bytes:
    members = parse(line, Decimal)
    if type(members) is not dict:
        raise NotVerified("not a JSON object")
    call = call_from_export(members)
    amount, tokens = call["cost"]["amount"], call["tokens"]
    return _PACKED_CALL.pack(
        *ExportedCall(
            logged_at=_microseconds(call["logged_at"]),
            log_id=UUID(call["log_id"]).bytes,
            leaf=leaf_hash(leaf_entry(call)),
            input=tokens["input"] or 0,
            output=tokens["output"] or 0,
            cached_input=tokens["cached_input"],
            cost=_cost_units(amount or "0"),
            priced=amount is not None,
        )
    )


def _cost_units(amount: str) -> int:
    units = int(Decimal(amount).scaleb(_COST_DECIMALS))
    if units > _MAX_COST_UNITS:
        raise NotVerified("the cost is too large")
    return units


def _first_possible(microseconds: int) -> bytes:
    """Return what sorts before every packed call of this time."""
    return _PACKED_CALL.pack(microseconds, b"", b"", 0, 0, 0, 0, False)  # noqa: FBT003


class ExportIndex:
    """The calls of an export, sorted by time."""

    def __init__(self, packed_calls: Iterable[bytes]) -> None:
        self._calls = sorted(packed_calls)
        self.leaves = {call[_LOG_ID]: call[_LEAF] for call in self._calls}
        if len(self.leaves) != len(self._calls):
            raise NotVerified("the export contains a call twice")

    @classmethod
    def read(cls, file: BinaryIO) -> "ExportIndex":
        """Read an export in JSON lines, or raise NotVerified or CannotVerify."""
        packed_chunks = map_in_processes(_pack_chunk, chunks(file))
        return cls(call for packed in packed_chunks for call in packed)

    def between(
        self, since: str, until: str, excluded: Collection[bytes] = ()
    ) -> list[ExportedCall]:
        """Return the calls of a time range, both ends included, in order of their ids."""
        start = bisect_left(self._calls, _first_possible(_microseconds(since)))
        end = bisect_left(self._calls, _first_possible(_microseconds(until) + 1))
        calls = (ExportedCall(*_PACKED_CALL.unpack(call)) for call in self._calls[start:end])
        return sorted(
            (call for call in calls if call.log_id not in excluded), key=lambda call: call.log_id
        )

    def find_batch(self, receipt: Body, certified: Collection[bytes]) -> list[ExportedCall] | None:
        """Return the calls of a batch receipt, or None if they are not in this export.

        A Merkle root does not name its calls. They are either all calls of the time range, or
        those of them that no other receipt certifies.
        """
        for excluded in ((), certified):
            calls = self.between(receipt["from"], receipt["to"], excluded)
            if len(calls) != receipt["count"]:
                continue
            if merkle_root([call.leaf for call in calls]).hex() == receipt["leaves_root"]:
                return calls
        return None


@dataclass
class ExportCheck:
    """The comparison of an export with verified receipts: `add` each receipt, then `finish`."""

    export: ExportIndex
    earlier: Sequence[ExportIndex] = ()
    # The calls that receipts certify, by id, with their leaves.
    signed: dict[bytes, bytes] = field(default_factory=dict)
    changed: set[bytes] = field(default_factory=set)
    # Batch receipts whose calls were not found.
    unresolved: list[Body] = field(default_factory=list)
    # Batch receipts whose time range or totals are not those of their calls.
    inconsistent: list[Body] = field(default_factory=list)
    receipts: int = 0
    # Legacy receipts do not name calls.
    legacy_receipts: int = 0

    def add(self, receipt: Body) -> None:
        """Add a verified receipt."""
        self.receipts += 1
        if receipt["kind"] == "usage":
            leaf = leaf_hash(leaf_entry(call_from_receipt(receipt)))
            self._add_signed(UUID(receipt["log_id"]).bytes, leaf)
        elif receipt["kind"] == LEGACY:
            self.legacy_receipts += 1
        else:
            self.unresolved.append(receipt)

    def finish(self) -> None:
        """Find the calls of each batch receipt, and compare them with the export."""
        self.unresolved.sort(key=lambda receipt: str(receipt["issued_at"]))
        # Calls found for one batch can be excluded from the others, so repeat while it helps.
        while self._resolve_batches():
            pass
        for log_id, leaf in self.signed.items():
            if self.export.leaves.get(log_id, leaf) != leaf:
                self.changed.add(log_id)

    def _add_signed(self, log_id: bytes, leaf: bytes) -> None:
        if self.signed.setdefault(log_id, leaf) != leaf:
            # Two receipts state different things about one call.
            self.changed.add(log_id)

    def _resolve_batches(self) -> bool:
        """Return whether some batches were found and others may be found now."""
        receipts, self.unresolved = self.unresolved, []
        for receipt in receipts:
            calls = self._find_batch(receipt)
            if calls is None:
                self.unresolved.append(receipt)
                continue
            if not _is_consistent(receipt, calls):
                self.inconsistent.append(receipt)
            for call in calls:
                self._add_signed(call.log_id, call.leaf)
        return bool(self.unresolved) and len(self.unresolved) < len(receipts)

    def _find_batch(self, receipt: Body) -> list[ExportedCall] | None:
        for index in (self.export, *self.earlier):
            calls = index.find_batch(receipt, self.signed.keys())
            if calls is not None:
                return calls
        return None

    def certified(self) -> set[bytes]:
        """Return the calls that are in the export as a receipt certifies them."""
        return (self.signed.keys() & self.export.leaves.keys()) - self.changed

    def missing(self) -> set[bytes]:
        """Return the calls that a receipt certifies and that are not in the export."""
        return self.signed.keys() - self.export.leaves.keys()

    def uncertified(self) -> set[bytes]:
        """Return the calls of the export that no receipt certifies."""
        return self.export.leaves.keys() - self.signed.keys()

    def report(self, source: str) -> Report:
        calls = {
            "missing": _sorted_ids(self.missing()),
            "changed": _sorted_ids(self.changed),
            "uncertified": _sorted_ids(self.uncertified()),
        }
        size = counted(len(self.export.leaves), "call")
        receipts = counted(self.receipts, "receipt")
        proved = f"{len(self.certified())} of {size} certified by {receipts} and unchanged."
        errors = [*_call_errors(calls), *self._receipt_errors()]
        outcome = Outcome.NOT_VERIFIED if errors else Outcome.VERIFIED
        return Report(source, outcome, [proved], errors, [*NOT_PROVED, _NO_METADATA], calls=calls)

    def _receipt_errors(self) -> Iterator[str]:
        for receipt in self.unresolved:
            exported = len(self.export.between(receipt["from"], receipt["to"]))
            yield (
                f"receipt {receipt['receipt_id']}: its {counted(receipt['count'], 'call')}: not"
                f" found as signed. The export has {counted(exported, 'call')} from"
                f" {receipt['from']} to {receipt['to']}. To see which calls differ, add --earlier"
                " with an earlier export or an export of the calls of this receipt."
            )
        for receipt in self.inconsistent:
            yield (
                f"receipt {receipt['receipt_id']}: its time range or totals do not match its calls."
            )
        if self.legacy_receipts:
            receipts = counted(self.legacy_receipts, "legacy receipt")
            yield f"{receipts}: legacy receipts do not state which calls they certify."


def check_export(
    export: BinaryIO, receipts: Iterable[Body], earlier: Iterable[BinaryIO] = ()
) -> ExportCheck:
    """Check an export in JSON lines against receipts that `verify_receipt` returned.

    `earlier` are exports from before, or of single receipts: they show which calls of a batch
    have changed. Raises NotVerified or CannotVerify if an export cannot be read.
    """
    check = ExportCheck(ExportIndex.read(export), [ExportIndex.read(file) for file in earlier])
    for receipt in receipts:
        check.add(receipt)
    check.finish()
    return check


def _is_consistent(receipt: Body, calls: Sequence[ExportedCall]) -> bool:
    times = [call.logged_at for call in calls]
    time_range = (_microseconds(receipt["from"]), _microseconds(receipt["to"]))
    return time_range == (min(times), max(times)) and _totals(calls) == receipt["totals"]


def _totals(calls: Sequence[ExportedCall]) -> Body:
    """Sum up calls as a batch receipt does."""
    cost = sum(call.cost for call in calls)
    unit = 10**_COST_DECIMALS
    return {
        "tokens": {
            "input": sum(call.input for call in calls),
            "output": sum(call.output for call in calls),
            "cached_input": sum(call.cached_input for call in calls),
        },
        "cost": {
            "currency": "USD",
            "amount": f"{cost // unit}.{cost % unit:0{_COST_DECIMALS}}",
            "unpriced": sum(not call.priced for call in calls),
        },
    }


_NO_METADATA = "the metadata and the re-rated costs of the calls; receipts do not contain them."
_MAX_IDS_SHOWN = 20
_CALL_ERRORS = {
    "missing": "calls certified by a receipt but missing from the export",
    "changed": "calls that differ from what a receipt states",
    "uncertified": "calls certified by no receipt",
}


def _sorted_ids(log_ids: Iterable[bytes]) -> list[str]:
    return sorted(str(UUID(bytes=log_id)) for log_id in log_ids)


def _call_errors(calls: dict[str, list[str]]) -> Iterator[str]:
    for name, ids in calls.items():
        if ids:
            hidden = len(ids) - _MAX_IDS_SHOWN
            more = f" and {hidden} more" if hidden > 0 else ""
            shown = ", ".join(ids[:_MAX_IDS_SHOWN])
            yield f"{_CALL_ERRORS[name]} ({len(ids)}): {shown}{more}."
