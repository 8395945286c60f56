"""Call records: calls ready to be stored, with an id, a time and a price that are chosen once.

Storing a record again, after a lost connection, changes nothing.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import EPOCH, id_at, time_at
from llmring_server.core.providers import normal_provider
from llmring_server.core.strict_json import (
    UNSTORABLE,
    dump_bounded_json,
    is_storable_text,
    json_default,
)
from llmring_server.errors import InvalidRequest
from llmring_server.pricing.cost import COST_QUANTUM, TokenUsage, normalize_usage
from llmring_server.pricing.price_book import PriceBook, PricedCall
from llmring_server.pricing.token_semantics import ReportedTokens
from llmring_server.usage.idempotency import IdempotencyKey, batch_item_key, fingerprint_of_call
from llmring_server.usage.models import NewCall

MAX_METADATA_BYTES = 64 * 1024

# Quantities of calls that are not counted in tokens.
OTHER_QUANTITIES = frozenset({"audio_seconds", "characters", "images", "requests", "video_seconds"})

TWO_KEYS = "idempotency_key: give a key for the batch or for its calls, not both"

UNPRICED = PricedCall(None, None, "the usage of the call is unknown")


class CallRecord(NamedTuple):
    """A call with its id, time and price; `row` is the JSON that `insert_calls` takes."""

    project_id: ProjectId
    id: UUID
    logged_at: datetime
    quote: PricedCall
    idempotency_key: IdempotencyKey | None
    row: bytes


def prepare_call(  # noqa: PLR0913, PLR0917, they are all of it
    project_id: ProjectId,
    call: NewCall,
    book: PriceBook,
    key: str | None = None,
    batch_size: int = 1,
    id_and_time: tuple[UUID, datetime] | None = None,
) -> CallRecord:
    """Prepare a call that was sent as one of `batch_size`.

    `book` is not read for a call that brings its cost. An id that is given is a UUIDv7 of the
    millisecond of its time.
    """
    id, logged_at = id_and_time or _id_and_time(call)
    details = call.details()
    usage_known = is_usage_known(call, details)
    quote = _price(call, book, details, logged_at, usage_known=usage_known)
    row = _row(call, details, quote, usage_known=usage_known)
    row.update(project_id=project_id, id=id, logged_at=logged_at)
    try:
        idempotency_key = None
        if key:
            idempotency_key = IdempotencyKey.of(key, fingerprint_of_call(call, batch_size))
        if idempotency_key:
            row.update(key=idempotency_key.key, fingerprint=idempotency_key.fingerprint)
        encoded = orjson.dumps(row, json_default)
    except TypeError:  # an unpaired surrogate
        _check_names(row)
        raise
    if b"\\u0000" in encoded:
        _check_names(row)
    return CallRecord(project_id, id, logged_at, quote, idempotency_key, encoded)


def prepare_calls(
    project_id: ProjectId, calls: Sequence[NewCall], book: PriceBook, key: str | None
) -> Iterator[CallRecord]:
    """Prepare a batch of calls.

    The batch's key becomes a key for each index, valid for a batch of the same size.
    """
    if key is None:
        for call in calls:
            yield prepare_call(project_id, call, book, call.idempotency_key)
    elif any(call.idempotency_key for call in calls):
        raise InvalidRequest(TWO_KEYS)
    else:
        for index, call in enumerate(calls):
            yield prepare_call(project_id, call, book, batch_item_key(key, index), len(calls))


def _id_and_time(call: NewCall) -> tuple[UUID, datetime]:
    """Choose an id and the time in it, both from one reading of the clock."""
    if call.logged_at:
        microseconds = (call.logged_at - EPOCH) // timedelta(microseconds=1)
    else:
        microseconds = time.time_ns() // 1000
    return id_at(microseconds), time_at(microseconds)


def _price(
    call: NewCall,
    book: PriceBook,
    details: dict[str, Any],
    logged_at: datetime,
    *,
    usage_known: bool,
) -> PricedCall:
    """Price a call. A cost that the client reports is used unchanged, but its usage is checked."""
    if call.cost is not None:
        if details and usage_known:
            _usage(call, details)
        return PricedCall(call.cost.quantize(COST_QUANTUM), None)
    if not usage_known:
        return UNPRICED
    usage = _usage(call, details)
    return book.quote(call.provider, call.model, call.service_tier, usage, logged_at)


def is_usage_known(call: NewCall, details: dict[str, Any]) -> bool:
    """Tell whether a call says what it used. A request that failed used nothing if it says nothing.

    One that was cancelled or timed out may have used, and be billed for, anything.
    """
    return (
        call.input_tokens is not None
        or call.output_tokens is not None
        or call.status == "error"
        or not OTHER_QUANTITIES.isdisjoint(details)
    )


def _usage(call: NewCall, details: dict[str, Any]) -> TokenUsage:
    try:
        return normalize_usage(
            ReportedTokens(
                call.provider,
                call.model,
                call.input_tokens or 0,
                call.output_tokens or 0,
                call.cached_input_tokens or 0,
                details,
            )
        )
    except ValueError as exc:
        raise InvalidRequest(f"tokens: {exc}") from exc


def _row(
    call: NewCall, details: dict[str, Any], quote: PricedCall, *, usage_known: bool
) -> dict[str, Any]:
    row: dict[str, Any] = {
        # As text: for a Decimal orjson would call `json_default`; PostgreSQL reads either.
        "cost": None if quote.cost is None else str(quote.cost),
        "cost_source": quote.source,
        "status": call.status,
        "provider": call.provider,
        "model": call.model,
        "profile": call.profile or "default",
        "alias": call.alias,
        "origin": call.origin,
        "id_at_origin": call.id_at_origin,
        "input_tokens": call.input_tokens or 0,
        "output_tokens": call.output_tokens or 0,
        "cached_input_tokens": call.cached_input_tokens or 0,
        "latency_ms": call.latency_ms,
        "metadata": _metadata(call),
    }
    if not usage_known:
        row.update(input_tokens=None, output_tokens=None)
    normal_name = normal_provider(call.provider)
    if normal_name != call.provider:
        row["normal_provider"] = normal_name
    if quote.price:
        row["price"] = quote.price.id
    if details:
        row["details"] = details
    return row


def _check_names(row: dict[str, Any]) -> None:
    """Raise InvalidRequest if a name cannot be stored, which no HTTP request has.

    The database would refuse it together with the calls of others.
    """
    for name, value in (row | row.get("details", {})).items():
        if isinstance(value, str) and not is_storable_text(value):
            raise InvalidRequest(f"{name}: {UNSTORABLE}")


def _metadata(call: NewCall) -> orjson.Fragment:
    return orjson.Fragment(dump_bounded_json(call.metadata or {}, "metadata", MAX_METADATA_BYTES))
