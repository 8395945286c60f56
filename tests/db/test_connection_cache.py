"""Connection cache: connections are reused, and return to the pool soon."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.db import connection_cache
from llmring_server.db.database import Database, Pool, open_database
from llmring_server.db.errors import is_lost

PID = "SELECT pg_backend_pid()"


@pytest.fixture
async def three(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A database with a pool of three connections."""
    # Long enough that a busy machine does not release connections between two steps of a test.
    monkeypatch.setattr("llmring_server.db.connection_cache.IDLE_SECONDS", 0.2)
    changes = {"database_pool_size": 3, "database_pool_overflow": 0}
    async with open_database(settings.model_copy(update=changes)) as db:
        yield Database(db)


def pool_of(database: Database) -> Pool:
    assert database.manager._pool
    return database.manager._pool


async def pid(database: Database) -> int:
    async with database.acquire() as connection:
        backend: int = await connection.fetchval(PID)
        return backend


async def all_are_idle(database: Database) -> None:
    async with asyncio.timeout(5):
        while pool_of(database).get_idle_size() < 3:  # noqa: ASYNC110, the pool does not report it
            await asyncio.sleep(0)


async def test_the_next_user_gets_the_same_connection(three: Database) -> None:
    first = await pid(three)
    # The pool would hand out the connection that was released last.
    async with three.manager.acquire():
        assert await pid(three) == first
        assert pool_of(three).get_idle_size() == 1


async def test_idle_connections_are_released_after_a_moment(three: Database) -> None:
    await asyncio.gather(*(pid(three) for _ in range(20)))
    await all_are_idle(three)
    assert await pid(three)


async def test_the_last_connection_of_the_pool_is_released_at_once(three: Database) -> None:
    async with three.manager.acquire(), three.manager.acquire():
        await pid(three)
        assert pool_of(three).get_idle_size() == 1


async def test_a_connection_is_released_after_a_failed_statement(
    three: Database,
) -> None:
    with pytest.raises(asyncpg.UndefinedFunctionError):
        async with three.acquire() as connection:
            await connection.fetch("SELECT no_such_function()")
    assert pool_of(three).get_idle_size() == 3


async def test_a_connection_is_released_after_its_maximum_time(
    three: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pid(three)
    monkeypatch.setattr(connection_cache, "MAX_HELD_SECONDS", 0)
    await pid(three)
    assert pool_of(three).get_idle_size() == 3


@pytest.mark.direct("the sessions of a pooler are not those of the server's connections")
async def test_a_connection_that_was_closed_is_not_reused(
    three: Database, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_cache, "IDLE_SECONDS", 1.0)
    ended = await pid(three)
    [cached] = three._connections._idle
    await ring.db.execute("SELECT pg_terminate_backend($1)", ended)
    async with asyncio.timeout(0.9):
        while not is_lost(cached.connection):  # noqa: ASYNC110, the driver does not report it
            await asyncio.sleep(0)
    assert await pid(three) != ended


async def test_a_connection_lost_on_release_does_not_keep_the_others(
    three: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, losses = asyncpg.Pool.release, [ConnectionResetError()]

    async def release_and_lose(pool: Pool, connection: Any, **options: Any) -> None:
        await release(pool, connection, **options)
        if losses:
            raise losses.pop()

    monkeypatch.setattr(asyncpg.Pool, "release", release_and_lose)
    await asyncio.gather(pid(three), pid(three))
    assert len(three._connections._idle) == 2
    await all_are_idle(three)
    assert not losses


async def test_connections_are_released_even_if_the_release_task_was_cancelled(
    three: Database,
) -> None:
    await pid(three)
    assert three._connections._release_task
    three._connections._release_task.cancel()
    await asyncio.sleep(0)
    await pid(three)
    await all_are_idle(three)


async def test_connections_of_a_parents_pool_are_not_kept(url: str) -> None:
    acquired = 0

    async def count(_: Any) -> None:
        nonlocal acquired
        acquired += 1

    async with asyncpg.create_pool(url, min_size=2, max_size=2, setup=count) as pool:
        database = Database(AsyncDatabaseManager(pool=pool))
        for _ in range(3):
            await pid(database)
            assert pool.get_idle_size() == 2
    assert acquired == 3
