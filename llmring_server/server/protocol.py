"""HTTP/1.1 protocol: uvicorn's httptools protocol, with limits on size and time.

Only the protocol sees what never becomes a request, or does not belong to one: heads that do not
end, trailers, clients that stop sending or reading. `web/request_limits.py` applies all other
limits, with every server.

uvicorn documents none of what this module builds on. It overrides these methods of
`HttpToolsProtocol`: `connection_made`, `connection_lost`, `data_received`, `on_headers_complete`,
`on_body`, `on_message_complete`, `on_response_complete`, `shutdown` and `_should_upgrade`. It uses
its attributes `cycle` (`keep_alive`, `response_started`, `response_complete`), `flow`
(`read_paused`, `resume_reading`), `headers`, `loop`, `parser`, `pipeline`, `scope`, `server_state`
(`total_requests`), `transport` and `url`; and `STATUS_LINE`. `tests/server/test_protocol.py` fails
if one of them is missing or takes other parameters.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import httptools
import uuid_utils
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from llmring_server.errors import (
    BadRequest,
    HeadersTooLarge,
    HttpVersionNotSupported,
    Overloaded,
    RequestTimeout,
    RingError,
    UriTooLong,
)
from llmring_server.web.middleware import DEFAULT_HEADERS
from llmring_server.web.problems import problem
from llmring_server.web.request_limits import (
    BODY_GRACE_SECONDS,
    BOUNDED,
    HTTP_VERSIONS,
    KIB,
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    MAX_TARGET_BYTES,
    MIN_BYTES_PER_SECOND,
    check_size,
)

# How long a client that is rejected while it sends has to read the response.
LINGER_SECONDS = 1.0

# How long a server that stops waits for a request on an idle connection: one may be on its way.
DRAIN_SECONDS = 0.5

# How often a connection is checked: one timer serves all of its requests.
CHECK_INTERVAL_SECONDS = 1.0

# How long a connection may be idle, before its first request and between two.
KEEP_ALIVE_SECONDS = 5.0

# How many requests of a connection may be queued; uvicorn has no limit.
MAX_PIPELINED = 100

# How much of a request is read and discarded after its response, so that the client can read the
# response.
MAX_UNREAD_BODY_BYTES = 64 * KIB

_EXTENSIONS: dict[str, dict[Any, Any]] = {BOUNDED: {}}

# The header fields that tell where a request ends, and whether another one may follow.
_FRAMING = {b"connection", b"content-length", b"transfer-encoding"}

# The states of the servers that are stopping.
_draining: WeakSet[ServerState] = WeakSet()

# A write that starts and ends like this is a head without a body.
_HEAD_START = b"HTTP/1.1 "
_HEAD_END = b"\r\n\r\n"


class CoalescingTransport:
    """A transport that writes the head of a response together with its body.

    uvicorn writes them separately, and each write is a system call: an eighth of the cost of a
    whole request. A head is kept until the body follows, or else until the loop's next iteration.
    """

    def __init__(self, transport: asyncio.Transport, is_receiving: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_receiving = is_receiving
        self.is_closing = transport.is_closing
        self._loop = asyncio.get_running_loop()
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD_START) and data.endswith(_HEAD_END):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection; if the client is still sending, linger first.

        To close a socket with unread data resets the connection, and the client may lose the
        response.
        """
        if self.is_closing():
            return
        self._flush()
        if not self._is_receiving():
            self._transport.close()
            return
        self.is_closing = lambda: True
        self.write = lambda data: None  # type: ignore[method-assign]  # noqa: ARG005, the name is the interface's
        self._transport.pause_reading()
        self._transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self._transport.close)

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _HeadSkipper:
    """Passes the callbacks of a parser on to a protocol, except for those of the first head."""

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self._protocol = protocol
        self._is_first_head = True
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if not self._is_first_head:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_first_head:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_first_head:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_first_head:
            self._protocol.on_headers_complete()
        self._is_first_head = False


class BoundedHttpProtocol(HttpToolsProtocol):
    # The type of `transport` is narrower in uvicorn than in asyncio; ours has all that it calls.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(CoalescingTransport(transport, lambda: self._is_receiving))  # type: ignore[arg-type]
        # Whether a request has begun and is incomplete; whether its head is complete.
        self._is_receiving = False
        self._is_in_body = False
        # Bytes of the current request.
        self._request_bytes = 0
        # Bytes since its last progress: its start, the end of its head, or a part of its body.
        self._overhead_bytes = 0
        # How much of its body may still follow after its response.
        self._unread_budget = 0
        # Bytes of responses that the client had not read at the last check.
        self._unsent_bytes = 0
        # When the client last did what the server waits for.
        self._progress_at = self.loop.time()
        self._timer = self.loop.call_later(CHECK_INTERVAL_SECONDS, self._check)
        # Whether the server stops, so that the next response is the last one.
        self._is_draining = False
        # A connection may have been accepted before the server stopped, and arrive afterwards.
        if self.server_state in _draining:
            self.shutdown()

    def shutdown(self) -> None:
        """Close the connection as soon as the client expects it.

        A client that reads `Connection: close` sends its next request elsewhere. One that has not
        been told may be sending at this moment, and would not know whether its request was served.
        """
        _draining.add(self.server_state)
        self._is_draining = True
        if self.cycle is None or self.cycle.response_started:
            self.loop.call_later(DRAIN_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        is_responding = self.cycle is not None and not self.cycle.response_complete
        # The rest of a body whose response is complete is not waited for.
        is_receiving = self._is_receiving and not self._is_in_body
        if not is_responding and not is_receiving:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._begin_request()
        self._request_bytes += len(data)
        for start in range(0, len(data), MAX_HEADER_BYTES):
            if self.transport.is_closing():
                return
            part = data[start : start + MAX_HEADER_BYTES]
            self._overhead_bytes += len(part)
            try:
                self._parse(part)
            except httptools.HttpParserError as exc:
                cause = exc.__context__
                self._reject(cause if isinstance(cause, RingError) else BadRequest())
                return
            if self._overhead_bytes > MAX_HEADER_BYTES:
                self._reject(self._size_error())

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                self._decline_upgrade()
                data = data[exc.args[0] :]
            else:
                return

    def _decline_upgrade(self) -> None:
        """Go on behind the head of a request that offers another protocol (RFC 9110, 7.8).

        The parser takes what follows such a head for the other protocol. We serve the request
        without it, so what follows is the body of the request, and then the next request. A new
        parser reads it, which is first given the fields of the head that frame the body.
        """
        lines = [b"POST / HTTP/%b" % self.scope["http_version"].encode()]
        lines += [b"%b: %b" % field for field in self.scope["headers"] if field[0] in _FRAMING]
        self.parser = httptools.HttpRequestParser(_HeadSkipper(self))
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _begin_request(self) -> None:
        if not self._is_receiving:
            self._is_receiving = True
            self._progress_at = self.loop.time()

    def _size_error(self) -> RingError:
        if self._is_in_body:
            return BadRequest("Chunk overhead exceeds the allowed limit.")
        return UriTooLong() if len(self.url) > MAX_TARGET_BYTES else HeadersTooLarge()

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() not in HTTP_VERSIONS:
            raise HttpVersionNotSupported
        if self.url[:1] != b"/" and not _is_own_url(self.url, self.headers):
            raise BadRequest("The request target is for another host.")
        if self._overhead_bytes > MAX_TARGET_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            check_size(self.headers, self.url)
        self.scope["extensions"] = _EXTENSIONS
        if len(self.pipeline) == MAX_PIPELINED:
            raise Overloaded  # those in the queue are answered, then the connection is closed
        super().on_headers_complete()
        if self._is_draining:
            self.cycle.keep_alive = False
        # From here on, header fields are trailers. They must not join the checked ones.
        self.headers = []
        self._begin_request()  # if it came in one packet with the request before
        self._is_in_body = True
        self._overhead_bytes = 0
        self._unread_budget = MAX_UNREAD_BODY_BYTES

    def on_body(self, body: bytes) -> None:
        self._overhead_bytes = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread_budget -= len(body)
            if self._unread_budget < 0:
                self.transport.close()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # its body has not been read: see `_decline_upgrade`
        super().on_message_complete()
        self._is_receiving = self._is_in_body = False
        self._request_bytes = self._overhead_bytes = 0

    def on_response_complete(self) -> None:
        self._progress_at = self.loop.time()
        if self._is_draining and not self.transport.is_closing():
            self.loop.call_later(DRAIN_SECONDS, self._close_if_idle)
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            # As uvicorn does, without its keep-alive timer: `_check` does that.
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    def _should_upgrade(self) -> bool:
        return False

    def _reject(self, exc: RingError) -> None:
        """Respond to what cannot be read, unless the client would take it for another response."""
        cycle = self.cycle
        if self._is_in_body and (cycle.response_started or self.pipeline):
            self.transport.close()
        elif self._is_in_body or cycle is None or cycle.response_complete:
            self.transport.write(_response(exc))
            self.transport.close()
        else:
            cycle.keep_alive = False  # a response is due to the request before; then it closes

    def _check(self) -> None:
        """Close the connection if the server has waited too long for its client."""
        unsent, now = self.transport.get_write_buffer_size(), self.loop.time()
        if unsent != self._unsent_bytes or (self._is_servers_turn() and not unsent):
            self._unsent_bytes = unsent
            self._progress_at = now
        if now - self._progress_at > self._timeout():
            self._time_out()
        self._timer = self.loop.call_later(CHECK_INTERVAL_SECONDS, self._check)

    def _is_servers_turn(self) -> bool:
        cycle = self.cycle
        is_responding = cycle is not None and not cycle.response_complete and not self._is_receiving
        return is_responding or self.flow.read_paused

    def _timeout(self) -> float:
        if self._unsent_bytes or self.transport.is_closing():
            return BODY_GRACE_SECONDS
        if self._is_receiving:
            return BODY_GRACE_SECONDS + self._request_bytes / MIN_BYTES_PER_SECOND
        return KEEP_ALIVE_SECONDS

    def _time_out(self) -> None:
        if self._unsent_bytes or self.transport.is_closing():
            self.transport.abort()  # close() would wait until the client has read
        elif self._is_receiving:
            self._reject(RequestTimeout())
        else:
            self.transport.close()


def _response(exc: RingError) -> bytes:
    """Return a complete response, for what never became a request."""
    request_id = str(uuid_utils.uuid7())
    response = problem({"llmring.request_id": request_id, "http_version": "1.1"}, exc)
    response.headers["connection"] = "close"
    headers = [*DEFAULT_HEADERS, (b"x-request-id", request_id.encode()), *response.raw_headers]
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return STATUS_LINE[exc.status] + lines + b"\r\n" + bytes(response.body)


def _is_own_url(target: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """Tell if a target that is not a path is a URL of the host in the Host header."""
    hosts = [value.lower() for name, value in headers if name == b"host"]
    return hosts == [urlsplit(target).netloc.lower()]
