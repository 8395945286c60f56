"""Connecting to a database that is starting or does not exist."""

import asyncio
import logging
import socket

import asyncpg
import pytest

from llmring_server import Ring, Settings
from llmring_server.db.connect import connecting_to
from llmring_server.db.database import open_database
from llmring_server.errors import Unavailable
from tests.cli.test_db import with_password
from tests.support.postgres import database


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


@pytest.mark.direct("the sessions of a pooler are not those of the server's connections")
async def test_a_failed_retry_of_the_pool_is_one_line_without_the_password(
    server_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    retried = asyncio.Event()

    class Listener(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            retried.set()

    async with database(server_url, "retried") as url:
        settings = Settings(database_url=with_password(url, "canary"), database_pool_size=2)
        async with open_database(settings) as db, db.acquire() as connection:
            name = await connection.fetchval("SELECT current_database()")
            logging.getLogger("asyncpg.pool").addHandler(listener := Listener())
            administrator = await asyncpg.connect(server_url)
            try:
                await administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                await administrator.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
                    name,
                )
                await asyncio.wait_for(retried.wait(), 30)
            finally:
                logging.getLogger("asyncpg.pool").removeHandler(listener)
                await administrator.close()
    [record, *_] = [record for record in caplog.records if record.name == "asyncpg.pool"]
    assert record.getMessage().startswith("The pool cannot connect to the database: ")
    assert "is not currently accepting connections" in record.getMessage()
    assert "\n" not in caplog.text.strip()
    assert "canary" not in caplog.text


def test_every_loop_reports_where_nothing_listens() -> None:
    # uvloop's error has no address.
    refused = ConnectionRefusedError(111, "Connection refused")
    with (
        pytest.raises(Unavailable, match="nothing listens on h1:5432 or h2:5433"),
        connecting_to("the database", "postgresql://u:canary@h1:5432,h2:5433/x"),
    ):
        raise refused
