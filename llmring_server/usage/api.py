"""Usage API: log calls, one or many; list and export them; report statistics."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from io import BytesIO
from itertools import islice
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field, TypeAdapter
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from llmring_server.core.strict_json import check_values, parse_json
from llmring_server.errors import InvalidRequest, RingError
from llmring_server.pricing.price_book import CostSource
from llmring_server.usage import export
from llmring_server.usage.export import CSV_MEDIA_TYPE, JSONL_MEDIA_TYPE
from llmring_server.usage.idempotency import batch_item_key
from llmring_server.usage.models import (
    Call,
    CallFilter,
    CallPage,
    ExportedCall,
    LogResult,
    NewCall,
)
from llmring_server.usage.stats import StatsQuery, UsageStats
from llmring_server.web.request import (
    IdempotencyKeyHeader,
    RawBody,
    Request,
    link,
    validated,
)
from llmring_server.web.request_limits import JSON, NDJSON

REPLAYED = {b"idempotent-replayed": b"true"}

MAX_BATCH_SIZE = 1000


# One call.


class LoggedCall(TypedDict):
    """A logged call. If no price is known, `cost` is 0 and `cost_source` is `unpriced`."""

    log_id: UUID
    cost: Decimal | float
    cost_source: CostSource
    timestamp: datetime


def log_response(result: LogResult) -> LoggedCall:
    return {
        "log_id": result.log_id,
        "cost": 0 if result.stored_cost is None else result.stored_cost,
        "cost_source": result.cost_source,
        "timestamp": result.timestamp,
    }


async def log_call(request: Request, body: NewCall, key: IdempotencyKeyHeader) -> LoggedCall:
    """Log a call; exactly once if the request has an Idempotency-Key."""
    result = await request.ring.usage.log(request.project_id, body, key)
    if result.replayed:
        request.response_headers = REPLAYED
    return log_response(result)


# Many calls.


NewCalls = Annotated[list[NewCall], Field(min_length=1, max_length=MAX_BATCH_SIZE)]

# The number of calls is checked before they are validated.
_NEW_CALLS = TypeAdapter(list[NewCall])


class BatchOptions(BaseModel):
    """With `partial`, valid calls are stored even if others are rejected."""

    partial: bool = Field(
        default=False, description="Store valid calls even if others are rejected."
    )


class LoggedBatchCall(LoggedCall):
    """A logged call, with its index in the batch."""

    index: int


class RejectedBatchCall(TypedDict):
    """A rejected call, with its index in the batch and the error it would have had alone."""

    index: int
    status: int
    code: str
    detail: str


class BatchResponse(TypedDict):
    """The logged and the rejected calls of a batch."""

    logged: list[LoggedBatchCall]
    rejected: list[RejectedBatchCall]


async def log_calls(
    request: Request,
    query: BatchOptions,
    body: Annotated[RawBody, {JSON: NewCalls, NDJSON: NewCall}],
    key: IdempotencyKeyHeader,
) -> BatchResponse:
    """Log up to 1,000 calls, sent as a JSON array or as JSON lines."""
    values = _parse_batch(body, partial=query.partial)
    results: Sequence[LogResult | RingError]
    if query.partial:
        results = await _log_each(request, values, key)
    else:
        results = await _log_all(request, values, key)
    if all(isinstance(result, LogResult) and result.replayed for result in results):
        request.response_headers = REPLAYED
    return _batch_response(results)


def _parse_batch(body: RawBody, *, partial: bool) -> list[Any]:
    """Parse the calls of a batch; with `partial`, a line that is not JSON becomes its error."""
    if body.media == NDJSON:
        check_values(body.data)
        # One call more than the maximum is enough to reject; the others are not parsed.
        values = list(islice(_parse_lines(body.data, partial=partial), MAX_BATCH_SIZE + 1))
    else:
        values = parse_json(body.data)
        if not isinstance(values, list):
            raise InvalidRequest("body: send an array of calls")
    if not 1 <= len(values) <= MAX_BATCH_SIZE:
        raise InvalidRequest(f"body: send 1 to {MAX_BATCH_SIZE} calls at a time")
    return values


def _parse_lines(data: bytes, *, partial: bool) -> Iterator[Any]:
    for number, line in enumerate(BytesIO(data), 1):
        if not line.strip():
            continue
        try:
            yield parse_json(line)
        except RingError as exc:
            error = type(exc)(f"{exc} (line {number} of the body)")
            if not partial:
                raise error from exc
            yield error


async def _log_all(request: Request, values: list[Any], key: str | None) -> list[LogResult]:
    calls = validated(_NEW_CALLS.validate_python, values)
    return await request.ring.usage.log_many(request.project_id, calls, key)


async def _log_each(
    request: Request, values: list[Any], key: str | None
) -> list[LogResult | RingError]:
    return await asyncio.gather(
        *(
            _log_one(request, value, batch_item_key(key, index) if key else None)
            for index, value in enumerate(values)
        )
    )


async def _log_one(request: Request, value: Any, key: str | None) -> LogResult | RingError:
    if isinstance(value, RingError):
        return value
    try:
        call = validated(NewCall.model_validate, value)
        return await request.ring.usage.log(request.project_id, call, key)
    except RingError as exc:
        return exc


def _batch_response(results: Sequence[LogResult | RingError]) -> BatchResponse:
    response: BatchResponse = {"logged": [], "rejected": []}
    for index, result in enumerate(results):
        if isinstance(result, RingError):
            response["rejected"].append(
                {
                    "index": index,
                    "status": result.status,
                    "code": result.code,
                    "detail": str(result),
                }
            )
        else:
            response["logged"].append({"index": index, **log_response(result)})
    return response


# Reading.


async def list_calls(request: Request, query: CallPage) -> Annotated[list[Call], "Link"]:
    """List calls, newest first."""
    calls = await request.ring.usage.logs(request.project_id, query)
    if len(calls) == query.limit:
        request.response_headers = link(query, query.next(request.project_id, calls[-1]))
    return calls


async def get_usage_stats(request: Request, query: StatsQuery) -> UsageStats:
    """Report exact totals of calls: overall, by period, and by label."""
    return await request.ring.usage.stats(request.project_id, query)


class ExportQuery(CallFilter):
    """The calls to export, and the format."""

    format: Literal["csv", "jsonl"] = Field("csv", description="CSV or JSON lines.")


async def export_calls(
    request: Request, query: ExportQuery
) -> Annotated[Response, {CSV_MEDIA_TYPE: str, JSONL_MEDIA_TYPE: ExportedCall}]:
    """Export calls, newest first, as a stream of CSV or JSON lines.

    Unlike in a list of calls, the cost of an unpriced call is null, or empty in CSV, and so are the
    tokens of a call whose usage is unknown.
    """
    calls = request.ring.usage.export(request.project_id, query)
    if query.format == "jsonl":
        return await jsonl_response(calls, "calls.jsonl", request)
    chunks = export.encode_in_chunks(calls, export.encode_csv)
    return await _file_response(
        request, chunks, "calls.csv", CSV_MEDIA_TYPE, header=export.CSV_HEADER
    )


async def jsonl_response(
    calls: AsyncGenerator[ExportedCall], name: str, request: Request
) -> Response:
    """Return a file of JSON lines, with one call in each."""
    chunks = export.encode_in_chunks(calls, export.encode_jsonl)
    return await _file_response(request, chunks, name, JSONL_MEDIA_TYPE)


async def _file_response(
    request: Request,
    chunks: AsyncGenerator[bytes],
    name: str,
    media_type: str,
    *,
    header: bytes = b"",
) -> Response:
    chunks = _in_long_running_slot(request, chunks)
    # The first chunk is read before the response begins, so that an error still has its own status.
    first = header + await anext(chunks)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return _FileResponse(first, chunks, headers=headers, media_type=media_type)


async def _in_long_running_slot(
    request: Request, chunks: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    with request.long_running_slot():
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk


class _FileResponse(StreamingResponse):
    """A stream whose first chunk has been read; it closes the transaction behind it at the end.

    After a client disconnects, Starlette would leave the generator to the garbage collector.
    """

    def __init__(self, first: bytes, remaining: AsyncGenerator[bytes], **options: Any) -> None:
        super().__init__(_prepend(first, remaining), **options)
        self._remaining = remaining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._remaining):
            await super().__call__(scope, receive, send)


async def _prepend(first: bytes, remaining: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for chunk in remaining:
        yield chunk
