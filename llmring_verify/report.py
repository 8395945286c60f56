"""What was proved, and what was not, in plain words."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from llmring_verify.canonical_json import Refused, Unchecked
from llmring_verify.verify import OLD, Body


class Outcome(IntEnum):
    """How a check ended; also the exit code."""

    VERIFIED = 0
    NOT_VERIFIED = 1
    UNCHECKED = 2

    def __str__(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Finding:
    """What is said of one document: about what, how it ended, and why or what that means."""

    about: str
    outcome: Outcome
    proved: list[str]
    wrong: list[str]
    not_proved: list[str]
    # For programs: what was proved as it was signed, and an export's calls that differ.
    receipt: Body | None = None
    call: Body | None = None
    calls: dict[str, list[str]] | None = None

    def plain(self) -> str:
        parts = [("", self.proved), ("Wrong: ", self.wrong), ("Not proved: ", self.not_proved)]
        told = [f"  {before}{each}" for before, found in parts for each in found]
        return "\n".join([f"{shown(self.about)}: {self.outcome}", *told])

    def json(self) -> str:
        told = {name: each for name, each in asdict(self).items() if each is not None}
        return json.dumps(told | {"outcome": str(self.outcome).lower()})


def failure(about: str, error: Refused | Unchecked) -> Finding:
    outcome = Outcome.NOT_VERIFIED if isinstance(error, Refused) else Outcome.UNCHECKED
    return Finding(about, outcome, [], [f"{error}."], [])


def shown(value: Any) -> str:
    """Quote what others wrote: a terminal obeys some characters."""
    return json.dumps(value)


def some(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


ITS_WORD = [
    "that the calls took place, or used what is told: that is their client's word.",
    "when it was signed: the time is the issuer's word.",
    "that nothing was left out, or that others are shown the same: no public log holds receipts.",
]


def of_receipt(about: str, body: Body) -> Finding:
    if body["kind"] == OLD:
        return Finding(about, Outcome.VERIFIED, list(_old(body)), [], [*ITS_WORD, _BESIDE], body)
    told = _batch(body) if body["kind"] == "batch" else _usage(body)
    lacks = ["which calls these are: `proof` and `export` show it."] * (body["kind"] == "batch")
    lacks += [*ITS_WORD, _BESIDE]
    return Finding(about, Outcome.VERIFIED, [f"{_head(body)}:", *told], [], lacks, body)


def of_many(about: str, size: int, verified: int, outcome: Outcome) -> Finding:
    told = f"Signed by keys that you trust: {verified} of {some(size, 'receipt')}."
    lacks = ["that they are all different, or all there are.", *ITS_WORD]
    return Finding(about, outcome, [told], [], lacks)


def of_proof(about: str, body: Body, call: Body) -> Finding:
    told = [
        f"{_head(body)}, for a batch of {some(body['count'], 'call')}.",
        f"Among these calls is exactly this one: {_call(call)}",
    ]
    return Finding(about, Outcome.VERIFIED, told, [], ITS_WORD, body, call)


_REST = [
    *("status", "profile", "alias", "origin", "id_at_origin"),
    *("conversation_id", "latency_ms", "details"),
]
_DIGESTS = ("lock_digest", "registry_snapshot", "content")
_BESIDE = "whatever else the file says: trust what is told here."


def _head(body: Body) -> str:
    return (
        f"Key {body['kid']} signed receipt {body['receipt_id']}: {shown(body['issuer'])} states"
        f" that at {body['issued_at']} it had stored, for project {body['project_id']}"
    )


def _usage(body: Body) -> Iterator[str]:
    yield f"this call: {_call(body)}"
    yield from (f"Its {name}: {shown(body[name])}." for name in _DIGESTS if body[name] is not None)
    yield from _labels(body)


def _batch(body: Body) -> Iterator[str]:
    calls, tokens = some(body["count"], "call"), _tokens(body["totals"]["tokens"])
    cost = body["totals"]["cost"]
    unpriced = f" and {cost['unpriced']} of unknown price" * bool(cost["unpriced"])
    yield f"{calls} from {body['from']} to {body['to']}: {tokens}, {cost['amount']} USD{unpriced}"
    yield f"Their Merkle root is {body['leaves_root']}."
    yield from _labels(body)


def _labels(body: Body) -> Iterator[str]:
    if body["description"] is not None or body["tags"]:
        yield f"Labelled {shown(body['description'])}, tags {shown(body['tags'])}."


def _call(call: Body) -> str:
    amount, source = call["cost"]["amount"], call["cost"]["source"]
    cost = "of unknown price" if amount is None else f"{amount} USD (source: {source})"
    return (
        f"{call['log_id']} at {call['logged_at']}: {shown(call['model'])} of"
        f" {shown(call['provider'])}, {_tokens(call['tokens'])}, {cost}; {_rest(call)}."
    )


def _rest(call: Body) -> str:
    return ", ".join(f"{name} {shown(call[name])}" for name in _REST if call[name] is not None)


def _tokens(tokens: dict[str, int]) -> str:
    told = f"{some(tokens['input'], 'token')} in ({tokens['cached_input']} cached)"
    return f"{told}, {tokens['output']} out"


def _old(body: Body) -> Iterator[str]:
    yield f"Key {body['kid']} signed the 13 fields of this old receipt:"
    told = {name: each for name, each in body.items() if name not in {"kind", "kid"}}
    yield from (f"{name} {shown(each)}" for name, each in told.items())
