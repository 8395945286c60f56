"""A second implementation of receipts, written from docs/receipts/format.md alone.

It uses PyNaCl and rfc8785, and computes Merkle trees recursively as RFC 6962 defines them.
"""

import json
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any
from uuid import UUID

import rfc8785
from nacl.signing import SigningKey

Document = dict[str, Any]

ISSUER = "logs.example.org/llmring"
PROJECT = "019a0000-0000-7000-8000-0000000000aa"
SPKI = bytes.fromhex("302a300506032b6570032100")
COMMON = ("description", "tags")
MOMENT = "2026-11-21T07:{:02}:{:02}.{:06}Z"


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


class Signer:
    """A signing key, derived from a number."""

    def __init__(self, number: int, state: str) -> None:
        self.key = SigningKey(bytes(range(32)) if number == 0 else bytes([number]) * 32)
        self.public = bytes(self.key.verify_key)
        self.kid = sha256(SPKI + self.public).hexdigest()[:8]
        self.state = state

    def key_entry(self) -> Document:
        at = "2026-11-01T00:00:00.000000Z"
        return {
            "kid": self.kid,
            "alg": "Ed25519",
            "x": b64(self.public),
            "state": self.state,
            "not_before": at,
            "retired_at": at if self.state == "retired" else None,
            "compromised_at": at if self.state == "compromised" else None,
        }

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data).signature

    def envelope(self, body: Document, data: bytes | None = None) -> Document:
        """Sign a receipt, valid or not, and return its envelope."""
        data = data or b"llmring-receipt/1\n" + rfc8785.dumps(body)
        return {
            "receipt": body,
            "signature": {"alg": "Ed25519", "kid": body["kid"], "sig": b64(self.sign(data))},
            "signed_sha256": sha256(data).hexdigest(),
        }


ACTIVE, RETIRED, NEXT = Signer(0, "active"), Signer(1, "retired"), Signer(2, "next")
COMPROMISED, STRANGER = Signer(3, "compromised"), Signer(4, "active")
KEY_FILE: Document = {
    "issuer": ISSUER,
    "keys": [each.key_entry() for each in (ACTIVE, RETIRED, NEXT, COMPROMISED)],
}


def call(number: int, **changes: Any) -> Document:
    """Return a call. Ids and times grow with the number."""
    made: Document = {
        "v": "llmring-call/1",
        "log_id": str(UUID(int=0x019A0000_0000_7000_8000_000000000000 + number)),
        "logged_at": MOMENT.format(number // 60, number % 60, number * 1001 % 1_000_000),
        "provider": "openai",
        "model": "gpt-4o-mini",
        "alias": "fast" if number % 2 else None,
        "profile": "default",
        "origin": None,
        "id_at_origin": None,
        "conversation_id": None,
        "status": "ok",
        "latency_ms": 120 + number,
        "tokens": {"input": 1000 + number, "output": 10 * number, "cached_input": number},
        "details": None,
        "cost": {"currency": "USD", "amount": f"0.{number:010}", "source": "registry"},
    }
    return made | changes


def receipt_fields(number: int, signer: Signer) -> Document:
    return {
        "v": "llmring-receipt/1",
        "receipt_id": str(UUID(int=0x019A0001_0000_7000_8000_000000000000 + number)),
        "issuer": ISSUER,
        "kid": signer.kid,
        "project_id": PROJECT,
        "issued_at": MOMENT.format(50, 0, number),
        "description": None,
        "tags": [],
    }


def usage(
    number: int, of_call: Document | None = None, signer: Signer = ACTIVE, **changes: Any
) -> Document:
    one = {name: each for name, each in (of_call or call(number)).items() if name != "v"}
    nothing = {"lock_digest": None, "registry_snapshot": None, "content": None}
    return receipt_fields(number, signer) | {"kind": "usage"} | one | nothing | changes


def leaf(call: Document) -> bytes:
    return sha256(b"\0llmring-call/1\n" + rfc8785.dumps(call)).digest()


def split(leaves: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """RFC 6962, 2.1: k is the largest power of two smaller than n."""
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return leaves[:k], leaves[k:]


def root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    left, right = split(leaves)
    return sha256(b"\1" + root(left) + root(right)).digest()


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    left, right = split(leaves)
    if index < len(left):
        return [*path(index, left), root(right)]
    return [*path(index - len(left), right), root(left)]


def totals(calls: list[Document]) -> Document:
    priced = [each["cost"]["amount"] for each in calls if each["cost"]["amount"] is not None]
    cost = sum(int(amount.replace(".", "")) for amount in priced)
    names = ("input", "output", "cached_input")
    return {
        "tokens": {name: sum(each["tokens"][name] for each in calls) for name in names},
        "cost": {
            "currency": "USD",
            "amount": f"{cost // 10**10}.{cost % 10**10:010}",
            "unpriced": len(calls) - len(priced),
        },
    }


def batch(number: int, calls: list[Document], signer: Signer = ACTIVE, **changes: Any) -> Document:
    times = sorted(each["logged_at"] for each in calls)
    ordered = sorted(calls, key=lambda each: each["log_id"])
    body = {
        "kind": "batch",
        "from": times[0],
        "to": times[-1],
        "count": len(calls),
        "totals": totals(calls),
        "leaves_root": root([leaf(each) for each in ordered]).hex(),
        "summary_sha256": sha256(rfc8785.dumps(SUMMARY)).hexdigest(),
    }
    return receipt_fields(number, signer) | body | changes


SUMMARY: Document = {
    "total_calls": 3,
    "total_cost": 0.0000000006,
    "by_model": {"é": {"cost": 1e-7}},
}


def proof(envelope: Document, calls: list[Document], index: int) -> Document:
    found = path(index, [leaf(each) for each in calls])
    return {
        "envelope": envelope,
        "call": calls[index],
        "leaf_index": index,
        "tree_size": len(calls),
        "path": [each.hex() for each in found],
    }


def export_line(call: Document) -> str:
    """Write a call as the server exports it: short times, costs as numbers, and metadata."""
    tokens, cost = call["tokens"], call["cost"]
    amount = "null" if cost["amount"] is None else cost["amount"].rstrip("0").rstrip(".")
    line = {
        name: each for name, each in call.items() if name not in {"v", "log_id", "tokens", "cost"}
    }
    line |= {
        "id": call["log_id"],
        "logged_at": call["logged_at"].replace(".000000", ""),
        **{f"{name}_tokens": each for name, each in tokens.items()},
        "cost_source": cost["source"],
        "first_cost_source": cost["source"],
        "metadata": {"temperature": 0.7},
    }
    text = json.dumps(line)[:-1]
    return f'{text}, "cost": {amount if amount != "null" else 0}, "first_cost": {amount}}}\n'
