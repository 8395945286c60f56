"""Usage models: a call as its client reports it, as it is stored, and as it is selected."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.core.money import without_trailing_zeros
from llmring_server.core.pagination import PageParams, Position
from llmring_server.core.strict_json import NOT_BLANK, FreeJsonObject, load_json
from llmring_server.core.time_range import TimeRange
from llmring_server.pricing.cost import USAGE_FIELDS
from llmring_server.pricing.price_book import CostSource

# How far from the present the time of a new call may lie.
MAX_CALL_AGE = timedelta(days=400)
MAX_CLOCK_SKEW = timedelta(minutes=10)


def _exact_decimal(value: object) -> object:
    """Read a number by its digits: 0.1 is a tenth, not the float next to it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    return value


def _check_call_time(logged_at: datetime) -> datetime:
    if not -MAX_CALL_AGE <= logged_at - datetime.now(UTC) <= MAX_CLOCK_SKEW:
        raise ValueError("must lie between 400 days ago and 10 minutes ahead")
    return logged_at


Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Money = Annotated[Decimal, Field(ge=0, lt=10**9), BeforeValidator(_exact_decimal)]
CallTime = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_check_call_time)]
IdempotencyKeyText = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
Status = Literal["ok", "error", "timeout", "cancelled"]
Label = Annotated[str, Field(max_length=255)]


class NewCall(BaseModel, strict=True):
    """One LLM call, as its client reports it. Cost is in USD; a null count is 0.

    Token counts overlap as in OpenTelemetry's `gen_ai.usage`: audio tokens are part of input
    tokens, cached audio tokens of both audio and cached tokens, reasoning tokens of output tokens,
    and one-hour cache writes of all cache writes. `logged_at` lies at most 400 days in the past and
    10 minutes in the future. `metadata` is at most 64 KiB of JSON.
    """

    provider: Annotated[str, Field(max_length=50, pattern=NOT_BLANK)]
    model: Annotated[str, Field(max_length=255, pattern=NOT_BLANK)]
    input_tokens: Count | None
    output_tokens: Count | None
    cached_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation_1h_input_tokens: Count | None = None
    audio_input_tokens: Count | None = None
    image_input_tokens: Count | None = None
    video_input_tokens: Count | None = None
    cached_audio_input_tokens: Count | None = None
    cached_image_input_tokens: Count | None = None
    audio_output_tokens: Count | None = None
    image_output_tokens: Count | None = None
    reasoning_output_tokens: Count | None = None
    web_searches: Count | None = None
    service_tier: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    cost: Money | None = None
    status: Status = "ok"
    latency_ms: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    alias: Annotated[str, Field(max_length=128)] | None = None
    profile: Annotated[str, Field(max_length=64)] | None = None
    origin: Annotated[str, Field(max_length=255)] | None = None
    id_at_origin: Annotated[str, Field(max_length=1024)] | None = None
    logged_at: CallTime | None = None
    metadata: FreeJsonObject | None = None
    idempotency_key: IdempotencyKeyText | None = None

    def details(self) -> dict[str, Any]:
        """Return the usage that is reported beyond input, output and cached tokens."""
        # Most calls report nothing more, and looking at each field would double the cost of
        # preparing a call.
        reported = self.model_fields_set & DETAILS
        return self.model_dump(include=reported, exclude_none=True) if reported else {}


DETAILS = {*USAGE_FIELDS, "service_tier"}


class CallFilter(TimeRange):
    """Selects the calls of a time range that have exactly these labels."""

    log_id: UUID | None = Field(None, description="Only the call with this id.")
    provider: Label | None = Field(None, description="Only calls of this provider.")
    model: Label | None = Field(None, description="Only calls of this model.")
    alias: Label | None = Field(None, description="Only calls through this alias.")
    profile: Label | None = Field(None, description="Only calls with this profile.")
    origin: Label | None = Field(None, description="Only calls of this origin.")
    id_at_origin: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Only calls with this id at their origin."
    )

    def params(self) -> dict[str, Any]:
        """Return the parameters of a statement that selects these calls."""
        labels = self.model_dump(include=set(CallFilter.__annotations__))
        since, until = self.bounds()
        if self.log_id and not self.start_date and not self.end_date:
            # An id contains the millisecond of its call.
            since = moment_of(self.log_id)
            until = since + timedelta(milliseconds=1)
        return labels | {"since": since, "until": until}


class CallPage(CallFilter, PageParams):
    """One page of the selected calls, newest first."""

    def next(self, project_id: ProjectId, last: "Call") -> str:
        """Return the cursor of the next page, given the last call of this one."""
        return self.following(project_id, Position(last.logged_at, last.id))


@dataclass(slots=True)
class Call:
    """One stored call. If no price is known, `cost` is 0 and `cost_source` is `unpriced`.

    `cost` is the present cost; re-rating added `adjustment` to it. `first_cost` is the cost at the
    time of logging, or null if no price was known; receipts certify this cost.
    """

    id: UUID
    logged_at: datetime
    provider: str
    model: str
    alias: str | None
    profile: str
    origin: str | None
    id_at_origin: str | None
    status: Status
    latency_ms: int | None
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost: Decimal
    cost_source: CostSource
    adjustment: Decimal
    first_cost: Decimal | None
    first_cost_source: CostSource
    details: dict[str, Any] | None
    metadata: dict[str, Any]
    conversation_id: UUID | None = None

    @classmethod
    def from_rows(cls, rows: Sequence[asyncpg.Record]) -> list[Self]:
        """Read the rows of a statement that selects the columns of CALL_COLUMNS in this order."""
        if rows:
            _check_columns(rows[0])
        return [cls._from_row(row) for row in rows]

    @classmethod
    async def from_stream(cls, rows: AsyncGenerator[asyncpg.Record]) -> AsyncGenerator[Self]:
        """Read a stream of such rows, and close it at the end."""
        checked = False
        async with aclosing(rows):
            async for row in rows:
                if not checked:
                    _check_columns(row)
                    checked = True
                yield cls._from_row(row)

    @classmethod
    def _from_row(cls, row: asyncpg.Record) -> Self:
        # By position, which takes a fifth of the time that names would take.
        *values, details, metadata_json = row
        metadata = load_json(metadata_json)
        conversation_id = _conversation_id(metadata)
        return cls(*(*values, details and orjson.loads(details), metadata, conversation_id))


# The columns of a statement that selects calls. They are also those of a CSV export, whose readers
# rely on their order.
CALL_COLUMNS = tuple(name for name in Call.__slots__ if name != "conversation_id")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _check_columns(row: asyncpg.Record) -> None:
    """Check the columns of one row, which are those of all rows of its statement.

    Most columns are text, so values in a wrong order would go unnoticed.
    """
    columns = tuple(row.keys())
    if columns != CALL_COLUMNS:
        raise TypeError(f"the columns of a call are {CALL_COLUMNS}, not {columns}")


def _conversation_id(metadata: dict[str, Any]) -> UUID | None:
    """Return the conversation that a call belongs to according to its metadata."""
    text = metadata.get("conversation_id")
    return UUID(text) if isinstance(text, str) and _UUID.fullmatch(text) else None


class LogResult(NamedTuple):
    """The result of logging a call; `replayed` if its key had stored it before."""

    log_id: UUID
    timestamp: datetime
    # With the ten decimals of its column, as JSON is written of it without another conversion.
    stored_cost: Decimal | None
    cost_source: str
    replayed: bool = False

    @property
    def cost(self) -> Decimal | None:
        """The cost in USD without trailing zeros, or None if the call is unpriced."""
        return None if self.stored_cost is None else without_trailing_zeros(self.stored_cost)
