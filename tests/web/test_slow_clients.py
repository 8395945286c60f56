"""Slow clients, in every phase of a request: their connections are closed, others are served."""

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


# The bytes sent at once, the bytes sent one by one, and the expected statuses.
SLOW_CLIENTS: dict[str, tuple[bytes, bytes, list[int]]] = {
    "sends nothing": (b"", b"", []),
    "sends part of a head": (b"GET /api/v1/lo", b"", [408]),
    "sends empty lines without end": (b"", b"\r\n" * 500, [408]),
    "sends a head byte by byte": (b"", get(b"X-A: " + b"a" * 500), [408]),
    "sends no body": (sized(b"", size=9), b"", [408]),
    "sends a body byte by byte": (sized(b"", size=1000), GOOD * 3, [408]),
    "sends chunks byte by byte": (post(CHUNKED), b"1\r\n \r\n" * 200, [408]),
    "continues after a rejection": (
        open_ended(post(b"Content-Length: 1000", target=b"/nowhere")),
        GOOD * 3,
        [404],
    ),
    "sends nothing more": (open_ended(get()), b"", [200]),
    "sends part of a second head": (
        open_ended(get()) + b"GET /",
        b"",
        [200],
    ),
}


@pytest.fixture
async def server(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.URL]:
    """A server with short timeouts."""
    for name, seconds in {
        "BODY_GRACE_SECONDS": 1.0,
        "KEEP_ALIVE_SECONDS": 0.5,
        "CHECK_INTERVAL_SECONDS": 0.1,
    }.items():
        monkeypatch.setattr(protocol, name, seconds)
    async with Server(Ring(ring.db, Settings(auth="open")), port=0) as server:
        yield httpx.URL(server.url)


async def slow_client(url: httpx.URL, sent_at_once: bytes, slowly: bytes) -> bytes:
    """Send slowly until the server closes the connection; return its responses."""
    reader, writer = await asyncio.open_connection(url.host, url.port)

    async def send() -> None:
        writer.write(sent_at_once)
        for byte in slowly:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    sending = asyncio.create_task(send())
    response = bytearray()
    with suppress(ConnectionError):
        while part := await reader.read(64 * 1024):
            response += part
    sending.cancel()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return bytes(response)


async def test_500_slow_clients_do_not_delay_others(server: httpx.URL) -> None:
    names = [*SLOW_CLIENTS] * 50
    async with asyncio.timeout(LONGEST), httpx.AsyncClient(base_url=server, timeout=60) as client:
        crowd = asyncio.gather(*(slow_client(server, *SLOW_CLIENTS[name][:2]) for name in names))
        while not crowd.done():
            assert (await client.get("/health/live", timeout=LONGEST)).status_code == 200
            await asyncio.sleep(0.05)
        responses = await crowd
    for name, response in zip(names, responses, strict=True):
        assert statuses(response) == SLOW_CLIENTS[name][2], (name, response[:300])


async def test_a_client_that_does_not_read_is_disconnected(server: httpx.URL) -> None:
    key = {"X-API-Key": CANARY.decode()}
    async with httpx.AsyncClient(base_url=server, headers=key, timeout=60) as client:
        response = await client.post("/api/v1/logs/batch", json=[CALL] * 1000)
        assert response.status_code == 200
    request = open_ended(get(target=b"/api/v1/logs/export"))
    with socket.create_connection((server.host, server.port or 0)) as connection:
        connection.sendall(request * 99)
        async with asyncio.timeout(LONGEST):
            with pytest.raises(ConnectionError):
                await keep_sending(connection)


async def keep_sending(connection: socket.socket) -> None:
    while True:
        connection.send(b"\r\n")
        await asyncio.sleep(0.05)


async def test_a_slow_body_within_the_limit_is_accepted(
    server: httpx.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MIN_BYTES_PER_SECOND", 100)
    sent_at_once = sized(b"", size=len(GOOD))
    assert statuses(await slow_client(server, sent_at_once, GOOD)) == [200]


async def test_other_servers_time_out_too(
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
