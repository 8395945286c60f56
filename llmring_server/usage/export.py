"""Calls as a file, streamed: CSV for spreadsheets, JSON lines for programs."""

import csv
import io
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Literal

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llmring_server.usage.models import Call, CallFilter
from llmring_server.web.request import Request, render

COLUMNS = [name for name in Call.__slots__ if name != "conversation_id"]


CHUNK = 500


# What a spreadsheet takes for a formula, it may run: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r")


Write = Callable[[list[Call]], bytes]


CSV, JSONL = "text/csv; charset=utf-8", "application/jsonl"


class ExportQuery(CallFilter):
    """In which form, and which calls."""

    format: Literal["csv", "jsonl"] = "csv"


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    if value is None:
        return ""
    return render(value).decode().strip('"')


def _csv(logs: list[Call]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([_cell(getattr(log, name)) for name in COLUMNS] for log in logs)
    return text.getvalue().encode()


def _jsonl(logs: list[Call]) -> bytes:
    return b"".join(render(log) + b"\n" for log in logs)


async def _chunks(logs: AsyncGenerator[Call], write: Write) -> AsyncGenerator[bytes]:
    waiting = []
    async with aclosing(logs):
        async for log in logs:
            waiting.append(log)
            if len(waiting) == CHUNK:
                yield write(waiting)
                waiting = []
    yield write(waiting)


async def _in_turn(request: Request, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    with request.long_running_slot():
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk


async def _resumed(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


class _File(StreamingResponse):
    """A file of which the first chunk is there; however it ends, so does the transaction behind it.

    Starlette leaves the generator of a client that has gone to the garbage collector.
    """

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], **more: Any) -> None:
        super().__init__(_resumed(first, rest), **more)
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            await super().__call__(scope, receive, send)


async def _file(  # noqa: PLR0913, PLR0917, they are all of it
    request: Request,
    logs: AsyncGenerator[Call],
    write: Write,
    name: str,
    media: str,
    header: str = "",
) -> Response:
    chunks = _in_turn(request, _chunks(logs, write))
    # Before the answer begins, so that what can go wrong still gets its own status.
    first = header.encode() + await anext(chunks)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return _File(first, chunks, headers=headers, media_type=media)
