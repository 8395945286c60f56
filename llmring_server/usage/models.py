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
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    SkipValidation,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.core.money import without_trailing_zeros
from llmring_server.core.numbers import Count, Milliseconds
from llmring_server.core.pagination import PageParams, Position
from llmring_server.core.providers import normal_provider
from llmring_server.core.strict_json import (
    NOT_BLANK,
    FreeJsonObject,
    JsonReader,
    JsonRules,
    load_json,
)
from llmring_server.core.time_range import TimeRange
from llmring_server.core.warnings import IGNORED_FIELDS, RequestWarning
from llmring_server.pricing.price_book import CostSource
from llmring_server.usage.provider_usage import (
    FIELD_ALIASES,
    ProviderUsage,
    UsageError,
    aliases_of,
    with_canonical_fields,
)

# How far from the present the time of a new call may lie.
MAX_CALL_AGE = timedelta(days=400)
MAX_CLOCK_SKEW = timedelta(minutes=10)


WRITTEN_AMOUNT = r"[0-9]{1,9}(\.[0-9]{1,20})?"
_WRITTEN_AMOUNT = re.compile(WRITTEN_AMOUNT)


def _exact_decimal(value: object) -> object:
    """Read a number by its digits: 0.1 is a tenth, not the float next to it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    # Clients that compute exactly write money as text.
    if isinstance(value, str) and _WRITTEN_AMOUNT.fullmatch(value):
        return Decimal(value)
    return value


def _to_microseconds(seconds: Decimal) -> Decimal:
    """Round to six places: of up to fifteen digits a float has every one, and so has JSON."""
    return without_trailing_zeros(round(seconds, 6))


def _check_call_time(logged_at: datetime) -> datetime:
    if not -MAX_CALL_AGE <= logged_at - datetime.now(UTC) <= MAX_CLOCK_SKEW:
        raise ValueError("must lie between 400 days ago and 10 minutes ahead")
    return logged_at


Money = Annotated[
    Decimal,
    Field(
        ge=0,
        lt=10**9,
        json_schema_extra={"type": ["number", "string"], "pattern": f"^{WRITTEN_AMOUNT}$"},
    ),
    BeforeValidator(_exact_decimal),
]
Seconds = Annotated[
    Decimal,
    # Included, so that what is rounded up to it is still valid.
    Field(ge=0, le=10**9),
    BeforeValidator(_exact_decimal),
    AfterValidator(_to_microseconds),
]
CallTime = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_check_call_time)]
IdempotencyKeyText = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
Status = Literal["ok", "error", "timeout", "cancelled"]
Label = Annotated[str, Field(max_length=255)]


def _required_unless_in_usage() -> Any:
    """Return a required field that type checkers take for optional.

    It is optional for whoever passes `usage`, from which it is filled in before validation.
    """
    return Field()


def _describe_other_names(schema: dict[str, Any]) -> None:
    """Complete the JSON schema of NewCall: other names of fields, and what may give the totals."""
    properties = schema["properties"]
    for alias, field in FIELD_ALIASES.items():
        properties[alias] = properties[field] | {"description": f"Another name of `{field}`."}
    totals = ("input_tokens", "output_tokens")
    schema["required"] = [name for name in schema["required"] if name not in totals]
    schema["allOf"] = [
        {"anyOf": [{"required": [name]} for name in ("usage", total, *aliases_of(total))]}
        for total in totals
    ]
    # Like every other model, which says nothing of unknown members.
    schema.pop("additionalProperties")


class CallDetails(BaseModel, strict=True):
    """What a call reports beyond its input, output and cached tokens."""

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
    audio_seconds: Seconds | None = None
    video_seconds: Seconds | None = None
    characters: Count | None = None
    images: Count | None = None
    requests: Count | None = None
    cache_tokens_included: bool | None = None
    reasoning_tokens_included: bool | None = None
    service_tier: Annotated[str, Field(min_length=1, max_length=32)] | None = None


DETAILS = frozenset(CallDetails.model_fields)


# Unknown members are not stored, but reported.
class NewCall(CallDetails, strict=True, extra="allow", json_schema_extra=_describe_other_names):
    """One LLM call, as its client reports it. Cost is in USD; a null count is 0.

    If neither input nor output tokens are known, nor another quantity, the usage of the call is
    unknown, and the call is unpriced unless its cost is sent. A call with the status `error` then
    counts as one that used nothing.

    Token counts overlap as in OpenTelemetry's `gen_ai.usage`: audio tokens are part of input
    tokens, cached audio tokens of both audio and cached tokens, reasoning tokens of output tokens,
    and one-hour cache writes of all cache writes. Instead of counts, `usage` may be the usage
    object of a provider. Whether input tokens include cached ones, and output tokens reasoning,
    depends on the model's API; to state it, send `cache_tokens_included` and
    `reasoning_tokens_included`. `requests` is the number of requests in the call: one by default.
    Seconds are rounded to six places, `latency_ms` to an integer. `logged_at` lies at most 400 days
    in the past and 10 minutes in the future. `metadata` is at most 64 KiB of JSON.
    """

    provider: Annotated[str, Field(max_length=50, pattern=NOT_BLANK)]
    model: Annotated[str, Field(max_length=255, pattern=NOT_BLANK)]
    input_tokens: Count | None = _required_unless_in_usage()
    output_tokens: Count | None = _required_unless_in_usage()
    cached_input_tokens: Count | None = None
    usage: Annotated[dict[str, Any] | None, SkipValidation, JsonRules(free_text=True)] = Field(
        None,
        description="The usage object of OpenAI (Chat Completions or Responses), Anthropic, Gemini,"
        " Bedrock Converse, the Vercel AI SDK or Pydantic AI, or attributes of OpenTelemetry"
        " (`gen_ai.usage.*`), as it is.",
    )
    cost: Money | None = None
    status: Status = "ok"
    latency_ms: Milliseconds | None = None
    alias: Annotated[str, Field(max_length=128)] | None = None
    profile: Annotated[str, Field(max_length=64)] | None = None
    origin: Annotated[str, Field(max_length=255)] | None = None
    id_at_origin: Annotated[str, Field(max_length=1024)] | None = None
    logged_at: CallTime | None = None
    metadata: FreeJsonObject | None = None
    idempotency_key: IdempotencyKeyText | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_other_names(cls, call: Any) -> Any:
        """Read `usage` and the other names of fields. Most calls have neither."""
        if not isinstance(call, dict) or _OTHER_NAMES.isdisjoint(call):
            return call
        try:
            return with_canonical_fields(call)
        except UsageError as exc:
            error = PydanticCustomError("usage", "{detail}", {"detail": exc.detail})
            location = tuple(exc.path.split(".")) if exc.path.startswith("usage.") else (exc.path,)
            details = InitErrorDetails(type=error, loc=location, input=None)
            raise ValidationError.from_exception_data(cls.__name__, [details]) from exc

    @property
    def unknown_fields(self) -> list[str]:
        """The members that were not understood, by path: `usage.foo`. Nothing of them is stored."""
        # Most calls have none; a property of pydantic's would take longer than the rest.
        if not self.__pydantic_extra__ and self.usage is None:
            return []
        unknown = [name for name in self.model_extra or () if name not in IGNORED_FIELDS]
        if isinstance(self.usage, ProviderUsage):
            unknown += [f"usage.{path}" for path in self.usage.unknown]
        return unknown

    def details(self) -> dict[str, Any]:
        """Return the usage that is reported beyond input, output and cached tokens."""
        # Most calls report nothing more, and looking at each field would double the cost of
        # preparing a call.
        reported = self.model_fields_set & DETAILS
        return self.model_dump(include=reported, exclude_none=True) if reported else {}


# The names of the fields of a call, to suggest one of them for an unknown name.
CALL_FIELDS = frozenset(NewCall.model_fields)

_OTHER_NAMES = frozenset({*FIELD_ALIASES, "usage"})


class CallFilter(TimeRange):
    """Selects the calls of a time range that have exactly these labels."""

    log_id: UUID | None = Field(None, description="Only the call with this id.")
    provider: Label | None = Field(
        None, description="Only calls of this provider, in any of the spellings of its name."
    )
    model: Label | None = Field(None, description="Only calls of this model.")
    alias: Label | None = Field(None, description="Only calls through this alias.")
    profile: Label | None = Field(None, description="Only calls with this profile.")
    origin: Label | None = Field(None, description="Only calls of this origin.")
    id_at_origin: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Only calls with this id at their origin."
    )

    @property
    def has_filter(self) -> bool:
        """Whether calls are read that are not selected, perhaps all of the time range.

        The id of a call holds its time, so that only calls of one millisecond are read.
        """
        return self.log_id is None and bool(
            self.model_dump(include=set(CallFilter.__annotations__), exclude_none=True)
        )

    def params(self) -> dict[str, Any]:
        """Return the parameters of a statement that selects these calls."""
        labels = self.model_dump(include=set(CallFilter.__annotations__))
        if self.provider is not None:
            labels["provider"] = normal_provider(self.provider)
        since, until = self.bounds()
        if self.log_id and not self.start_date and not self.end_date:
            # An id contains the millisecond of its call.
            since = moment_of(self.log_id)
            until = since + timedelta(milliseconds=1)
        return labels | {"since": since, "until": until}


class CallPage(CallFilter, PageParams):
    """One page of the selected calls, newest first."""

    added_filters = ("tz",)

    def next(self, project_id: ProjectId, last: "Call") -> str:
        """Return the cursor of the next page, given the last call of this one."""
        return self.following(project_id, Position(last.logged_at, last.id))


@dataclass(slots=True)
class Call:
    """One stored call. If no price is known, `cost` is 0 and `cost_source` is `unpriced`.

    `cost` is the present cost; re-rating added `adjustment` to it. `first_cost` is the cost at the
    time of logging, or null if no price was known; receipts certify this cost. If the client did
    not know what the call used, its tokens are 0 and `usage_known` is false.
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
    usage_known: bool
    conversation_id: UUID | None = None

    def __post_init__(self) -> None:
        if not self.usage_known:
            self.input_tokens = self.output_tokens = 0

    @classmethod
    def from_rows(
        cls, rows: Sequence[asyncpg.Record], read_json: JsonReader = load_json
    ) -> list[Self]:
        """Read the rows of a statement that selects the fields of a call in their order."""
        if rows:
            _check_columns(rows[0])
        return [cls._from_row(row, read_json) for row in rows]

    @classmethod
    async def from_stream(
        cls, rows: AsyncGenerator[asyncpg.Record], read_json: JsonReader = load_json
    ) -> AsyncGenerator[Self]:
        """Read a stream of such rows, and close it at the end."""
        checked = False
        async with aclosing(rows):
            async for row in rows:
                if not checked:
                    _check_columns(row)
                    checked = True
                yield cls._from_row(row, read_json)

    @classmethod
    def _from_row(cls, row: asyncpg.Record, read_json: JsonReader) -> Self:
        # By position, which takes a fifth of the time that names would take.
        *values, details, metadata, usage_known, conversation_id = row
        json_values = details and read_json(details), read_json(metadata)
        return cls(*(*values, *json_values, usage_known, conversation_id))


@dataclass(slots=True)
class ExportedCall(Call):
    """One stored call, as exports have it: like `Call`, with null for what is unknown.

    The `cost` of an unpriced call is unknown, and so are the tokens if the usage is unknown.
    """

    input_tokens: int | None  # type: ignore[assignment]
    output_tokens: int | None  # type: ignore[assignment]
    cost: Decimal | None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Keep nulls: in a file, 0 would read as a call that used nothing, or was free."""
        if self.cost_source == "unpriced":
            self.cost = None


# The columns of a CSV export. Its readers rely on their order.
CALL_COLUMNS = tuple(name for name in Call.__slots__ if name != "conversation_id")


def _check_columns(row: asyncpg.Record) -> None:
    """Check the columns of one row, which are those of all rows of its statement.

    Most columns are text, so values in a wrong order would go unnoticed.
    """
    columns = tuple(row.keys())
    if columns != Call.__slots__:
        raise TypeError(f"the columns of a call are {Call.__slots__}, not {columns}")


class LogResult(NamedTuple):
    """The result of logging a call; `replayed` if its key had stored it before.

    `warnings` tell what the call said that is not stored.
    """

    log_id: UUID
    timestamp: datetime
    # With the ten decimals of its column, as JSON is written of it without another conversion.
    stored_cost: Decimal | None
    cost_source: str
    replayed: bool = False
    warnings: Sequence[RequestWarning] = ()

    @property
    def cost(self) -> Decimal | None:
        """The cost in USD without trailing zeros, or None if the call is unpriced."""
        return None if self.stored_cost is None else without_trailing_zeros(self.stored_cost)
