"""A whole export against its receipts: which of its calls are certified, and what is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from llmring_verify.call import entry
from llmring_verify.ledger import Ledger, Line, moment, totals
from llmring_verify.merkle import leaf
from llmring_verify.receipt import call_of
from llmring_verify.verify import OLD, Body
from llmring_verify.report import ITS_WORD, Finding, Outcome, some


@dataclass
class Audit:
    """What the receipts say of the calls of an export."""

    now: Ledger
    earlier: Sequence[Ledger]
    # Each call that a receipt commits to, and its leaf.
    signed: dict[bytes, bytes] = field(default_factory=dict)
    changed: set[bytes] = field(default_factory=set)
    # Batches whose calls are not here, as they were.
    open: list[Body] = field(default_factory=list)
    # Receipts that do not say what their calls add up to.
    contradictory: list[Body] = field(default_factory=list)
    receipts: int = 0
    # Receipts that name no calls at all.
    old: int = 0

    def add(self, body: Body) -> None:
        """Take a verified receipt."""
        self.receipts += 1
        if body["kind"] == "usage":
            self._sign(UUID(body["log_id"]).bytes, leaf(entry(call_of(body))))
        elif body["kind"] == OLD:
            self.old += 1
        else:
            self.open.append(body)

    def close(self) -> None:
        """Find the calls of each batch; what one has found may help to find those of another."""
        self.open.sort(key=lambda body: str(body["issued_at"]))
        while self._resolve():
            pass
        self._compare()

    def _sign(self, log_id: bytes, its_leaf: bytes) -> None:
        if self.signed.setdefault(log_id, its_leaf) != its_leaf:
            self.changed.add(log_id)

    def _resolve(self) -> bool:
        waiting, self.open = self.open, []
        for body in waiting:
            found = self._batch(body)
            if found is None:
                self.open.append(body)
                continue
            if not _adds_up(body, found):
                self.contradictory.append(body)
            for each in found:
                self._sign(each.log_id, each.leaf)
        return bool(self.open) and len(self.open) < len(waiting)

    def _batch(self, body: Body) -> list[Line] | None:
        tried = (each.batch(body, self.signed.keys()) for each in (self.now, *self.earlier))
        return next((found for found in tried if found is not None), None)

    def _compare(self) -> None:
        here = self.now.leaves
        self.changed |= {id for id, leaf in self.signed.items() if here.get(id, leaf) != leaf}

    def certified(self) -> set[bytes]:
        return (self.signed.keys() & self.now.leaves.keys()) - self.changed

    def missing(self) -> set[bytes]:
        return self.signed.keys() - self.now.leaves.keys()

    def surplus(self) -> set[bytes]:
        return self.now.leaves.keys() - self.signed.keys()


def _adds_up(body: Body, found: Sequence[Line]) -> bool:
    times = [each.logged_at for each in found]
    within = (moment(body["from"]), moment(body["to"])) == (min(times), max(times))
    return within and totals(found) == body["totals"]


def finding(about: str, audit: Audit) -> Finding:
    """Put an audit into words."""
    found = {
        "missing": audit.missing(),
        "changed": audit.changed,
        "surplus": audit.surplus(),
    }
    calls = {name: sorted(str(UUID(bytes=id)) for id in ids) for name, ids in found.items()}
    wrong = [*_wrong_calls(calls), *_wrong_receipts(audit)]
    outcome = Outcome.NOT_VERIFIED if wrong else Outcome.VERIFIED
    return Finding(about, outcome, [_certified(audit)], wrong, [*ITS_WORD, _METADATA], calls=calls)


def _certified(audit: Audit) -> str:
    calls = f"{len(audit.certified())} of {some(len(audit.now.leaves), 'call')}"
    return f"Certified by {some(audit.receipts, 'receipt')}, as they are here: {calls}."


_METADATA = "their metadata, and what re-rating made of their costs since: no receipt holds these."
_MOST_SHOWN = 20
_WHY = {
    "missing": "in a receipt, but not in the export",
    "changed": "not as a receipt tells of them",
    "surplus": "in no receipt",
}


def _wrong_calls(calls: dict[str, list[str]]) -> Iterator[str]:
    for name, ids in calls.items():
        if ids:
            more = f" and {len(ids) - _MOST_SHOWN} more" * (len(ids) > _MOST_SHOWN)
            yield f"calls {_WHY[name]} ({len(ids)}): {', '.join(ids[:_MOST_SHOWN])}{more}."


def _wrong_receipts(audit: Audit) -> Iterator[str]:
    for body in audit.open:
        here = len(audit.now.between(body["from"], body["to"]))
        yield (
            f"receipt {body['receipt_id']}: its {some(body['count'], 'call')}: not here, or not"
            f" as signed; from {body['from']} to {body['to']}, the export has {here}. With"
            " --earlier, an export of before, or of this receipt's calls alone, it can be told"
            " which differ."
        )
    for body in audit.contradictory:
        yield f"receipt {body['receipt_id']}: its times or totals are not those of its own calls."
    if audit.old:
        yield f"{some(audit.old, 'old receipt')}: no such receipt says which calls it is for."
