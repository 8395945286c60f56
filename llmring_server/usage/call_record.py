"""An LLM call as it is written: with its id, its time and its price, chosen once."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import uuid_utils

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import EPOCH, moment_of
from llmring_server.core.strict_json import dump_bounded_json, json_default
from llmring_server.errors import InvalidRequest
from llmring_server.pricing.cost import COST_QUANTUM, TokenUsage, normalize_usage
from llmring_server.pricing.price_book import PriceBook, PricedCall
from llmring_server.usage.idempotency import IdempotencyKey, batch_item_key, fingerprint_of_call
from llmring_server.usage.models import NewCall

MAX_METADATA_BYTES = 64 * 1024


class CallRecord(NamedTuple):
    """An entry that has been given its id, time and price: what the log statement takes."""

    project_id: ProjectId
    id: UUID
    logged_at: datetime
    quote: PricedCall
    claim: IdempotencyKey | None
    row: bytes


def _now(entry: NewCall) -> tuple[UUID, datetime]:
    """Choose an id and the time that belongs to it, both from one reading of the clock."""
    microseconds = (
        (entry.logged_at - EPOCH) // timedelta(microseconds=1)
        if entry.logged_at
        else time.time_ns() // 1000
    )
    made = uuid_utils.uuid7(nanoseconds=microseconds * 1000)
    return UUID(int=made.int), EPOCH + timedelta(0, 0, microseconds)


def _metadata(entry: NewCall) -> orjson.Fragment:
    return orjson.Fragment(dump_bounded_json(entry.metadata or {}, "metadata", MAX_METADATA_BYTES))


def _quote(entry: NewCall, book: PriceBook, details: dict[str, Any], when: datetime) -> PricedCall:
    """Price a call; what its client says that it cost, it cost."""
    if entry.cost is not None:
        if details:
            _use(entry, details)
        return PricedCall(entry.cost.quantize(COST_QUANTUM), None)
    used = _use(entry, details)
    return book.quote(entry.provider, entry.model, entry.service_tier, used, when)


def _use(entry: NewCall, details: dict[str, Any]) -> TokenUsage:
    try:
        return normalize_usage(
            entry.provider,
            entry.input_tokens or 0,
            entry.output_tokens or 0,
            entry.cached_input_tokens or 0,
            details,
        )
    except ValueError as exc:
        raise InvalidRequest(f"tokens: {exc}") from exc


def _row(entry: NewCall, details: dict[str, Any], quote: PricedCall) -> dict[str, Any]:
    row: dict[str, Any] = {
        # As text: orjson would ask us how to write a Decimal, and PostgreSQL reads either.
        "cost": None if quote.cost is None else str(quote.cost),
        "cost_source": quote.source,
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
    if quote.price:
        row["price"] = quote.price.id
    if details:
        row["details"] = details
    return row


def prepare_call(  # noqa: PLR0913, PLR0917, they are all of it
    project_id: ProjectId,
    entry: NewCall,
    book: PriceBook,
    key: str | None = None,
    within: int = 1,
    id: UUID | None = None,
) -> CallRecord:
    """Make `entry` ready to be written, once: sending the record again changes nothing.

    `book` is not read for an entry that brings its cost. An `id` that is given is a UUIDv7.
    """
    id, logged_at = (id, moment_of(id)) if id else _now(entry)
    details = entry.details()
    quote = _quote(entry, book, details, logged_at)
    row = _row(entry, details, quote)
    row.update(project_id=project_id, id=id, logged_at=logged_at)
    claim = IdempotencyKey.of(key, fingerprint_of_call(entry, within)) if key else None
    if claim:
        row.update(claim._asdict())
    return CallRecord(project_id, id, logged_at, quote, claim, orjson.dumps(row, json_default))


def prepare_calls(
    project_id: ProjectId, entries: Sequence[NewCall], book: PriceBook, key: str | None
) -> Iterator[CallRecord]:
    """Make a batch ready to be written.

    The batch's key is a key for each place in it, good for a batch of the same length.
    """
    if key is None:
        yield from (prepare_call(project_id, each, book, each.idempotency_key) for each in entries)
    elif any(each.idempotency_key for each in entries):
        raise InvalidRequest(
            "idempotency_key: give a key for the batch or for its entries, not both"
        )
    else:
        for place, each in enumerate(entries):
            yield prepare_call(
                project_id, each, book, batch_item_key(key, place), within=len(entries)
            )
