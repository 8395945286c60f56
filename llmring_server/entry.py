"""One LLM call, as its client reports it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field

from llmring_server.bounded import Json
from llmring_server.rates import FIELDS

OLDEST, NEWEST = timedelta(days=-400), timedelta(minutes=10)


def _exact(value: object) -> object:
    """Take the number that was written: 0.1 is a tenth, not the float next to it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    return value


def _near(moment: datetime) -> datetime:
    if not OLDEST <= moment - datetime.now(UTC) <= NEWEST:
        raise ValueError("must lie between 400 days ago and 10 minutes ahead")
    return moment


Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Money = Annotated[Decimal, Field(ge=0, lt=10**9), BeforeValidator(_exact)]
Moment = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_near)]
Key = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
Status = Literal["ok", "error", "timeout", "cancelled"]


class Entry(BaseModel, strict=True):
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
    logged_at: Moment | None = None
    metadata: Json | None = None
    idempotency_key: Key | None = None

    def details(self) -> dict[str, Any]:
        """Return what it says beyond input, output and cached tokens."""
        # Most calls say nothing more, and a look at each field costs as much as a whole record.
        given = self.model_fields_set & DETAILS
        return self.model_dump(include=given, exclude_none=True) if given else {}


DETAILS = {*FIELDS, "service_tier"}
