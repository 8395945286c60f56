"""What is borrowed from a pool is given back: soon, and at once if others may want it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import cast

import asyncpg
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, leases
from llmring_server.database import Database, opened
from llmring_server.leases import Connection, Lease

PID = "SELECT pg_backend_pid()"


@pytest.fixture
async def three(settings: Settings) -> AsyncIterator[AsyncDatabaseManager]:
    """Three connections."""
    changes = {"database_pool_size": 3, "database_pool_overflow": 0}
    async with opened(settings.model_copy(update=changes)) as db:
        yield db


def idle(db: AsyncDatabaseManager) -> int:
    assert db._pool
    return db._pool.get_idle_size()


async def pid(database: Database) -> int:
    async with database.connection() as connection:
        found: int = await connection.fetchval(PID)
        return found


async def test_who_comes_next_gets_the_same_connection(three: AsyncDatabaseManager) -> None:
    database = Database(three)
    first = await pid(database)
    # The pool would hand out the one that was given back last.
    async with three.acquire():
        assert await pid(database) == first
        assert idle(three) == 1


async def test_after_a_moment_all_are_given_back(three: AsyncDatabaseManager) -> None:
    database = Database(three)
    await asyncio.gather(*(pid(database) for _ in range(20)))
    async with asyncio.timeout(10), three.acquire(), three.acquire(), three.acquire():
        assert idle(three) == 0
    assert await pid(database)


async def test_the_last_one_is_given_back_at_once(three: AsyncDatabaseManager) -> None:
    async with three.acquire(), three.acquire():
        await pid(Database(three))
        assert idle(three) == 1


async def test_one_on_which_something_failed_is_given_back_at_once(
    three: AsyncDatabaseManager,
) -> None:
    with pytest.raises(asyncpg.UndefinedFunctionError):
        async with Database(three).connection() as connection:
            await connection.fetch("SELECT no_such_function()")
    assert idle(three) == 3


async def test_one_that_has_ended_meanwhile_is_not_used_again(
    three: AsyncDatabaseManager, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "MOMENT", 1.0)
    database = Database(three)
    async with database.connection() as connection:
        ended = await connection.fetchval(PID)
    await ring.db.execute("SELECT pg_terminate_backend($1)", ended)
    async with asyncio.timeout(0.9):
        while leases._is_open(connection):  # noqa: ASYNC110, the driver says nothing of it
            await asyncio.sleep(0)
    assert await pid(database) != ended


async def test_one_that_is_lost_on_its_way_back_keeps_no_other(
    three: AsyncDatabaseManager,
) -> None:
    database = Database(three)
    await pid(database)
    assert database._leases._rested
    async with three.acquire() as other:
        database._leases._rested.append(Lease(cast("Connection", other), AsyncExitStack()))

    async def lost() -> None:
        raise ConnectionResetError

    database._leases._rested[-1].back.push_async_callback(lost)
    async with asyncio.timeout(5):
        while idle(three) < 3:  # noqa: ASYNC110, the pool says nothing of it
            await asyncio.sleep(0)
    assert not database._leases._rested


async def test_one_that_nobody_could_give_back_is_given_back_after_the_next(
    three: AsyncDatabaseManager,
) -> None:
    database = Database(three)
    await pid(database)
    assert database._leases._returning
    database._leases._returning.cancel()
    await asyncio.sleep(0)
    await pid(database)
    async with asyncio.timeout(5), three.acquire(), three.acquire(), three.acquire():
        assert idle(three) == 0
