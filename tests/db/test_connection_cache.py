"""What our own pool lends comes back: soon, and at once if others may want it."""

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
async def three(settings: Settings) -> AsyncIterator[Database]:
    """Three connections."""
    changes = {"database_pool_size": 3, "database_pool_overflow": 0}
    async with open_database(settings.model_copy(update=changes)) as db:
        yield Database(db)


def pool_of(database: Database) -> Pool:
    assert database.manager._pool
    return database.manager._pool


async def pid(database: Database) -> int:
    async with database.connection() as connection:
        found: int = await connection.fetchval(PID)
        return found


async def all_are_idle(database: Database) -> None:
    async with asyncio.timeout(5):
        while pool_of(database).get_idle_size() < 3:  # noqa: ASYNC110, it says nothing of it
            await asyncio.sleep(0)


async def test_who_comes_next_gets_the_same_connection(three: Database) -> None:
    first = await pid(three)
    # The pool would hand out the one that was given back last.
    async with three.manager.acquire():
        assert await pid(three) == first
        assert pool_of(three).get_idle_size() == 1


async def test_after_a_moment_all_are_given_back(three: Database) -> None:
    await asyncio.gather(*(pid(three) for _ in range(20)))
    assert three._leases._rested
    await all_are_idle(three)
    assert await pid(three)


async def test_the_last_one_is_given_back_at_once(three: Database) -> None:
    async with three.manager.acquire(), three.manager.acquire():
        await pid(three)
        assert pool_of(three).get_idle_size() == 1


async def test_one_on_which_something_failed_is_given_back_at_once(three: Database) -> None:
    with pytest.raises(asyncpg.UndefinedFunctionError):
        async with three.connection() as connection:
            await connection.fetch("SELECT no_such_function()")
    assert pool_of(three).get_idle_size() == 3


async def test_one_that_was_out_for_long_is_given_back(
    three: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pid(three)
    assert three._leases._rested
    monkeypatch.setattr(connection_cache, "MAX_HELD_SECONDS", 0)
    await pid(three)
    assert pool_of(three).get_idle_size() == 3


async def test_one_that_has_ended_meanwhile_is_not_used_again(
    three: Database, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_cache, "IDLE_SECONDS", 1.0)
    ended = await pid(three)
    [lease] = three._leases._rested
    await ring.db.execute("SELECT pg_terminate_backend($1)", ended)
    async with asyncio.timeout(0.9):
        while not is_lost(lease.connection):  # noqa: ASYNC110, the driver says nothing of it
            await asyncio.sleep(0)
    assert await pid(three) != ended


async def test_one_that_is_lost_on_its_way_back_keeps_no_other(
    three: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, losses = asyncpg.Pool.release, [ConnectionResetError()]

    async def lost(pool: Pool, connection: Any, **more: Any) -> None:
        await release(pool, connection, **more)
        if losses:
            raise losses.pop()

    monkeypatch.setattr(asyncpg.Pool, "release", lost)
    await asyncio.gather(pid(three), pid(three))
    assert len(three._leases._rested) == 2
    await all_are_idle(three)
    assert not losses


async def test_one_that_nobody_could_give_back_is_given_back_after_the_next(
    three: Database,
) -> None:
    await pid(three)
    assert three._leases._returning
    three._leases._returning.cancel()
    await asyncio.sleep(0)
    await pid(three)
    await all_are_idle(three)


async def test_a_parents_pool_is_asked_for_every_connection(url: str) -> None:
    asked = 0

    async def ask(_: Any) -> None:
        nonlocal asked
        asked += 1

    async with asyncpg.create_pool(url, min_size=2, max_size=2, setup=ask) as pool:
        database = Database(AsyncDatabaseManager(pool=pool))
        for _ in range(3):
            await pid(database)
            assert pool.get_idle_size() == 2
    assert asked == 3
