"""Stopping: no request that a client could send in good faith is dropped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from llmring_server.server.in_process import listen, uvicorn_options
from llmring_server.settings import Settings
from tests.faults.test_kills import LONGEST

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
BODY = b"body"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class App:
    """Responds when it is told to: first with the head, then with the body."""

    def __init__(self) -> None:
        self.begun, self.may_start, self.may_end = (asyncio.Event() for _ in range(3))
        self.may_start.set()
        self.may_end.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            while (await receive()).get("more_body"):
                pass
            self.begun.set()
            await self.may_start.wait()
            headers = [(b"content-length", b"4")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": BODY[:2], "more_body": True})
            await self.may_end.wait()
            await send({"type": "http.response.body", "body": BODY[2:]})


class Stopping:
    """A server, an idle connection to it, and how to make it stop."""

    def __init__(self, app: App, server: uvicorn.Server, port: int) -> None:
        self.app, self.port = app, port
        self._server = server

    async def connect(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def stop(self) -> None:
        """Begin to stop; return when all connections know."""
        self._server.should_exit = True
        async with asyncio.timeout(LONGEST):
            while self._server.servers[0].is_serving():  # noqa: ASYNC110, the server sets no event
                await asyncio.sleep(0)


@pytest.fixture
async def stopping() -> AsyncIterator[Stopping]:
    @asynccontextmanager
    async def serve(app: App) -> AsyncIterator[Stopping]:
        options = uvicorn_options(Settings()) | {"log_config": None, "lifespan": "off"}
        server = uvicorn.Server(uvicorn.Config(app, **options))
        with listen("127.0.0.1", 0) as listener:
            task = asyncio.create_task(server._serve([listener]))
            async with asyncio.timeout(LONGEST):
                while not server.started:  # noqa: ASYNC110, the server sets no event
                    await asyncio.sleep(0.01)
            yield Stopping(app, server, listener.getsockname()[1])
            server.should_exit = True
            app.may_start.set()
            app.may_end.set()
            await asyncio.wait_for(task, LONGEST)

    async with serve(App()) as stopping:
        yield stopping


async def response(streams: Streams) -> tuple[bytes, bool]:
    """Read a response; tell whether its head says that the connection will be closed."""
    async with asyncio.timeout(LONGEST):
        head = await streams[0].readuntil(b"\r\n\r\n")
        return await streams[0].readexactly(4), b"connection: close" in head.lower()


async def ended(streams: Streams) -> bool:
    async with asyncio.timeout(LONGEST):
        return await streams[0].read() == b""


async def test_a_request_on_an_idle_connection_is_answered_and_the_last_one(
    stopping: Stopping,
) -> None:
    streams = await stopping.connect()
    with closing(streams[1]):
        streams[1].write(GET)
        assert await response(streams) == (BODY, False)
        await stopping.stop()
        streams[1].write(GET)
        assert await response(streams) == (BODY, True)
        assert await ended(streams)


async def test_a_connection_without_a_request_yet_is_served(stopping: Stopping) -> None:
    # The first one tells that the server has accepted the second.
    first, second = await stopping.connect(), await stopping.connect()
    with closing(first[1]), closing(second[1]):
        first[1].write(GET)
        await response(first)
        await stopping.stop()
        second[1].write(GET)
        assert await response(second) == (BODY, True)


async def test_a_request_that_is_arriving_is_served(stopping: Stopping) -> None:
    streams = await stopping.connect()
    with closing(streams[1]):
        streams[1].write(GET)
        await response(streams)
        streams[1].write(POST[:20])
        await streams[1].drain()
        await stopping.stop()
        streams[1].write(POST[20:] + BODY)
        assert await response(streams) == (BODY, True)


async def test_a_response_that_has_not_begun_is_the_last_one(stopping: Stopping) -> None:
    stopping.app.may_start.clear()
    streams = await stopping.connect()
    with closing(streams[1]):
        streams[1].write(GET)
        await stopping.app.begun.wait()
        await stopping.stop()
        stopping.app.may_start.set()
        assert await response(streams) == (BODY, True)
        assert await ended(streams)


async def test_after_a_response_that_did_not_announce_the_end_another_one_follows(
    stopping: Stopping,
) -> None:
    stopping.app.may_end.clear()
    streams = await stopping.connect()
    with closing(streams[1]):
        streams[1].write(GET)
        head: Any = await streams[0].readuntil(b"\r\n\r\n")
        assert b"connection: close" not in head.lower()
        await stopping.stop()
        stopping.app.may_end.set()
        assert await streams[0].readexactly(4) == BODY
        streams[1].write(GET)
        assert await response(streams) == (BODY, True)


async def test_a_connection_that_stays_idle_is_closed(stopping: Stopping) -> None:
    streams = await stopping.connect()
    with closing(streams[1]):
        streams[1].write(GET)
        await response(streams)
        await stopping.stop()
        assert await ended(streams)
