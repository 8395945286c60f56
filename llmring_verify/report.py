"""Reports: what was proved, what was not, and what is wrong, as text or as a line of JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from llmring_verify.canonical_json import CannotVerify, NotVerified
from llmring_verify.verify import LEGACY, Body


class Outcome(IntEnum):
    """The outcome of a check; also the exit code."""

    VERIFIED = 0
    NOT_VERIFIED = 1
    CANNOT_VERIFY = 2


@dataclass(frozen=True)
class Report:
    """The result of checking one document."""

    # The file, and the line if the file has several documents.
    source: str
    outcome: Outcome
    proved: list[str]
    errors: list[str]
    not_proved: list[str]
    # For programs: what was proved, as signed, and the calls of an export that differ.
    receipt: Body | None = None
    call: Body | None = None
    calls: dict[str, list[str]] | None = None

    def text(self) -> str:
        lines = [f"{quoted(self.source)}: {self.outcome.name.replace('_', ' ')}"]
        lines += [f"  {line}" for line in self.proved]
        lines += [f"  Error: {line}" for line in self.errors]
        lines += [f"  Not proved: {line}" for line in self.not_proved]
        return "\n".join(lines)

    def json(self) -> str:
        members = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(members | {"outcome": self.outcome.name.lower()})


def failure_report(source: str, error: NotVerified | CannotVerify) -> Report:
    not_verified = isinstance(error, NotVerified)
    outcome = Outcome.NOT_VERIFIED if not_verified else Outcome.CANNOT_VERIFY
    return Report(source, outcome, [], [f"{error}."], [])


def quoted(value: Any) -> str:
    """Quote a value that others wrote: terminals interpret control characters."""
    return json.dumps(value)


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# These hold for every receipt.
NOT_PROVED = [
    "that the calls took place or used these tokens; the client reported them.",
    "when the receipt was signed; the issuer states the time.",
    "that nothing was omitted, or that others see the same receipts; no public log has them.",
]
_OTHER_FIELDS = "anything else in the file; rely only on what is printed here."


def receipt_report(source: str, receipt: Body) -> Report:
    not_proved = [*NOT_PROVED, _OTHER_FIELDS]
    if receipt["kind"] == LEGACY:
        proved = list(_describe_legacy(receipt))
    elif receipt["kind"] == "batch":
        proved = [f"{_statement(receipt)}:", *_describe_batch(receipt)]
        not_proved.insert(0, "which calls these are; use `proof` or `export`.")
    else:
        proved = [f"{_statement(receipt)}:", *_describe_usage(receipt)]
    return Report(source, Outcome.VERIFIED, proved, [], not_proved, receipt)


def jsonl_report(source: str, size: int, verified: int, outcome: Outcome) -> Report:
    proved = f"Signed by your trusted keys: {verified} of {counted(size, 'receipt')}."
    not_proved = ["that the receipts are all different, or complete.", *NOT_PROVED]
    return Report(source, outcome, [proved], [], not_proved)


def proof_report(source: str, receipt: Body, call: Body) -> Report:
    proved = [
        f"{_statement(receipt)} a batch of {counted(receipt['count'], 'call')}.",
        f"This call is in the batch: {_describe_call(call)}",
    ]
    return Report(source, Outcome.VERIFIED, proved, [], NOT_PROVED, receipt, call)


def _statement(receipt: Body) -> str:
    return (
        f"Key {receipt['kid']} signed receipt {receipt['receipt_id']}, in which"
        f" {quoted(receipt['issuer'])} states that at {receipt['issued_at']} it had stored for"
        f" project {receipt['project_id']}"
    )


_DIGESTS = ("lock_digest", "registry_snapshot", "content")


def _describe_usage(receipt: Body) -> Iterator[str]:
    yield f"this call: {_describe_call(receipt)}"
    for name in _DIGESTS:
        if receipt[name] is not None:
            yield f"Its {name}: {quoted(receipt[name])}."
    yield from _describe_labels(receipt)


def _describe_batch(receipt: Body) -> Iterator[str]:
    calls, cost = counted(receipt["count"], "call"), receipt["totals"]["cost"]
    tokens = _describe_tokens(receipt["totals"]["tokens"])
    unpriced = f", {cost['unpriced']} unpriced" if cost["unpriced"] else ""
    time_range = f"from {receipt['from']} to {receipt['to']}"
    yield f"{calls} {time_range}: {tokens}, {cost['amount']} USD{unpriced}."
    yield f"Their Merkle root is {receipt['leaves_root']}."
    yield from _describe_labels(receipt)


def _describe_labels(receipt: Body) -> Iterator[str]:
    if receipt["description"] is not None or receipt["tags"]:
        yield f"Description {quoted(receipt['description'])}, tags {quoted(receipt['tags'])}."


_OTHER_CALL_FIELDS = (
    "status",
    "profile",
    "alias",
    "origin",
    "id_at_origin",
    "conversation_id",
    "latency_ms",
    "details",
)


def _describe_call(call: Body) -> str:
    amount, source = call["cost"]["amount"], call["cost"]["source"]
    cost = "unpriced" if amount is None else f"{amount} USD (source: {source})"
    others = [
        f"{name} {quoted(call[name])}" for name in _OTHER_CALL_FIELDS if call[name] is not None
    ]
    return (
        f"{call['log_id']} at {call['logged_at']}: model {quoted(call['model'])} of provider"
        f" {quoted(call['provider'])}, {_describe_tokens(call['tokens'])}, {cost};"
        f" {', '.join(others)}."
    )


def _describe_tokens(tokens: dict[str, int | None]) -> str:
    if tokens["input"] is None or tokens["output"] is None:
        return "an unknown number of tokens"
    return (
        f"{counted(tokens['input'], 'input token')} ({tokens['cached_input']} cached),"
        f" {counted(tokens['output'], 'output token')}"
    )


def _describe_legacy(receipt: Body) -> Iterator[str]:
    yield f"Key {receipt['kid']} signed the 13 fields of this legacy receipt:"
    for name, value in receipt.items():
        if name not in {"kind", "kid"}:
            yield f"{name} {quoted(value)}"
