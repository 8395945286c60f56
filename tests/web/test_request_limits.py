"""Request limits: every kind of server rejects invalid and oversized requests."""

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import uuid4

import httpx
import orjson
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings, build
from llmring_server.server.in_process import _Config, _InProcessServer, listen
from tests.faults.test_kills import LONGEST
from tests.support.invalid_bodies import GOOD
from tests.support.invalid_wire_requests import (
    ANYWHERE,
    CANARY,
    CHUNKED,
    JSON,
    KEY,
    SERVED,
    chunked,
    get,
    head,
    post,
    sized,
)
from tests.support.served import Served, ask, serve, statuses

MIB = 2**20
MAX_MEMORY_BYTES = 300 * MIB


@pytest.fixture(scope="module")
async def server_settings(url: str, db: AsyncDatabaseManager) -> dict[str, str]:
    return {"database_url": url, "database_schema": db.schema or "", "auth": "open"}


@pytest.fixture(scope="module")
async def served(
    server_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    output = tmp_path_factory.mktemp("served") / "output"
    async with serve(server_settings, output) as served:
        yield served
    assert not re.search("Traceback|Error|Exception", output.read_text())


@pytest.fixture(scope="module")
async def inside(db: AsyncDatabaseManager) -> AsyncIterator[int]:
    """An in-process server: another event loop, the same protocol."""
    async with Server(Ring(db, Settings(auth="open")), port=0) as server:
        yield int(server.url.rpartition(":")[2])


@pytest.fixture(scope="module", params=["httptools", "h11"])
async def plain(request: pytest.FixtureRequest, db: AsyncDatabaseManager) -> AsyncIterator[int]:
    """The app under plain uvicorn."""
    app = build(db, Settings(auth="open"))
    server = _InProcessServer(_Config(app, http=request.param, log_config=None, log_level=None))
    with listen("127.0.0.1", 0) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await server.is_up.wait()
        yield listener.getsockname()[1]
        server.should_exit = True
        await task


def check_refusal(response: bytes, status: int) -> None:
    start, _, body = response.partition(b"\r\n\r\n")
    assert statuses(response) == [status], response[:500]
    assert b"content-type: application/problem+json" in start.lower()
    assert b"connection: close" in start.lower()
    assert orjson.loads(body).keys() >= {"detail", "status", "title", "request_id"}
    assert CANARY not in response


@pytest.mark.parametrize("name", ANYWHERE | SERVED)
async def test_serve_rejects_invalid_requests(served: Served, name: str) -> None:
    status, data = (ANYWHERE | SERVED)[name]
    check_refusal(await ask(served.port, data), status)
    assert served.process.returncode is None


@pytest.mark.parametrize("name", ANYWHERE | SERVED)
async def test_in_process_server_rejects_invalid_requests(inside: int, name: str) -> None:
    status, data = (ANYWHERE | SERVED)[name]
    check_refusal(await ask(inside, data), status)


@pytest.mark.parametrize("name", ANYWHERE)
async def test_app_rejects_invalid_requests_under_another_server(plain: int, name: str) -> None:
    status, data = ANYWHERE[name]
    response = await ask(plain, data)
    assert statuses(response) == [status]
    assert CANARY not in response


@pytest.mark.parametrize(
    "data",
    [
        get(target=b"http://TEST/api/v1/logs"),
        get(b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: x"),
        get(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings"),
        head(b"GET /api/v1/logs HTTP/1.0", KEY),
        head(b"GET /api/v1/logs HTTP/1.1", b"Host: [::1]:80", KEY, b"Connection: close"),
        get(*[b"X-A: a"] * 97),
        get(b"X-A: " + b"a" * 15_000),
        get(target=b"/api/v1/logs?alias=" + b"a" * 100),
        b"\r\n\r\n" + get(),
        sized(GOOD),
        chunked(GOOD, extension=b";" + b"a" * 100),
        post(CHUNKED) + b"".join(b"1\r\n%c\r\n" % each for each in GOOD) + b"0\r\n\r\n",
        sized(GOOD, b"Expect: 100-continue"),
    ],
)
async def test_unusual_but_valid_requests_are_served(served: Served, data: bytes) -> None:
    assert statuses(await ask(served.port, data))[-1] == 200


# As the HttpClient of the JDK sends every request, in two segments.
JDK_OFFER = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAA"]


@pytest.mark.parametrize("data", [sized(GOOD, *JDK_OFFER), chunked(GOOD, b"X-Trailer: a")])
async def test_a_body_in_a_second_segment_belongs_to_its_request(
    served: Served, data: bytes
) -> None:
    end = data.index(b"\r\n\r\n") + 4
    data = data.replace(b"Connection: close\r\n", b"", 1)
    end -= len(b"Connection: close\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(data[:end])
    await writer.drain()
    # The server reads this before the body: its response is that of another connection.
    assert statuses(await ask(served.port, get(target=b"/health/live"))) == [200]
    writer.write(data[end:] + get(target=b"/health/live"))
    assert statuses(await reader.read()) == [200, 200]
    writer.close()


async def test_another_web_server_closes_after_an_offer_of_a_protocol(plain: int) -> None:
    offer = get(*JDK_OFFER, target=b"/health/live").replace(b"Connection: close\r\n", b"", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", plain)
    writer.write(offer)
    assert statuses(await reader.read()) == [200]
    writer.close()


async def test_a_trailer_is_never_a_header(served: Served) -> None:
    key, other = uuid4().hex.encode(), uuid4().hex.encode()
    anonymous = head(
        b"POST /api/v1/log HTTP/1.1", b"Host: test", JSON, CHUNKED, b"Connection: close"
    )
    body = b"%x\r\n%b\r\n0\r\n" % (len(GOOD), GOOD)
    for trailer in (b"X-API-Key: ", b"Authorization: Bearer ", b"X-User-ID: "):
        response = await ask(served.port, anonymous + body + trailer + other + b"\r\n\r\n")
        assert statuses(response) == [401]
    authenticated = anonymous.replace(JSON, JSON + b"\r\nX-API-Key: " + key)
    response = await ask(served.port, authenticated + body + b"X-API-Key: " + other + b"\r\n\r\n")
    assert statuses(response) == [200]
    logs = [get(target=b"/api/v1/logs").replace(CANARY, each) for each in (key, other)]
    [own, others] = [await ask(served.port, log) for log in logs]
    assert (own.count(b'"log_id"') or own.count(b'"id"'), others[-2:]) == (1, b"[]")


async def test_a_hundred_requests_at_once_are_answered_in_order(served: Served) -> None:
    paths = [b"/health/live", b"/nowhere"] * 50
    requests = [get(target=path).replace(b"Connection: close\r\n", b"") for path in paths]
    response = await ask(served.port, b"".join(requests) + get())
    assert statuses(response) == [200, 404] * 50 + [200]
    # Further requests are not queued: the client gets these responses, then the connection ends.
    assert statuses(await ask(served.port, b"".join(requests) * 10)) == [200, 404] * 50 + [200]


async def test_a_rejection_is_not_taken_for_the_response_to_an_earlier_request(
    served: Served,
) -> None:
    good = sized(GOOD).replace(b"Connection: close\r\n", b"")
    for bad in (get(b"X-A : a"), get(b"X-A: " + b"a" * 40_000), b"\0"):
        assert statuses(await ask(served.port, good + bad)) == [200]


async def test_a_client_receives_the_reason_when_its_body_is_rejected(served: Served) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", timeout=60) as client:
        client.headers.update({"X-API-Key": "k", "Content-Type": "application/json"})
        for size in (257 * 1024, MIB):
            assert (await client.post("/api/v1/log", content=b"x" * size)).status_code == 413
        assert (await client.post("/nowhere", content=b"x" * size)).status_code == 404


def flood(port: int, request: bytes, size: int) -> tuple[bytes, int]:
    """Send more after a request, up to a limit; return the response and the bytes sent."""
    response, sent, part = b"", 0, b"%x\r\n%b\r\n" % (MIB, b"x" * MIB)
    with socket.create_connection(("127.0.0.1", port), LONGEST) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
            while sent < size:
                connection.sendall(part)
                sent += MIB
        with suppress(ConnectionError):
            response = connection.recv(64 * 1024)
    return response, sent


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc has the peak only there")
@pytest.mark.parametrize("target", [b"/api/v1/log", b"/api/v1/logs/batch"])
@pytest.mark.parametrize("length", [CHUNKED, b"Content-Length: %d" % (64 * MIB)])
async def test_a_hundred_bodies_of_64_mib_do_not_fill_the_memory(
    served: Served, target: bytes, length: bytes
) -> None:
    request = post(length, target=target)
    with ThreadPoolExecutor(100) as crowd:
        floods = [crowd.submit(flood, served.port, request, 64 * MIB) for _ in range(100)]
        done = await asyncio.gather(*map(asyncio.wrap_future, floods))
    assert {status for response, _ in done for status in statuses(response)} <= {413, 503}
    assert max(sent for _, sent in done) < 32 * MIB
    assert served.peak() < MAX_MEMORY_BYTES
