"""One LLM call, as its client reports it."""

import re
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
from llmring_server.core.pagination import PageParams, Position
from llmring_server.core.strict_json import JsonObject
from llmring_server.core.time_range import TimeRange
from llmring_server.pricing.cost import USAGE_FIELDS

MAX_AGE, MAX_AHEAD = timedelta(days=-400), timedelta(minutes=10)


def _exact(value: object) -> object:
    """Take the number that was written: 0.1 is a tenth, not the float next to it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    return value


def _near(moment: datetime) -> datetime:
    if not MAX_AGE <= moment - datetime.now(UTC) <= MAX_AHEAD:
        raise ValueError("must lie between 400 days ago and 10 minutes ahead")
    return moment


Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


Money = Annotated[Decimal, Field(ge=0, lt=10**9), BeforeValidator(_exact)]


CallTime = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_near)]


IdempotencyKeyText = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


Status = Literal["ok", "error", "timeout", "cancelled"]


class NewCall(BaseModel, strict=True):
    """One LLM call as the client reports it; USD, tokens, milliseconds; null counts are 0.

    Tokens of a kind are part of those that hold them, as in OpenTelemetry's `gen_ai.usage`: audio
    of input, cached audio of both, reasoning of output, one-hour writes of all writes to a cache.
    `logged_at` lies at most 400 days back and 10 minutes ahead; metadata are at most 64 KiB.
    """

    provider: Annotated[str, Field(max_length=50, pattern=r"\S")]
    model: Annotated[str, Field(max_length=255, pattern=r"\S")]
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
    id_at_origin: Annotated[str, Field(max_length=255)] | None = None
    logged_at: CallTime | None = None
    metadata: JsonObject | None = None
    idempotency_key: IdempotencyKeyText | None = None

    def details(self) -> dict[str, Any]:
        """Return what it says beyond input, output and cached tokens."""
        # Most calls say nothing more, and a look at each field costs as much as a whole record.
        given = self.model_fields_set & DETAILS
        return self.model_dump(include=given, exclude_none=True) if given else {}


DETAILS = {*USAGE_FIELDS, "service_tier"}


Label = Annotated[str, Field(max_length=255)]


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class CallFilter(TimeRange):
    """Which calls: of a span of time, with exactly these labels."""

    log_id: UUID | None = None
    provider: Label | None = None
    model: Label | None = None
    alias: Label | None = None
    profile: Label | None = None
    origin: Label | None = None
    id_at_origin: Label | None = None

    def where(self) -> dict[str, Any]:
        """Return the parameters of the statement that finds them."""
        found = self.model_dump(include=set(CallFilter.__annotations__))
        since, until = self.bounds()
        if self.log_id and not self.start_date and not self.end_date:
            # A call's id tells its millisecond.
            since = moment_of(self.log_id)
            until = since + timedelta(milliseconds=1)
        return found | {"since": since, "until": until}


class CallPage(CallFilter, PageParams):
    """One page of them, newest first."""

    def next(self, project_id: ProjectId, last: "Call") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(project_id, Position(last.logged_at, last.id))


@dataclass(slots=True)
class Call:
    """One call as it was stored; an unknown cost is 0 with the source `unpriced`.

    `cost` is what it costs by now: `adjustment` of it came by re-rating. `first_cost`, which may
    be null, is what it was stored with, and what a receipt certifies.
    """

    id: UUID
    logged_at: datetime
    provider: str
    model: str
    alias: str | None
    profile: str
    origin: str | None
    id_at_origin: str | None
    status: str
    latency_ms: int | None
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost: Decimal
    cost_source: str
    adjustment: Decimal
    first_cost: Decimal | None
    first_cost_source: str
    details: dict[str, Any] | None
    metadata: dict[str, Any]
    conversation_id: UUID | None = None

    @classmethod
    def of(cls, row: asyncpg.Record) -> Self:
        # By place, which takes a fifth of the time: the statement names them in this order.
        *told, details, text = row
        metadata = orjson.loads(text)
        linked = _id_in(metadata)
        return cls(*(*told, details and orjson.loads(details), metadata, linked))


def _id_in(metadata: dict[str, Any]) -> UUID | None:
    """Return the conversation that a call says to belong to."""
    told = metadata.get("conversation_id")
    return UUID(told) if isinstance(told, str) and _UUID.fullmatch(told) else None


class LogResult(NamedTuple):
    """What became of an entry; `replayed` if its key had stored it before."""

    log_id: UUID
    timestamp: datetime
    cost: Decimal | None
    cost_source: str
    replayed: bool = False
