"""Pool monitor: what is in use and who waits, and one warning for each time that a pool is full."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from pgdbm import AsyncDatabaseManager, DatabaseConfig

from llmring_server import Ring, Settings
from llmring_server.db import pool_monitor
from llmring_server.db.database import Database
from llmring_server.errors import Overloaded
from tests.conftest import SCHEMA, pool_of


@pytest.fixture
async def parents(role_url: str) -> AsyncIterator[AsyncDatabaseManager]:
    """A parent's manager with a pool of its own, of five connections."""
    async with pool_of(role_url, SCHEMA) as db:
        yield db


@pytest.fixture(params=["own", "parent"])
async def ring(
    request: pytest.FixtureRequest, parents: AsyncDatabaseManager, settings: Settings
) -> AsyncIterator[Ring]:
    """A ring on its own pool of four connections, or on a parent's of five."""
    settings = settings.model_copy(update={"acquire_timeout": 0.05, "migrate_on_start": False})
    if request.param == "own":
        async with Ring.open(settings) as ring:
            yield ring
    else:
        ring = Ring(parents, settings)
        yield ring
        await ring.aclose()


async def occupy(database: Database, count: int, stack: AsyncExitStack) -> None:
    for _ in range(count):
        await stack.enter_async_context(database.acquire())


async def test_stats_of_an_idle_ring(ring: Ring) -> None:
    await ring.ping()
    await ring.aclose()
    stats = await ring.stats()
    pool = stats["pool"]
    assert pool
    assert (pool["in_use"], pool["waiting"], pool["oldest_wait_seconds"]) == (0, 0, 0.0)
    assert 1 <= pool["min_size"] <= pool["size"] <= pool["max_size"] in {4, 5}
    assert pool["idle"] + pool["kept"] == pool["size"]
    modules = stats["modules"]
    assert modules
    assert [module["schema"] for module in modules] == [SCHEMA, f"{SCHEMA}_mcp"]
    for module in modules:
        assert module["pending"] == []
        assert module["applied"] > 0
        assert module["last_applied_at"]
    queue = stats["commit_queue"]
    assert (queue["pending"], queue["in_flight"], queue["commits"]) == (0, 0, 0)
    assert (queue["max_pending"], queue["max_pending_of_project"]) == (5000, 1250)
    reads = stats["long_reads"]
    assert reads
    assert (reads["statements"]["in_use"], reads["statements"]["waiting"]) == (0, 0)
    assert reads["statements"]["slots"] >= 1


async def test_stats_of_a_full_pool_tell_who_waits(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.ring.STATS_TIMEOUT_SECONDS", 0.01)
    async with AsyncExitStack() as stack:
        await occupy(ring._database, ring._database.max_connections, stack)
        waiting = asyncio.create_task(ring.ping())
        await asyncio.sleep(0)
        pool = ring._database.pool_stats()
        assert pool
        assert (pool["in_use"], pool["idle"]) == (pool["max_size"], 0)
        assert pool["waiting"] == 1
        assert 0 <= pool["oldest_wait_seconds"] < 60
        stats = await ring.stats()
        assert stats["modules"] is None  # no connection
        with pytest.raises(Overloaded):
            await waiting
    pool = ring._database.pool_stats()
    assert pool
    assert pool["waiting"] == 0


async def test_pending_migrations_are_named(db: AsyncDatabaseManager) -> None:
    fresh = AsyncDatabaseManager(pool=db._pool, schema="never_migrated")
    modules = (await Ring(fresh).stats())["modules"]
    assert modules
    assert [module["applied"] for module in modules] == [0, 0]
    assert "001_usage.sql" in modules[0]["pending"]
    assert modules[0]["last_applied_at"] is None


async def test_a_pool_that_is_full_for_long_is_warned_of_once_until_it_recovers(
    ring: Ring, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_monitor, "LOOK_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(pool_monitor, "WARN_AFTER_SECONDS", 1000.0)
    database = ring._database

    async def fill(seconds: float) -> None:
        """Fill the pool, and let others find it so after less than these seconds."""
        async with AsyncExitStack() as stack:
            await occupy(database, database.max_connections, stack)
            for limit in (1000.0, seconds, seconds):
                monkeypatch.setattr(pool_monitor, "WARN_AFTER_SECONDS", limit)
                with pytest.raises(Overloaded):
                    await ring.ping()
            monkeypatch.setattr(pool_monitor, "WARN_AFTER_SECONDS", 1000.0)

    with caplog.at_level(logging.WARNING, logger=pool_monitor.__name__):
        await fill(1000.0)
        assert caplog.messages == []
        await fill(0.03)
        [warning] = caplog.messages
        assert f"80 % of the {database.max_connections} database connections" in warning
        assert "1 requests wait" in warning
        await ring.ping()
        await fill(0.03)
        assert len(caplog.messages) == 2


async def test_a_busy_pool_with_room_is_not_warned_of(
    ring: Ring, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_monitor, "LOOK_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(pool_monitor, "WARN_AFTER_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING, logger=pool_monitor.__name__):
        async with AsyncExitStack() as stack:
            await occupy(ring._database, ring._database.max_connections - 2, stack)
            for _ in range(5):
                await ring.ping()
    assert caplog.messages == []


async def test_managers_of_one_pool_share_its_monitor(db: AsyncDatabaseManager) -> None:
    other = AsyncDatabaseManager(pool=db._pool, schema="other")
    assert pool_monitor.monitor_of(db._pool) is pool_monitor.monitor_of(other._pool)


async def test_a_manager_that_connects_again_is_still_watched(url: str, settings: Settings) -> None:
    config = DatabaseConfig(
        connection_string=url, schema=SCHEMA, min_connections=1, max_connections=3
    )
    manager = AsyncDatabaseManager(config)
    ring = Ring(manager, settings)
    for _ in range(2):
        await manager.connect()
        await ring.ping()
        async with AsyncExitStack() as stack:
            await occupy(ring._database, 2, stack)
            pool = ring._database.pool_stats()
            assert pool
            assert pool["in_use"] == 2
        await manager.disconnect()
        assert ring._database.pool_stats() is None
    await ring.aclose()
