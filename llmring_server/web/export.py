"""Calls as a file, streamed: CSV for spreadsheets, JSON lines for programs."""

import csv
import io
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

from starlette.responses import Response, StreamingResponse

from llmring_server.pages import Labels, Log
from llmring_server.web.call import Call, render

COLUMNS = [name for name in Log.__slots__ if name != "conversation_id"]
CHUNK = 500

# What a spreadsheet takes for a formula, it may run: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Form(Labels):
    format: Literal["csv", "jsonl"] = "csv"


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    if value is None:
        return ""
    return render(value).decode().strip('"')


def _csv(logs: list[Log]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([_cell(getattr(log, name)) for name in COLUMNS] for log in logs)
    return text.getvalue().encode()


def _jsonl(logs: list[Log]) -> bytes:
    return b"".join(render(log) + b"\n" for log in logs)


async def _chunks(
    logs: AsyncIterator[Log], write: Callable[[list[Log]], bytes]
) -> AsyncIterator[bytes]:
    waiting = []
    async for log in logs:
        waiting.append(log)
        if len(waiting) == CHUNK:
            yield write(waiting)
            waiting = []
    yield write(waiting)


async def _in_turn(call: Call, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    with call.scope["app"].state.limits.exporting(call.tenant):
        async for chunk in chunks:
            yield chunk


async def _resumed(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def export(call: Call) -> Response:
    form = call.query(Form)
    write, media = (
        (_csv, "text/csv; charset=utf-8") if form.format == "csv" else (_jsonl, "application/jsonl")
    )
    chunks = _in_turn(call, _chunks(call.ring.usage.export(call.tenant, form), write))
    # Before the answer begins, so that what can go wrong still gets its own status.
    first = await anext(chunks)
    header = (",".join(COLUMNS) + "\r\n").encode() if form.format == "csv" else b""
    name = f'attachment; filename="calls.{form.format}"'
    headers = {"Content-Disposition": name}
    return StreamingResponse(_resumed(header + first, chunks), headers=headers, media_type=media)
