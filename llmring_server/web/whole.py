"""Answers that are there whole are written whole: an ASGI extension of our own server.

uvicorn is told of head and body apart, and looks twice at each header: 2 µs of a request.
"""

from collections.abc import Awaitable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

from llmring_server.web.endpoint import WHOLE


class Whole:
    """An app that answers one request, and may send an answer whole."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle: Any = cycle

    def __call__(self, scope: Scope, receive: Receive, _: Send) -> Awaitable[None]:
        return self._app(scope, receive, self.send)

    async def send(self, message: Message) -> None:
        body = message.pop(WHOLE, None)
        if body is None:
            await self._cycle.send(message)
        elif self._is_free() and (head := self._head(message)):
            self._write(head + body)
        else:
            await self._cycle.send(message)
            await self._cycle.send({"type": "http.response.body", "body": body})

    def _is_free(self) -> bool:
        """Tell if there is nothing to wait for, to log or to leave out: uvicorn knows how."""
        cycle = self._cycle
        return not (
            cycle.response_started
            or cycle.disconnected
            or cycle.flow.write_paused
            or cycle.access_log
            or cycle.scope["method"] == "HEAD"
        )

    def _head(self, start: Message) -> bytes | None:
        """Write the head as uvicorn does, unless it would refuse it."""
        headers = [*self._cycle.default_headers, *start["headers"]]
        lines = [*map(b": ".join, headers)]
        if HEADER_VALUE_RE.search(b"".join(lines)):
            return None
        if not self._cycle.keep_alive:
            lines.append(b"connection: close")
        return STATUS_LINE[start["status"]] + b"\r\n".join([*lines, b"\r\n"])

    def _write(self, answer: bytes) -> None:
        cycle = self._cycle
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(answer)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
