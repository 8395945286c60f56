"""Models of receipts: requests for receipts, receipts as stored and as returned, lists of calls."""

from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple, Self, cast
from uuid import UUID

import asyncpg
import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StrictBool,
    model_validator,
)
from typing_extensions import TypedDict

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.core.pagination import Limit, PageParams, Position
from llmring_server.core.strict_json import JsonReader, check_json
from llmring_server.core.time_range import Instant, TimeRange
from llmring_server.errors import BadRequest
from llmring_server.pricing.price_book import CostSource
from llmring_server.receipts.totals import ReceiptBatchSummary, ReceiptGroupTotals, ReceiptTotals
from llmring_server.usage.models import Status
from llmring_verify.legacy import FIELDS, SIGNATURE_PREFIX
from llmring_verify.receipt import base64url

# Clients of older servers show these two messages.
NO_SELECTION = "Must specify one of: conversation_id, date range, log_ids, or since_last_receipt"
NO_CALLS = "No logs found matching the criteria"


# Requests.


Tag = Annotated[str, Field(max_length=100), AfterValidator(check_json)]
Selection = Literal["conversation", "period", "ids", "uncertified"]


class ReceiptRequest(TimeRange):
    """The calls to certify, selected in one of four ways; if several are given, the first counts.

    `conversation_id`: the calls of a conversation. `start_date` and `end_date`: the calls of a
    period, both ends included. `log_ids`: these calls. `since_last_receipt`: the calls that no
    receipt certifies yet, oldest first, up to 250,000.
    """

    conversation_id: UUID | None = None
    start_date: Instant | None = None
    end_date: Instant | None = None
    log_ids: Annotated[list[UUID], Field(max_length=10_000)] | None = None
    since_last_receipt: StrictBool = False
    description: Annotated[str, Field(max_length=1000), AfterValidator(check_json)] | None = None
    tags: Annotated[list[Tag], Field(max_length=50)] | None = None

    @model_validator(mode="after")
    def _start_before_end(self) -> Self:
        if self.start_date and self.end_date:
            since, until = self.bounds()
            if since >= until:
                raise ValueError("start_date lies after end_date")
        return self

    def selected_by(self) -> Selection:
        """Return the way in which calls are selected; raise BadRequest if none is given."""
        if self.conversation_id:
            return "conversation"
        if self.start_date and self.end_date:
            return "period"
        if self.log_ids:
            return "ids"
        if self.since_last_receipt:
            return "uncertified"
        raise BadRequest(NO_SELECTION)


class IssueRequest(BaseModel, strict=True):
    """The call to issue a receipt for."""

    log_id: Annotated[UUID, Field(strict=False)]


class ReceiptPage(PageParams):
    """A page of receipts, newest first."""

    limit: Limit = Field(100, ge=1, le=10_000)

    def next(self, project_id: ProjectId, last: UUID) -> str:
        """Return the cursor of the page after the receipt at position `last`."""
        return self.following(project_id, Position(moment_of(last), last))


class OffsetPage(BaseModel):
    """A page of calls, given by its offset."""

    limit: Limit = Field(100, ge=1, le=1000)
    offset: Annotated[int, Field(description="The number of calls to skip.")] = Field(
        0, ge=0, le=1_000_000
    )


# Receipts.

ReceiptType = Literal["single", "batch"]


class Signature(TypedDict):
    """The signature of a receipt, and the key that made it."""

    alg: Literal["Ed25519"]
    kid: str
    sig: str


class ReceiptEnvelope(TypedDict):
    """A receipt and its signature, as they are verified."""

    receipt: dict[str, Any]
    signature: Signature
    signed_sha256: str


class Receipt(TypedDict):
    """A receipt: flat fields for older clients, and the signed `envelope`."""

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
    receipt_type: ReceiptType
    batch_summary: ReceiptBatchSummary | None
    description: str | None
    tags: list[str]
    envelope: ReceiptEnvelope | None


def type_of_model(model: str) -> ReceiptType:
    """Return the type of a receipt without an envelope, which only its `model` shows."""
    return "batch" if model.startswith("batch:") else "single"


class StoredReceipt(NamedTuple):
    """A row of a receipt: the signed bytes in both formats, word for word.

    `id` is the UUID in the envelope, or without one, the id in the legacy fields.
    """

    id: str
    kid: str
    legacy_body: bytes
    legacy_signature: bytes
    signed: bytes | None = None
    signature: bytes | None = None
    summary: bytes | None = None

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> "StoredReceipt":
        return cls(**{name: row[name] for name in cls._fields})

    @property
    def flat_id(self) -> str:
        """The id that is signed in the legacy fields."""
        flat_id: str = orjson.loads(self.legacy_body)["receipt_id"]
        return flat_id

    def to_response(self, read_json: JsonReader = orjson.loads) -> Receipt:
        fields = orjson.loads(self.legacy_body)
        envelope = self.envelope(read_json)
        body = orjson.loads(self._signed_body()) if envelope else {}
        if envelope:
            receipt_type = "batch" if body["kind"] == "batch" else "single"
        else:
            receipt_type = type_of_model(fields["model"])
        response = {
            **{name: fields[name] for name in FIELDS},
            # Signed with +00:00, but sent with Z, as by older servers.
            "timestamp": fields["timestamp"].replace("+00:00", "Z"),
            "signature": SIGNATURE_PREFIX + base64url(self.legacy_signature),
            "receipt_type": receipt_type,
            "batch_summary": read_json(self.summary) if self.summary else None,
            "description": body.get("description"),
            "tags": body.get("tags", []),
            "envelope": envelope,
        }
        return cast("Receipt", response)

    def envelope(self, read_json: JsonReader = orjson.loads) -> ReceiptEnvelope | None:
        """Return the envelope, which a receipt that was signed elsewhere may lack."""
        if self.signed is None or self.signature is None:
            return None
        return {
            "receipt": read_json(self._signed_body()),
            "signature": {"alg": "Ed25519", "kid": self.kid, "sig": base64url(self.signature)},
            "signed_sha256": sha256(self.signed).hexdigest(),
        }

    def _signed_body(self) -> bytes:
        """Return the signed receipt as JSON; empty if there is none."""
        return (self.signed or b"").partition(b"\n")[2]


class ReceiptList(TypedDict):
    """A page of receipts, their total number, and the cursor of the next page."""

    receipts: list[Receipt]
    total: int
    limit: int
    offset: int
    next: str | None


class IssuedBatchReceipt(TypedDict):
    """A new receipt and the number of calls that it certifies.

    `has_more`: there are uncertified calls that the receipt has no room for; repeat the request.
    `skipped_count`: the number of calls that cannot be certified, because each has 2^53 tokens or
    more.
    """

    receipt: Receipt
    certified_count: int
    has_more: bool
    skipped_count: int


class InclusionProof(TypedDict):
    """A proof that a batch receipt certifies a call; `llmring-verify` checks it."""

    envelope: ReceiptEnvelope
    call: dict[str, Any]
    leaf_index: int
    tree_size: int
    path: list[str]


class ReceiptPreview(TypedDict):
    """What a receipt would certify."""

    total_logs: int
    total_conversations: int
    total_tokens: int
    total_cost: float
    start_date: str | None
    end_date: str | None
    by_model: dict[str, ReceiptGroupTotals]
    by_alias: dict[str, ReceiptGroupTotals]
    receipt_type: ReceiptType | None
    message: str | None


def receipt_preview(totals: ReceiptTotals) -> ReceiptPreview:
    """Return what a receipt of these calls would state; raise InvalidRequest if it cannot."""
    totals.check_countable()
    summary = totals.summary()
    receipt_type: ReceiptType = "single" if totals.count == 1 else "batch"
    return {
        "total_logs": totals.count,
        "total_conversations": summary["total_conversations"],
        "total_tokens": summary["total_tokens"],
        "total_cost": summary["total_cost"],
        "start_date": summary["start_date"],
        "end_date": summary["end_date"],
        "by_model": summary["by_model"],
        "by_alias": summary["by_alias"],
        "receipt_type": receipt_type if totals.count else None,
        "message": None if totals.count else NO_CALLS,
    }


# Calls, certified or not.


class ReceiptCall(TypedDict):
    """A call of a receipt, or an uncertified call. The cost of an unpriced call is 0.

    If its usage is unknown, its tokens are 0 and `usage_known` is false.

    `timestamp` equals `logged_at`.
    """

    id: UUID
    type: Literal["usage"]
    timestamp: datetime
    logged_at: datetime
    provider: str
    model: str
    alias: str
    profile: str
    origin: str | None
    status: Status
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost: Decimal
    cost_source: CostSource
    usage_known: bool


def receipt_call(row: asyncpg.Record) -> ReceiptCall:
    call: Any = dict(row)
    call |= {
        "type": "usage",
        "timestamp": row["logged_at"],
        "alias": row["alias"] or "default",
    }
    return cast("ReceiptCall", call)


class ReceiptCallPage(TypedDict):
    """A page of calls. `total` is their number, counted up to 100,000."""

    logs: list[ReceiptCall]
    total: int
    limit: int
    offset: int


class ReceiptCalls(ReceiptCallPage):
    """A page of a receipt's calls that are still stored. `total` counts all that it certifies."""

    receipt_id: str
