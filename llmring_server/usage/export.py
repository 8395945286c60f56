"""Export formats: calls as CSV, for spreadsheets, or as JSON lines, for programs."""

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

from llmring_server.core.time_slices import TimeSlices
from llmring_server.usage.csv_text import quote_formula
from llmring_server.usage.models import CALL_COLUMNS, ExportedCall
from llmring_server.web.request import render

CSV_MEDIA_TYPE = "text/csv; charset=utf-8"
JSONL_MEDIA_TYPE = "application/jsonl"

CSV_HEADER = ",".join(CALL_COLUMNS).encode() + b"\r\n"

CHUNK_BYTES = 256 * 1024

_NEEDS_QUOTES = re.compile(r'[",\r\n]')

Encoder: TypeAlias = Callable[[Sequence[ExportedCall]], bytes]


def encode_csv(calls: Sequence[ExportedCall]) -> bytes:
    """Write calls as lines of CSV, without the header."""
    return "".join(map(_csv_line, calls)).encode()


def _csv_line(call: ExportedCall) -> str:
    cells = [_csv_cell(getattr(call, column)) for column in CALL_COLUMNS]
    return ",".join(map(_quoted, cells)) + "\r\n"


def _csv_cell(value: Any) -> str:
    if isinstance(value, str):
        return quote_formula(value)
    if value is None:
        return ""
    return render(value).decode().strip('"')


def _quoted(cell: str) -> str:
    # Python's `csv` looks at each character in turn, which takes milliseconds for a long text.
    return '"' + cell.replace('"', '""') + '"' if _NEEDS_QUOTES.search(cell) else cell


def encode_jsonl(calls: Sequence[ExportedCall]) -> bytes:
    """Write calls as JSON, one line each."""
    # Stored JSON that is passed through may contain line breaks, between its tokens only.
    return b"".join(render(call).replace(b"\n", b" ") + b"\n" for call in calls)


async def encode_in_chunks(
    calls: AsyncGenerator[ExportedCall], encode: Encoder
) -> AsyncGenerator[bytes]:
    """Encode a stream of calls in chunks of about CHUNK_BYTES; the last one may be empty."""
    chunk: list[bytes] = []
    size = 0
    slices = TimeSlices()
    async with aclosing(calls):
        async for call in calls:
            chunk.append(encode([call]))
            size += len(chunk[-1])
            if size >= CHUNK_BYTES:
                yield b"".join(chunk)
                chunk, size = [], 0
            await slices.pause()
    yield b"".join(chunk)
