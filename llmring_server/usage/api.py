"""Usage API: log calls, one or many; list and export them; report statistics."""

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

from pydantic import BaseModel, Field, ValidationError
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from llmring_server.core import worker
from llmring_server.core.free_text import replace_in_free_text
from llmring_server.core.json_array import split_array
from llmring_server.core.strict_json import ParsedJson, check_values, parse_request_json
from llmring_server.core.time_slices import TimeSlices, let_others_run
from llmring_server.core.validation import errors_of, line_of
from llmring_server.core.warnings import RequestWarning
from llmring_server.errors import BadRequest, InvalidRequest, RingError
from llmring_server.pricing.price_book import CostSource
from llmring_server.usage import export
from llmring_server.usage.export import CSV_MEDIA_TYPE, JSONL_MEDIA_TYPE
from llmring_server.usage.models import (
    CALL_FIELDS,
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
    read_model,
)
from llmring_server.web.request_limits import JSON, NDJSON

REPLAYED = {b"idempotent-replayed": b"true"}

MAX_BATCH_SIZE = 1000


# One call.


class LoggedCall(TypedDict):
    """A logged call. If no price is known, `cost` is 0 and `cost_source` is `unpriced`.

    `warnings` names what is not stored as it was sent, such as fields that do not exist.
    """

    log_id: UUID
    cost: Decimal | float
    cost_source: CostSource
    timestamp: datetime
    warnings: list[RequestWarning]


def log_response(result: LogResult, warnings: list[RequestWarning]) -> LoggedCall:
    return {
        "log_id": result.log_id,
        "cost": 0 if result.stored_cost is None else result.stored_cost,
        "cost_source": result.cost_source,
        "timestamp": result.timestamp,
        "warnings": [*warnings, *result.warnings],
    }


async def log_call(request: Request, body: NewCall, key: IdempotencyKeyHeader) -> LoggedCall:
    """Log a call; exactly once if the request has an Idempotency-Key."""
    if request.is_strict:
        request.refuse_unknown_fields(body.unknown_fields, CALL_FIELDS)
    result = await request.ring.usage.log(request.project_id, body, key)
    if result.replayed:
        request.response_headers = REPLAYED
    return log_response(result, request.warnings)


# Many calls.


NewCalls = Annotated[list[NewCall], Field(min_length=1, max_length=MAX_BATCH_SIZE)]


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
    entries = await worker.run(partial(_parse_batch, body), is_large=request.has_large_body)
    results: Sequence[LoggedEntry | RingError]
    if query.partial:
        results = await _log_each(request, entries, key)
    else:
        results = await _log_all(request, entries, key)
    if all(isinstance(logged, LoggedEntry) and logged.result.replayed for logged in results):
        request.response_headers = REPLAYED
    # The response of one batch is built at a time.
    await let_others_run()
    response = _batch_response(results)
    await let_others_run()
    return response


# A part of what is between calls.
_BLANK = re.compile(rb"\s{1,65536}+")

# An entry that is not JSON is its error.
Entry: TypeAlias = ParsedJson | BadRequest


class LoggedEntry(NamedTuple):
    """A logged call, and what is not stored as it was sent."""

    result: LogResult
    warnings: list[RequestWarning]


def _parse_batch(body: RawBody) -> list[Entry]:
    check_values(body.data)
    # One call more than the maximum is enough to reject; the others are not parsed.
    parse = _parse_lines if body.media == NDJSON else _parse_array
    entries = list(islice(parse(body.data), MAX_BATCH_SIZE + 1))
    if not 1 <= len(entries) <= MAX_BATCH_SIZE:
        raise InvalidRequest(f"body: send 1 to {MAX_BATCH_SIZE} calls at a time")
    return entries


def _parse_lines(data: bytes) -> Iterator[Entry]:
    number = 1
    position = 0
    while True:
        end_of_blank = position
        while blank := _BLANK.match(data, end_of_blank):
            end_of_blank = blank.end()
        if end_of_blank == len(data):
            return
        number += data.count(b"\n", position, end_of_blank)
        # White space at the beginning of a line is part of it.
        start = max(position, data.rfind(b"\n", position, end_of_blank) + 1)
        position = data.find(b"\n", end_of_blank) + 1 or len(data)
        yield _parse_entry(data[start:position], number, 1)
        number += 1


def _parse_array(data: bytes) -> Iterator[Entry]:
    try:
        calls, may_have_nul = parse_request_json(data)
    except BadRequest:
        # The parser stops at the first error. If the entries can be told apart, it is that of one.
        entries = split_array(data, MAX_BATCH_SIZE + 1)
        if entries is None:
            raise
        return (_parse_entry(*entry) for entry in entries)
    if not isinstance(calls, list):
        raise InvalidRequest("body: send an array of calls")
    return (ParsedJson(call, may_have_nul) for call in calls)


def _parse_entry(text: bytes, line: int, column: int) -> Entry:
    try:
        return parse_request_json(text, line, column)
    except BadRequest as exc:
        return exc


async def _log_all(request: Request, entries: list[Entry], key: str | None) -> list[LoggedEntry]:
    values = []
    warnings: list[list[RequestWarning]] = []
    slices = TimeSlices()
    for index, entry in enumerate(entries):
        if isinstance(entry, BadRequest):
            raise BadRequest(f"{index}: {entry}")
        values.append(entry.value)
        warnings.append([])
        if entry.may_have_nul:
            warnings[index] += replace_in_free_text(NewCall, entry.value, (index,))
        await slices.pause()
    calls = await _validate_calls(values)
    for index, call in enumerate(calls):
        request.refuse_unknown_fields(call.unknown_fields, CALL_FIELDS, index)
    results = await request.ring.usage.log_many(request.project_id, calls, key)
    return [*map(LoggedEntry, results, warnings)]


async def _validate_calls(values: list[Any]) -> list[NewCall]:
    """Validate calls one by one, in slices; InvalidRequest has the errors of all."""
    calls: list[NewCall] = []
    errors: list[dict[str, Any]] = []
    slices = TimeSlices()
    for index, value in enumerate(values):
        try:
            calls.append(NewCall.model_validate(value))
        except ValidationError as exc:
            errors += [error | {"loc": (index, *error["loc"])} for error in errors_of(exc)]
        await slices.pause()
    if errors:
        raise InvalidRequest(line_of(errors[0]), errors=errors)
    return calls


async def _log_each(
    request: Request, entries: list[Entry], key: str | None
) -> list[LoggedEntry | RingError]:
    calls: list[NewCall | RingError] = []
    warnings: list[list[RequestWarning]] = []
    slices = TimeSlices()
    for entry in entries:
        warnings.append([])
        calls.append(_read_entry(request, entry, warnings[-1]))
        await slices.pause()
    results = await request.ring.usage.log_each(request.project_id, calls, key)
    return [
        result if isinstance(result, RingError) else LoggedEntry(result, of_call)
        for result, of_call in zip(results, warnings, strict=True)
    ]


def _read_entry(
    request: Request, entry: Entry, warnings: list[RequestWarning]
) -> NewCall | RingError:
    if isinstance(entry, BadRequest):
        return entry
    try:
        call = read_model(NewCall, entry, warnings)
        request.refuse_unknown_fields(call.unknown_fields, CALL_FIELDS)
    except RingError as exc:
        return exc
    return call


def _batch_response(results: Sequence[LoggedEntry | RingError]) -> BatchResponse:
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
            response["logged"].append({"index": index, **log_response(*result)})
    return response


# Reading.


async def list_calls(request: Request, query: CallPage) -> Annotated[list[Call], "Link"]:
    """List calls, newest first. A page of large calls ends early."""
    usage = request.ring.usage.with_unparsed_json()
    calls = await usage.logs(request.project_id, query)
    if calls:
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

    Unlike in a list of calls, unpriced costs and unknown token counts are null (empty in CSV).
    """
    calls = request.ring.usage.with_unparsed_json().export(request.project_id, query)
    if query.format == "jsonl":
        return await jsonl_response(calls, "calls.jsonl")
    chunks = export.encode_in_chunks(calls, export.encode_csv)
    return await _file_response(chunks, "calls.csv", CSV_MEDIA_TYPE, header=export.CSV_HEADER)


async def jsonl_response(calls: AsyncGenerator[ExportedCall], name: str) -> Response:
    """Return a file of JSON lines, with one call in each."""
    chunks = export.encode_in_chunks(calls, export.encode_jsonl)
    return await _file_response(chunks, name, JSONL_MEDIA_TYPE)


async def _file_response(
    chunks: AsyncGenerator[bytes], name: str, media_type: str, *, header: bytes = b""
) -> Response:
    # The first chunk is read before the response begins, so that an error still has its own status.
    first = header + await anext(chunks)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return _FileResponse(first, chunks, headers=headers, media_type=media_type)


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
