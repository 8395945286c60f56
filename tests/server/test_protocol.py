"""The HTTP protocol of `serve` and `Server`: the bytes of uvicorn's, each response in one write."""

import ast
import asyncio
import inspect
import logging
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from llmring_server.server import protocol
from llmring_server.server.protocol import BoundedHttpProtocol
from tests.faults.test_kills import LONGEST, until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSING = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
OLD = b"GET / HTTP/1.0\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
UNREAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
BODY = b'{"id":1}'
HEADERS = [(b"x-request-id", b"1"), (b"content-length", b"%d" % len(BODY))]


class Wire(asyncio.Transport):
    """What is written to a client, write by write."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.1", 9)})
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


class Answering:
    """An app that responds with these headers and BODY."""

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.headers = headers
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        await self.may.wait()
        start: dict[str, Any] = {
            "type": "http.response.start",
            "status": 201,
            "headers": self.headers,
        }
        await send(start)
        await send({"type": "http.response.body", "body": BODY})


def connect(protocol: type[HttpToolsProtocol], app: Answering) -> tuple[HttpToolsProtocol, Wire]:
    config, wire = uvicorn.Config(app, log_config=None, proxy_headers=False), Wire()
    state = ServerState()
    state.default_headers = [(b"date", b"today")]
    connection = protocol(config, state, {}, asyncio.get_running_loop())
    connection.access_log = False
    connection.connection_made(wire)
    return connection, wire


async def ended(connection: HttpToolsProtocol) -> None:
    async with asyncio.timeout(LONGEST):
        while connection.tasks:
            await asyncio.wait(connection.tasks)
            await asyncio.sleep(0)
    connection.connection_lost(None)


async def response_to(
    protocol: type[HttpToolsProtocol], request: bytes, headers: list[tuple[bytes, bytes]]
) -> tuple[list[bytes], bool]:
    """Return the writes in response to a request, and whether the connection then closes."""
    connection, wire = connect(protocol, Answering(headers))
    connection.data_received(request)
    await until(lambda: not connection.tasks)
    writes, closed = wire.writes, wire.closed
    await ended(connection)
    return writes, closed


@pytest.mark.parametrize("request_", [GET, CLOSING, OLD, HEAD, UNREAD])
async def test_a_response_has_the_bytes_of_uvicorn_in_one_write(request_: bytes) -> None:
    ours, ended = await response_to(BoundedHttpProtocol, request_, HEADERS)
    theirs, theirs_ended = await response_to(HttpToolsProtocol, request_, HEADERS)
    assert (b"".join(ours), ended) == (b"".join(theirs), theirs_ended)
    assert len(ours) == 1
    assert ours[0].startswith(b"HTTP/1.1 201 Created\r\ndate: today\r\nx-request-id: 1\r\n")


async def test_head_and_body_are_one_write_with_an_access_log() -> None:
    connection, wire = connect(BoundedHttpProtocol, Answering([*HEADERS, (b"x-a", b"a")]))
    connection.access_log = True  # uvicorn writes then
    connection.data_received(GET)
    await ended(connection)
    assert len(wire.writes) == 1


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b", b"\x7f"])
async def test_header_with_control_characters_is_never_written(value: bytes) -> None:
    bad = [*HEADERS, (b"link", value)]
    assert (
        await response_to(BoundedHttpProtocol, GET, bad)
        == await response_to(HttpToolsProtocol, GET, bad)
        == ([], True)
    )


async def test_pipelined_requests_are_answered_in_order() -> None:
    connection, wire = connect(BoundedHttpProtocol, Answering(HEADERS))
    connection.data_received(GET * 3 + CLOSING + GET)
    await ended(connection)
    assert len(wire.writes) == 4
    assert [b"connection: close" in write for write in wire.writes] == [False, False, False, True]
    assert connection.server_state.total_requests == 4


async def test_a_response_waits_until_the_connection_takes_data_again() -> None:
    connection, wire = connect(BoundedHttpProtocol, Answering(HEADERS))
    connection.pause_writing()
    connection.data_received(GET)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not wire.writes
    connection.resume_writing()
    await ended(connection)
    assert b"".join(wire.writes).endswith(BODY)


async def test_nothing_is_written_after_the_client_has_disconnected() -> None:
    app = Answering(HEADERS)
    app.may.clear()
    connection, wire = connect(BoundedHttpProtocol, app)
    connection.data_received(GET)
    connection.connection_lost(None)
    app.may.set()
    await ended(connection)
    assert not wire.writes


async def test_each_request_is_in_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    connection, wire = connect(BoundedHttpProtocol, Answering(HEADERS))
    connection.access_log = True
    connection.access_logger = logging.getLogger("tests.access")
    caplog.set_level(logging.INFO, "tests.access")
    connection.data_received(GET + CLOSING)
    await ended(connection)
    assert len(caplog.records) == 2
    assert b"".join(wire.writes).count(BODY) == 2


# The private names of uvicorn's protocol: methods that ours overrides, with their parameters.
OVERRIDDEN = {
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "data_received": ["self", "data"],
    "on_headers_complete": ["self"],
    "on_body": ["self", "body"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "shutdown": ["self"],
    "_should_upgrade": ["self"],
}
# The attributes that ours uses: of the protocol, of a request, of flow control, of the server.
USED = {"cycle", "flow", "headers", "loop", "parser", "pipeline", "scope", "server_state"}
USED |= {"transport", "url"}
USED_OF = {
    "cycle": {"keep_alive", "response_started", "response_complete"},
    "flow": {"read_paused", "resume_reading"},
    "server_state": {"total_requests"},
}


def inherited_names() -> set[str]:
    """Return the attributes that the source of our protocol takes from uvicorn's."""
    attributes = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(BoundedHttpProtocol)))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    ]
    names = {node.attr for node in attributes} - vars(BoundedHttpProtocol).keys()
    # Attributes that it sets itself are not uvicorn's, except for these two.
    own = {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
    return names - (own - {"headers", "parser"})


def test_the_private_names_of_uvicorn_are_those_that_are_documented() -> None:
    overridden = {name for name in vars(BoundedHttpProtocol) if not name.startswith("__")} & vars(
        HttpToolsProtocol
    ).keys()
    assert overridden == OVERRIDDEN.keys()
    assert inherited_names() == USED
    for name in (*OVERRIDDEN, *USED, *(name for names in USED_OF.values() for name in names)):
        assert f"`{name}`" in str(protocol.__doc__)


def test_uvicorn_has_the_methods_that_are_overridden() -> None:
    for name, parameters in OVERRIDDEN.items():
        method = getattr(HttpToolsProtocol, name)
        assert [*inspect.signature(method).parameters] == parameters, name


async def test_uvicorn_has_the_attributes_that_are_used() -> None:
    connection, _ = connect(BoundedHttpProtocol, Answering(HEADERS))
    connection.data_received(GET)
    for name in USED:
        assert hasattr(connection, name), name
    for name, attributes in USED_OF.items():
        for attribute in attributes:
            assert hasattr(getattr(connection, name), attribute), attribute
    await ended(connection)
