"""Many calls in one request: a JSON array, or a line of JSON for each."""

import asyncio
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from io import BytesIO
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, TypeAdapter
from starlette.responses import Response
from typing_extensions import TypedDict

from llmring_server.core.strict_json import check_values, parse_json
from llmring_server.errors import InvalidRequest, RingError
from llmring_server.usage.export import COLUMNS, CSV, JSONL, ExportQuery, _csv, _file, _jsonl
from llmring_server.usage.idempotency import batch_item_key
from llmring_server.usage.models import Call, CallPage, LogResult, NewCall
from llmring_server.usage.stats import Stats, StatsQuery
from llmring_server.web.request import (
    IdempotencyKeyHeader,
    RawBody,
    Request,
    link,
    validated,
)
from llmring_server.web.request_limits import JSON, NDJSON

REPLAYED = {b"idempotent-replayed": b"true"}


class LogResponse(TypedDict):
    """What was recorded; an unknown cost is 0 with the source `unpriced`."""

    log_id: UUID
    cost: Decimal | float
    cost_source: str
    timestamp: datetime


def log_response(logged: LogResult) -> LogResponse:
    return {
        "log_id": logged.log_id,
        "cost": 0 if logged.cost is None else logged.cost,
        "cost_source": logged.cost_source,
        "timestamp": logged.timestamp,
    }


async def log_call(request: Request, body: NewCall, key: IdempotencyKeyHeader) -> LogResponse:
    """Record a call, exactly once if it brings an Idempotency-Key."""
    logged = await request.ring.usage.log(request.project_id, body, key)
    if logged.replayed:
        request.response_headers = REPLAYED
    return log_response(logged)


async def list_calls(request: Request, query: CallPage) -> Annotated[list[Call], "Link"]:
    """List calls, newest first, a page at a time."""
    found = await request.ring.usage.logs(request.project_id, query)
    if len(found) == query.limit:
        request.response_headers = link(query, query.next(request.project_id, found[-1]))
    return found


async def usage_stats(request: Request, query: StatsQuery) -> Stats:
    """Add calls up, exactly: in total, over time, and by label."""
    return await request.ring.usage.stats(request.project_id, query)


async def export_calls(
    request: Request, query: ExportQuery
) -> Annotated[Response, {CSV: str, JSONL: Call}]:
    """Stream calls as a file, newest first: CSV, or a line of JSON for each."""
    logs = request.ring.usage.export(request.project_id, query)
    if query.format == "jsonl":
        return await _file(request, logs, _jsonl, "calls.jsonl", JSONL)
    return await _file(request, logs, _csv, "calls.csv", CSV, ",".join(COLUMNS) + "\r\n")


MAX_LINE_BYTES = 1000


Entries = Annotated[list[NewCall], Field(min_length=1, max_length=MAX_LINE_BYTES)]


_ENTRIES = TypeAdapter(list[NewCall])


class BatchOptions(BaseModel):
    """`partial`: store the good ones, and report each bad one by its index."""

    partial: bool = False


class BatchLogged(LogResponse):
    """A call that was recorded, by its place in the batch."""

    index: int


class BatchRejected(TypedDict):
    """A call that was not recorded, and why, as it would have been answered alone."""

    index: int
    status: int
    code: str
    detail: str


class BatchResponse(TypedDict):
    """What became of each call."""

    logged: list[BatchLogged]
    rejected: list[BatchRejected]


async def log_calls(
    request: Request,
    query: BatchOptions,
    body: Annotated[RawBody, {JSON: Entries, NDJSON: NewCall}],
    key: IdempotencyKeyHeader,
) -> BatchResponse:
    """Record up to 1,000 calls: an array, or a line of JSON for each."""
    values = _bounded(_values(body, partial=query.partial))
    outcomes = await (
        _each(request, values, key) if query.partial else _together(request, values, key)
    )
    if all(isinstance(each, LogResult) and each.replayed for each in outcomes):
        request.response_headers = REPLAYED
    return _report(outcomes)


def _values(body: RawBody, *, partial: bool) -> list[Any]:
    if body.media == NDJSON:
        check_values(body.data)
        # One more than may be, to see that they are too many, and not all of them.
        return list(islice(_lines(body.data, partial=partial), MAX_LINE_BYTES + 1))
    values = parse_json(body.data)
    if not isinstance(values, list):
        raise InvalidRequest("body: send an array of calls")
    return values


def _lines(data: bytes, *, partial: bool) -> Iterator[Any]:
    for number, line in enumerate(BytesIO(data), 1):
        if not line.strip():
            continue
        try:
            yield parse_json(line)
        except RingError as exc:
            at_line = type(exc)(f"{exc} (line {number} of the body)")
            if not partial:
                raise at_line from exc
            yield at_line


def _bounded(values: list[Any]) -> list[Any]:
    if not 1 <= len(values) <= MAX_LINE_BYTES:
        raise InvalidRequest(f"body: send 1 to {MAX_LINE_BYTES} calls at a time")
    return values


async def _together(request: Request, values: list[Any], key: str | None) -> list[LogResult]:
    entries = validated(_ENTRIES.validate_python, values)
    return await request.ring.usage.log_many(request.project_id, entries, key)


async def _each(
    request: Request, values: list[Any], key: str | None
) -> list[LogResult | RingError]:
    keys = [batch_item_key(key, index) if key else None for index in range(len(values))]
    return await asyncio.gather(
        *(_fetch_one(request, *each) for each in zip(values, keys, strict=True))
    )


async def _fetch_one(request: Request, value: Any, key: str | None) -> LogResult | RingError:
    if isinstance(value, RingError):
        return value
    try:
        entry = validated(NewCall.model_validate, value)
        return await request.ring.usage.log(request.project_id, entry, key)
    except RingError as exc:
        return exc


def _report(outcomes: list[LogResult] | list[LogResult | RingError]) -> BatchResponse:
    report: BatchResponse = {"logged": [], "rejected": []}
    for index, each in enumerate(outcomes):
        if isinstance(each, RingError):
            fields: BatchRejected = {
                "index": index, "status": each.status, "code": each.code, "detail": str(each),
            }  # fmt: skip
            report["rejected"].append(fields)
        else:
            report["logged"].append({"index": index, **log_response(each)})
    return report
