"""In-process server: HTTP inside a running program."""

import asyncio
import logging
from contextlib import suppress

import httpx
import pytest

from llmring_server import Ring, Server, Settings


async def test_a_server_may_be_started_again(ring: Ring) -> None:
    server = Server(ring, port=0)
    for _ in range(2):
        await server.start()
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            assert (await client.get("/health/live")).status_code == 200
        await server.stop()
        await server.stop()


async def test_a_stop_that_is_cancelled_leaves_nothing_behind(ring: Ring) -> None:
    before = asyncio.all_tasks()
    server = Server(ring, port=0)
    for iterations in (1, 20):
        await server.start()
        port = int(server.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /api/v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        await writer.drain()
        stopping = asyncio.create_task(server.stop())
        for _ in range(iterations):
            await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait({stopping})
        async with asyncio.timeout(30):
            with suppress(ConnectionError):
                await reader.read()
        writer.close()
        with pytest.raises(OSError, match=r"refused|Connect"):
            await asyncio.open_connection("127.0.0.1", port)
        await server.stop()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


async def test_a_server_may_be_started_while_it_stops(ring: Ring) -> None:
    server = Server(ring, port=0)
    await server.start()
    await asyncio.gather(server.stop(), server.start())
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.get("/health/live")).status_code == 200
    await server.stop()


async def test_server_does_not_change_the_programs_logging(ring: Ring) -> None:
    logger = logging.getLogger("uvicorn.access")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    async with Server(ring, port=0):
        assert logger.handlers == [handler]
        assert logger.propagate
    logger.removeHandler(handler)


async def test_pipelined_responses_arrive_complete_and_in_order(ring: Ring) -> None:
    ring = Ring(ring.db, Settings(auth="open"))
    head = b"GET /api/v1/logs/export HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\n"
    async with Server(ring, port=0) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(server.url.rpartition(":")[2])
        )
        # Pipelined: responses arrive in order over one connection.
        writer.write((head + b"\r\n") * 3 + head + b"Connection: close\r\n\r\n")
        responses = await reader.read()
        writer.close()
    assert responses.count(b"HTTP/1.1 200 OK") == 4
    assert responses.count(b"id,logged_at,provider") == 4
    assert responses.endswith(b"0\r\n\r\n")


async def test_server_stops_while_a_client_is_connected(ring: Ring) -> None:
    async with Server(ring, port=0) as server:
        server_port = int(server.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", server_port)
        writer.write(b"POST /api/v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        await writer.drain()
    writer.close()
