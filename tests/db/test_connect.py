"""Connecting to a database that is starting or does not exist."""

import asyncio
import socket

import pytest

from llmring_server import Ring, Settings
from llmring_server.errors import Unavailable


async def test_a_server_that_closes_the_connection_is_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmring_server.db.connect.START_TIMEOUT_SECONDS", 0.5)
    calls = 0

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.transport.abort()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match="Cannot connect to the database"):
            async with Ring.open(Settings(database_url=f"postgresql://u@127.0.0.1:{port}/x")):
                pass
    assert calls > 1


async def test_the_error_names_a_port_where_nothing_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmring_server.db.connect.START_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match=str(port)):
        async with Ring.open(f"postgresql://u:canary@127.0.0.1:{port}/x"):
            pass


async def test_without_a_database_the_error_says_what_to_set() -> None:
    with pytest.raises(Unavailable, match="LLMRING_DATABASE_URL"):
        async with Ring.open(Settings()):
            pass
