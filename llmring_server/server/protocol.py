"""HTTP/1.1 as our own server speaks it: uvicorn's httptools protocol, bounded in size and time.

Only here can be seen what never becomes a request, or what looks like one and is none: heads that
do not end, trailers, senders that fall asleep. `guard.py` does the rest, for every server.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httptools
import uuid_utils
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llmring_server.errors import (
    BadRequest,
    HeadersTooLarge,
    Overloaded,
    RequestTimeout,
    RingError,
    UriTooLong,
)
from llmring_server.web.middleware import HEADERS
from llmring_server.web.problems import problem
from llmring_server.web.request_limits import (
    BODY_GRACE_SECONDS,
    BOUNDED,
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    MAX_TARGET_BYTES,
    MIN_BYTES_PER_SECOND,
    check_size,
)

# How long a client that is refused in the middle of a sentence may take to hear it.
LINGER_SECONDS = 1.0


# What begins and ends so has no body yet: an answer that is whole goes by.
_HEAD, _END = b"HTTP/1.1 ", b"\r\n\r\n"


class CoalescingTransport:
    """A transport that keeps the head of an answer until its body is written, in this turn.

    uvicorn writes them apart, and each write is a system call: an eighth of a whole request.
    """

    def __init__(self, transport: asyncio.Transport, is_talking: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_talking = is_talking
        self.is_closing = transport.is_closing
        self._loop = asyncio.get_running_loop()
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD) and data.endswith(_END):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close now, or, while the client is still talking, when it has had time to hear us.

        To close on what is unread resets the connection, and the client may lose its answer.
        """
        if self.is_closing():
            return
        self._flush()
        if not self._is_talking():
            self._transport.close()
            return
        self.is_closing = lambda: True
        self.write = lambda data: None  # type: ignore[method-assign]  # noqa: ARG005, its name
        self._transport.pause_reading()
        self._transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self._transport.close)

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


# How often a connection is looked at: one timer for all its requests.
TICK = 1.0


# How many requests of a connection may wait in line; uvicorn would take them without end.
MAX_PIPELINED = 100


# How long a client may say nothing, before its first request and between two.
KEEP_ALIVE_SECONDS = 5.0


# What is read, and dropped, of a request that is answered already: its client can then hear it.
SPARE = 64 * 1024


_EXTENSIONS: dict[str, dict[Any, Any]] = {BOUNDED: {}}


def _answer(exc: RingError) -> bytes:
    """Write a whole answer, for requests that never became one."""
    request_id = str(uuid_utils.uuid7())
    told = problem({"llmring.request_id": request_id, "http_version": "1.1"}, exc)
    told.headers["connection"] = "close"
    headers = [*HEADERS, (b"x-request-id", request_id.encode()), *told.raw_headers]
    lines = b"".join(b"%b: %b\r\n" % each for each in headers)
    return STATUS_LINE[exc.status] + lines + b"\r\n" + bytes(told.body)


def _is_ours(target: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """Tell if a target that is no path is a URL of the host that is meant."""
    hosts = [value.lower() for name, value in headers if name == b"host"]
    return hosts == [urlsplit(target).netloc.lower()]


class BoundedHttpProtocol(HttpToolsProtocol):
    # uvicorn narrows what asyncio gives; what we give has all that uvicorn calls.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(CoalescingTransport(transport, lambda: self._arriving))  # type: ignore[arg-type]
        self._arriving = self._in_body = False
        # Bytes of this request: all; since its last sense; that may follow its answer. And unsent.
        self._size = self._raw = self._spare = self._unsent = 0
        # When the client last did what we wait for.
        self._since = self.loop.time()
        self._timer = self.loop.call_later(TICK, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._arriving:
            self._arriving, self._since = True, self.loop.time()
        self._size += len(data)
        for start in range(0, len(data), MAX_HEADER_BYTES):
            if self.transport.is_closing():
                return
            part = data[start : start + MAX_HEADER_BYTES]
            self._raw += len(part)
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserUpgrade:
                pass  # which we need not do; the request is one all the same
            except httptools.HttpParserError as exc:
                cause = exc.__context__
                self._refuse(cause if isinstance(cause, RingError) else BadRequest())
                return
            if self._raw > MAX_HEADER_BYTES:
                self._refuse(self._too_much())

    def _too_much(self) -> RingError:
        if self._in_body:
            return BadRequest("The body has more frame than content.")
        return UriTooLong() if len(self.url) > MAX_TARGET_BYTES else HeadersTooLarge()

    def on_headers_complete(self) -> None:
        if self.url[:1] != b"/" and not _is_ours(self.url, self.headers):
            raise BadRequest("Ask for a path of this server.")
        if self._raw > MAX_TARGET_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            check_size(self.headers, self.url)
        self.scope["extensions"] = _EXTENSIONS
        if len(self.pipeline) == MAX_PIPELINED:
            raise Overloaded  # they are answered, then the connection ends
        super().on_headers_complete()
        # What still calls itself a header is a trailer, and must not join those that are judged.
        self.headers = []
        if not self._arriving:  # it came together with the one before
            self._arriving, self._since = True, self.loop.time()
        self._in_body, self._raw, self._spare = True, 0, SPARE

    def on_body(self, body: bytes) -> None:
        self._raw = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._spare -= len(body)
            if self._spare < 0:
                self.transport.close()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._arriving = self._in_body = False
        self._size = self._raw = 0

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            # As uvicorn does, but for its timer until the next request: `_watch` is there already.
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    def _should_upgrade(self) -> bool:
        return False

    def _refuse(self, exc: RingError) -> None:
        """Answer what cannot be read, unless that would look like the answer to something else."""
        cycle = self.cycle
        if self._in_body and (cycle.response_started or self.pipeline):
            self.transport.close()
        elif self._in_body or cycle is None or cycle.response_complete:
            self.transport.write(_answer(exc))
            self.transport.close()
        else:
            cycle.keep_alive = False  # the last that is answered here

    def _watch(self) -> None:
        """End what waits for its client in vain."""
        unsent, now = self.transport.get_write_buffer_size(), self.loop.time()
        if unsent != self._unsent or (self._is_our_turn() and not unsent):
            self._unsent, self._since = unsent, now
        if now - self._since > self._patience():
            self._give_up()
        self._timer = self.loop.call_later(TICK, self._watch)

    def _is_our_turn(self) -> bool:
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete and not self._arriving
        return answering or self.flow.read_paused

    def _patience(self) -> float:
        if self._unsent or self.transport.is_closing():
            return BODY_GRACE_SECONDS
        return (
            BODY_GRACE_SECONDS + self._size / MIN_BYTES_PER_SECOND
            if self._arriving
            else KEEP_ALIVE_SECONDS
        )

    def _give_up(self) -> None:
        if self._unsent or self.transport.is_closing():
            self.transport.abort()  # to close it would be to wait for them
        elif self._arriving:
            self._refuse(RequestTimeout())
        else:
            self.transport.close()
