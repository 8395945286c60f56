"""Export formats: calls as CSV, for spreadsheets, or as JSON lines, for programs."""

import csv
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

from llmring_server.usage.csv_text import quote_formula
from llmring_server.usage.models import CALL_COLUMNS, ExportedCall
from llmring_server.web.request import render

CSV_MEDIA_TYPE = "text/csv; charset=utf-8"
JSONL_MEDIA_TYPE = "application/jsonl"

CSV_HEADER = ",".join(CALL_COLUMNS).encode() + b"\r\n"

CHUNK_SIZE = 500

Encoder: TypeAlias = Callable[[Sequence[ExportedCall]], bytes]


def encode_csv(calls: Sequence[ExportedCall]) -> bytes:
    """Write calls as lines of CSV, without the header."""
    text = io.StringIO()
    csv.writer(text).writerows(
        [_csv_cell(getattr(call, column)) for column in CALL_COLUMNS] for call in calls
    )
    return text.getvalue().encode()


def _csv_cell(value: Any) -> str:
    if isinstance(value, str):
        return quote_formula(value)
    if value is None:
        return ""
    return render(value).decode().strip('"')


def encode_jsonl(calls: Sequence[ExportedCall]) -> bytes:
    """Write calls as JSON, one line each."""
    return b"".join(render(call) + b"\n" for call in calls)


async def encode_in_chunks(
    calls: AsyncGenerator[ExportedCall], encode: Encoder
) -> AsyncGenerator[bytes]:
    """Encode a stream of calls, CHUNK_SIZE at a time; the last chunk may be empty."""
    chunk: list[ExportedCall] = []
    async with aclosing(calls):
        async for call in calls:
            chunk.append(call)
            if len(chunk) == CHUNK_SIZE:
                yield encode(chunk)
                chunk = []
    yield encode(chunk)
