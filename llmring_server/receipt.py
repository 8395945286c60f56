"""A receipt: what is kept of it, and what it is told as."""

from hashlib import sha256
from typing import Any, Literal, NamedTuple, Protocol, Self, cast
from uuid import UUID

import asyncpg
import orjson
from typing_extensions import TypedDict

from llmring_server.database import Database
from llmring_server.tally import BatchSummary
from llmring_server.tenant import Tenant
from llmring_verify.legacy import FIELDS, SIGNATURE_PREFIX
from llmring_verify.receipt import base64url

Kind = Literal["single", "batch"]


class Signature(TypedDict):
    """Who signed, and how."""

    alg: Literal["Ed25519"]
    kid: str
    sig: str


class Envelope(TypedDict):
    """A receipt as it is verified: `llmring_verify.receipt` says what it holds."""

    receipt: dict[str, Any]
    signature: Signature
    signed_sha256: str


class Receipt(TypedDict):
    """A receipt in its old form, beside the `envelope` that proves it."""

    receipt_id: str
    timestamp: str
    alias: str
    profile: str
    lock_digest: str
    provider: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    input_cost: float
    output_cost: float
    total_cost: float
    signature: str
    receipt_type: Kind
    batch_summary: BatchSummary | None
    description: str | None
    tags: list[str]
    envelope: Envelope | None


_KINDS: dict[str, Kind] = {"usage": "single", "batch": "batch"}


def kind_of(model: str) -> Kind:
    """Return the kind of a receipt that has no envelope to tell it."""
    return "batch" if model.startswith("batch:") else "single"


class Stored(NamedTuple):
    """What is kept of a receipt: what was signed, word for word."""

    id: str
    kid: str
    flat: bytes
    flat_sig: bytes
    signed: bytes | None = None
    sig: bytes | None = None
    summary: bytes | None = None

    @classmethod
    def of(cls, row: asyncpg.Record) -> "Stored":
        return cls(*(row[name] for name in cls._fields))

    def told(self) -> Receipt:
        flat, envelope = orjson.loads(self.flat), self.envelope()
        body = envelope["receipt"] if envelope else {}
        kind = _KINDS[body["kind"]] if body else kind_of(flat["model"])
        told = {
            **{name: flat[name] for name in FIELDS},
            # As it always was: signed with +00:00, sent with Z.
            "timestamp": flat["timestamp"].replace("+00:00", "Z"),
            "signature": SIGNATURE_PREFIX + base64url(self.flat_sig),
            "receipt_type": kind,
            "batch_summary": orjson.loads(self.summary) if self.summary else None,
            "description": body.get("description"),
            "tags": body.get("tags", []),
            "envelope": envelope,
        }
        return cast("Receipt", told)

    def envelope(self) -> Envelope | None:
        if self.signed is None or self.sig is None:
            return None
        _, _, body = self.signed.partition(b"\n")
        return {
            "receipt": orjson.loads(body),
            "signature": {"alg": "Ed25519", "kid": self.kid, "sig": base64url(self.sig)},
            "signed_sha256": sha256(self.signed).hexdigest(),
        }


class ReceiptList(TypedDict):
    """A page of receipts, how many there are, and the cursor of the page after it."""

    receipts: list[Receipt]
    total: int
    limit: int
    offset: int
    next: str | None


class Generated(TypedDict):
    """A receipt, and how many calls it certifies.

    `more`: the rest did not fit, or may not; certify it again. `uncountable`: so many calls were
    left out, each of 2^53 tokens or more.
    """

    receipt: Receipt
    certified_count: int
    more: bool
    uncountable: int


class Proof(TypedDict):
    """That a call is in a batch: what `llmring-verify` needs beside the keys."""

    envelope: Envelope
    call: dict[str, Any]
    leaf_index: int
    tree_size: int
    path: list[str]


class Certifying(Protocol):
    """Where calls get their receipts."""

    async def certify(self, tenant: Tenant, log_id: UUID) -> Receipt | None: ...
    def on(self, database: Database) -> Self: ...
