"""A receipt: what is kept of it, and what it is told as."""

from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self, cast
from uuid import UUID

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StrictBool
from typing_extensions import TypedDict

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.core.pagination import PageParams, Position
from llmring_server.core.strict_json import check_json
from llmring_server.core.time_range import Instant, TimeRange
from llmring_server.db.database import Database
from llmring_server.errors import BadRequest
from llmring_server.receipts.totals import BatchSummary, GroupTotals, ReceiptTotals
from llmring_server.usage.models import MAX_CALL_AGE
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


class StoredReceipt(NamedTuple):
    """What is kept of a receipt: what was signed, word for word."""

    id: str
    kid: str
    flat: bytes
    flat_sig: bytes
    signed: bytes | None = None
    sig: bytes | None = None
    summary: bytes | None = None

    @classmethod
    def of(cls, row: asyncpg.Record) -> "StoredReceipt":
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


class GenerateResult(TypedDict):
    """A receipt, and how many calls it certifies.

    `more`: the rest did not fit, or may not; certify it again. `uncountable`: so many calls were
    left out, each of 2^53 tokens or more.
    """

    receipt: Receipt
    certified_count: int
    more: bool
    uncountable: int


class InclusionProof(TypedDict):
    """That a call is in a batch: what `llmring-verify` needs beside the keys."""

    envelope: Envelope
    call: dict[str, Any]
    leaf_index: int
    tree_size: int
    path: list[str]


class Certifying(Protocol):
    """Where calls get their receipts."""

    async def certify(self, project_id: ProjectId, log_id: UUID) -> Receipt | None: ...
    def with_database(self, database: Database) -> Self: ...


NO_MODE = "Must specify one of: conversation_id, date range, log_ids, or since_last_receipt"


_EVER = datetime(1971, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)


_FROM_A_CLOCK = 7


def _written(value: object) -> object:
    if value is not None and not isinstance(value, str | date):
        raise ValueError("must be a date or a time")
    return value


When = Annotated[Instant, BeforeValidator(_written)]


Tag = Annotated[str, Field(max_length=100), AfterValidator(check_json)]


class ReceiptRequest(TimeRange):
    """Which calls to certify, in one of four ways; of several, the first in this order.

    `conversation_id`: those of a conversation. `start_date` and `end_date`: those of a span, both
    included. `log_ids`: those. `since_last_receipt`: those that no receipt has certified, the
    oldest first, up to 250,000.
    """

    conversation_id: UUID | None = None
    start_date: When | None = None
    end_date: When | None = None
    log_ids: Annotated[list[UUID], Field(max_length=10_000)] | None = None
    since_last_receipt: StrictBool = False
    description: Annotated[str, Field(max_length=1000), AfterValidator(check_json)] | None = None
    tags: Annotated[list[Tag], Field(max_length=50)] | None = None

    def where(self) -> dict[str, Any]:
        """Return the parameters of the statement that finds them."""
        of, (since, until) = self.conversation_id, _EVER
        if of:
            since = moment_of(of) - MAX_CALL_AGE if of.version == _FROM_A_CLOCK else since
        elif self.start_date and self.end_date:
            since, until = self.bounds()
        else:
            raise BadRequest(NO_MODE)
        return {"since": since, "until": until, "conversation_id": of and str(of)}

    @property
    def rest(self) -> bool:
        """Tell whether those are wanted that no receipt has certified."""
        dates = self.start_date and self.end_date
        return self.since_last_receipt and not (self.conversation_id or dates or self.log_ids)

    def named(self) -> list[UUID]:
        """Return the ids of the calls that are wanted, if that is the way."""
        if self.conversation_id or (self.start_date and self.end_date):
            return []
        return sorted(set(self.log_ids or ()))


class IssueRequest(BaseModel, strict=True):
    """One call, by its id."""

    log_id: Annotated[UUID, Field(strict=False)]


class ReceiptPage(PageParams):
    """A page of receipts, the newest first."""

    limit: int = Field(100, ge=1, le=10_000)

    def next(self, project_id: ProjectId, last: UUID) -> str:
        return self.following(project_id, Position(moment_of(last), last))


class OffsetPage(BaseModel):
    """A stretch of a list of calls."""

    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)


NOTHING = "No logs found matching the criteria"


class ReceiptCall(TypedDict):
    """A call that a receipt certifies, or none does yet; an unknown cost is 0, `unpriced`."""

    id: UUID
    type: Literal["usage"]
    timestamp: datetime
    logged_at: datetime
    provider: str
    model: str
    alias: str
    profile: str
    origin: str | None
    status: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost: Decimal
    cost_source: str


def receipt_call(row: asyncpg.Record) -> ReceiptCall:
    found = dict(row)
    alias = found["alias"] or "default"
    made: Any = found | {"type": "usage", "timestamp": found["logged_at"], "alias": alias}
    return cast("ReceiptCall", made)


class ReceiptCallPage(TypedDict):
    """A stretch of a list of calls; `total` counts no further than 100,000."""

    logs: list[ReceiptCall]
    total: int
    limit: int
    offset: int


class ReceiptCalls(ReceiptCallPage):
    """A stretch of the calls of a receipt that are still kept; `total`: all that it certifies."""

    receipt_id: str


class ReceiptPreview(TypedDict):
    """What a receipt would certify."""

    total_logs: int
    total_conversations: int
    total_tokens: int
    total_cost: float
    start_date: str | None
    end_date: str | None
    by_model: dict[str, GroupTotals]
    by_alias: dict[str, GroupTotals]
    receipt_type: Literal["single", "batch"] | None
    message: str | None


def receipt_preview(tally: ReceiptTotals) -> ReceiptPreview:
    """Return what a receipt of these calls would say; Invalid if there can be none."""
    tally.totals()
    told = tally.summary()
    return {
        "total_logs": tally.count,
        "total_conversations": told["total_conversations"],
        "total_tokens": told["total_tokens"],
        "total_cost": told["total_cost"],
        "start_date": told["start_date"],
        "end_date": told["end_date"],
        "by_model": told["by_model"],
        "by_alias": told["by_alias"],
        "receipt_type": ("single" if tally.count == 1 else "batch") if tally.count else None,
        "message": None if tally.count else NOTHING,
    }
