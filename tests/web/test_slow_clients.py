"""Clients that fall asleep, in every phase of a request: their connections end, others go on."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings, build
from llmring_server.server import protocol
from llmring_server.web import request_limits
from tests.conftest import CALL
from tests.faults.test_kills import LONGEST
from tests.support.invalid_bodies import GOOD
from tests.support.invalid_wire_requests import CANARY, CHUNKED, get, post, sized
from tests.support.served import statuses

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]


def open_ended(request: bytes) -> bytes:
    return request.replace(b"Connection: close\r\n", b"")


# What is said at once, what follows byte by byte, and which statuses the client is told.
SLEEPERS: dict[str, tuple[bytes, bytes, list[int]]] = {
    "says nothing": (b"", b"", []),
    "begins": (b"GET /api/v1/lo", b"", [408]),
    "says lines without end": (b"", b"\r\n" * 500, [408]),
    "says a head byte by byte": (b"", get(b"X-A: " + b"a" * 500), [408]),
    "says no body": (sized(b"", size=9), b"", [408]),
    "says a body byte by byte": (sized(b"", size=1000), GOOD * 3, [408]),
    "says chunks byte by byte": (post(CHUNKED), b"1\r\n \r\n" * 200, [408]),
    "goes on when it is refused": (
        open_ended(post(b"Content-Length: 1000", target=b"/nowhere")),
        GOOD * 3,
        [404],
    ),
    "says nothing more": (open_ended(get()), b"", [200]),
    "says another and begins": (
        open_ended(get()) + b"GET /",
        b"",
        [200],
    ),
}


@pytest.fixture
async def server(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.URL]:
    """A server that is as impatient as a test."""
    for name, seconds in {
        "BODY_GRACE_SECONDS": 1.0,
        "KEEP_ALIVE_SECONDS": 0.5,
        "TICK": 0.1,
    }.items():
        monkeypatch.setattr(protocol, name, seconds)
    async with Server(Ring(ring.db, Settings(auth="open")), port=0) as server:
        yield httpx.URL(server.url)


async def sleeper(url: httpx.URL, said: bytes, slowly: bytes) -> bytes:
    """Speak like that until the other side has enough; return what it says."""
    reader, writer = await asyncio.open_connection(url.host, url.port)

    async def speak() -> None:
        writer.write(said)
        for each in slowly:
            writer.write(bytes([each]))
            await asyncio.sleep(0.02)

    speaking = asyncio.create_task(speak())
    told = bytearray()
    with suppress(ConnectionError):
        while part := await reader.read(64 * 1024):
            told += part
    speaking.cancel()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return bytes(told)


async def test_five_hundred_sleepers_are_sent_away_and_disturb_nobody(server: httpx.URL) -> None:
    names = [*SLEEPERS] * 50
    async with asyncio.timeout(LONGEST), httpx.AsyncClient(base_url=server, timeout=60) as client:
        crowd = asyncio.gather(*(sleeper(server, *SLEEPERS[name][:2]) for name in names))
        while not crowd.done():
            assert (await client.get("/health/live", timeout=LONGEST)).status_code == 200
            await asyncio.sleep(0.05)
        told = await crowd
    for name, each in zip(names, told, strict=True):
        assert statuses(each) == SLEEPERS[name][2], (name, each[:300])


async def test_who_does_not_listen_is_left(server: httpx.URL) -> None:
    key = {"X-API-Key": CANARY.decode()}
    async with httpx.AsyncClient(base_url=server, headers=key, timeout=60) as client:
        answer = await client.post("/api/v1/logs/batch", json=[CALL] * 1000)
        assert answer.status_code == 200
    request = open_ended(get(target=b"/api/v1/logs/export"))
    with socket.create_connection((server.host, server.port or 0)) as connection:
        connection.sendall(request * 99)
        async with asyncio.timeout(LONGEST):
            with pytest.raises(ConnectionError):
                await keep_saying(connection)


async def keep_saying(connection: socket.socket) -> None:
    while True:
        connection.send(b"\r\n")
        await asyncio.sleep(0.05)


async def test_slow_is_not_too_slow(server: httpx.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SLOWEST", 100)
    said = sized(b"", size=len(GOOD))
    assert statuses(await sleeper(server, said, GOOD)) == [200]


async def test_other_servers_have_no_patience_either(
    db: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_limits, "BODY_GRACE_SECONDS", 0.1)
    app, sent = build(db, Settings(auth="open")), []
    headers = [(b"host", b"test"), (b"x-api-key", b"k"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "path": "/api/v1/log", "http_version": "1.1",
        "query_string": b"", "headers": headers, "root_path": "",
    }  # fmt: skip
    parts = [{"type": "http.request", "body": GOOD[:9], "more_body": True}]

    async def receive() -> dict[str, Any]:
        return parts.pop() if parts else await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    async with asyncio.timeout(LONGEST):
        await app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_bodies_share_what_room_there_is(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_parts() -> AsyncIterator[bytes]:
        yield GOOD[:50]
        yield GOOD[50:]

    headers = {"Content-Type": "application/json"}
    for left, status in {len(GOOD): 200, len(GOOD) - 1: 503}.items():
        monkeypatch.setattr(request_limits._BodyMemory, "left", left)
        answer = await client.post("/api/v1/log", content=in_parts(), headers=headers)
        assert answer.status_code == status
        assert request_limits._BodyMemory.left == left
