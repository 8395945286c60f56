"""One LLM call: as a client reports it, and as it is written."""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Literal, NamedTuple
from uuid import UUID

import orjson
import uuid_utils
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field

from llmring_server.bounded import Json
from llmring_server.errors import Invalid
from llmring_server.tenant import Tenant

OLDEST, NEWEST = timedelta(days=-400), timedelta(minutes=10)
_DIGITS = 30
METADATA_BYTES = 64 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT = Decimal(1).scaleb(-10)


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
Money = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=10**9 - _UNIT)]
Moment = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_near)]
Key = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
Status = Literal["ok", "error", "timeout", "cancelled"]


class Entry(BaseModel, strict=True):
    """One LLM call as the client reports it; USD, tokens, milliseconds; null counts are 0."""

    provider: Annotated[str, Field(max_length=50, pattern=r"\S")]
    model: Annotated[str, Field(max_length=255, pattern=r"\S")]
    input_tokens: Count | None
    output_tokens: Count | None
    cached_input_tokens: Count | None = None
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


class Record(NamedTuple):
    """An entry that has been given its id, time and price: what the log statement takes."""

    tenant: Tenant
    id: UUID
    logged_at: datetime
    cost: Decimal | None
    cost_source: str
    key: UUID | None
    fingerprint: UUID | None
    row: bytes


def moment_of(id: UUID) -> datetime:
    """Return the millisecond that a UUIDv7 was made in (RFC 9562)."""
    # Any other UUID may name a time beyond the calendar: then, a time when nothing happened.
    return _EPOCH + timedelta(milliseconds=min(id.int >> 80, 10**14))


def plain(value: object) -> orjson.Fragment | str:
    """Write in JSON what orjson cannot: a Decimal as the number it is, exactly."""
    if isinstance(value, Decimal):
        value = value.normalize()
        # No amount of money is written so, but 1e-400 must not become 400 digits.
        return orjson.Fragment(f"{value:f}" if abs(value.adjusted()) < _DIGITS else str(value))
    if isinstance(value, UUID):
        return str(value)
    raise TypeError


def _digest(data: bytes) -> UUID:
    return UUID(bytes=sha256(data).digest()[:16])


def _fingerprint(entry: Entry, within: int) -> UUID:
    """Digest what the client sent, whatever its spelling, as one of `within` entries."""
    fields = entry.model_dump(exclude={"idempotency_key"})
    return _digest(orjson.dumps([within, fields], plain, orjson.OPT_SORT_KEYS))


def _now(entry: Entry) -> tuple[UUID, datetime]:
    """Choose an id and the time that belongs to it, both from one reading of the clock."""
    microseconds = (
        (entry.logged_at - _EPOCH) // timedelta(microseconds=1)
        if entry.logged_at
        else time.time_ns() // 1000
    )
    made = uuid_utils.uuid7(nanoseconds=microseconds * 1000)
    return UUID(int=made.int), _EPOCH + timedelta(microseconds=microseconds)


def _metadata(entry: Entry) -> orjson.Fragment:
    try:
        text = orjson.dumps(entry.metadata or {}, plain)
    except TypeError as exc:
        raise Invalid("metadata: must be plain JSON") from exc
    if len(text) > METADATA_BYTES:
        raise Invalid("metadata: must be at most 64 KiB of JSON")
    return orjson.Fragment(text)


def _priced(entry: Entry) -> tuple[Decimal | None, str]:
    if entry.cost is None:
        return None, "unpriced"
    return entry.cost.quantize(_UNIT), "client"


def record(tenant: Tenant, entry: Entry, key: str | None = None, within: int = 1) -> Record:
    """Make `entry` ready to be written, once: sending the record again changes nothing."""
    id, logged_at = _now(entry)
    cost, cost_source = _priced(entry)
    claim = _digest(key.encode()) if key else None
    fingerprint = _fingerprint(entry, within) if key else None
    row = {
        "tenant": tenant,
        "id": id,
        "logged_at": logged_at,
        "key": claim,
        "fingerprint": fingerprint,
        "cost": cost,
        "cost_source": cost_source,
        "status": entry.status,
        "provider": entry.provider,
        "model": entry.model,
        "profile": entry.profile or "default",
        "alias": entry.alias,
        "origin": entry.origin,
        "id_at_origin": entry.id_at_origin,
        "input_tokens": entry.input_tokens or 0,
        "output_tokens": entry.output_tokens or 0,
        "cached_input_tokens": entry.cached_input_tokens or 0,
        "latency_ms": entry.latency_ms,
        "metadata": _metadata(entry),
    }
    return Record(
        tenant, id, logged_at, cost, cost_source, claim, fingerprint, orjson.dumps(row, plain)
    )
