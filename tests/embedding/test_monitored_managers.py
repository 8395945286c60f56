"""Monitored managers: the parent's history and metrics include the server's statements."""

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import uuid4

import asyncpg
import httpx
import pytest
from pgdbm import AsyncDatabaseManager, DatabaseConfig, MonitoredAsyncDatabaseManager

from llmring_server import Ring, Settings, create_app
from llmring_server.core.identity import ProjectId
from llmring_server.db.database import Database, Pool
from llmring_server.errors import NotMigrated
from llmring_server.usage.models import NewCall
from tests.conftest import CALL, SCHEMA, drop

ENTRY = NewCall(**CALL, cost=Decimal(1))
# What the driver itself adds to the statements that it is given.
OF_THE_DRIVER = re.compile(
    r"\s*(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)"
    r"|SELECT pg_advisory_unlock_all|WITH RECURSIVE typeinfo_tree|\s*SELECT\s.*set_config\('jit'",
    re.DOTALL,
)


@pytest.fixture
async def statements() -> list[str]:
    """What has run on the pool, as the driver reports it."""
    return []


@pytest.fixture
async def pool(url: str, statements: list[str]) -> AsyncIterator[Pool]:
    async def log(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        connection.add_query_logger(lambda query: statements.append(query.query))

    async with asyncpg.create_pool(url, min_size=1, max_size=3, init=log) as pool:
        yield pool


@pytest.fixture
async def parent(pool: Pool) -> MonitoredAsyncDatabaseManager:
    return MonitoredAsyncDatabaseManager(pool=pool, schema=SCHEMA)


def history(parent: MonitoredAsyncDatabaseManager) -> Counter[str]:
    return Counter(query.query for query in parent.get_query_history())


async def test_history_has_every_statement_that_runs(
    parent: MonitoredAsyncDatabaseManager, statements: list[str], project_id: ProjectId
) -> None:
    ring = Ring(parent)
    await ring.usage.log_many(project_id, [ENTRY, ENTRY])
    await ring.usage.log(project_id, ENTRY, "a key")
    assert len(await ring.usage.logs(project_id)) == 3
    assert (await ring.usage.stats(project_id)).summary.total_requests == 3
    await ring.aclose()
    metrics = await parent.get_metrics()
    ran = Counter(query for query in statements if not OF_THE_DRIVER.match(query))
    assert history(parent) == ran
    assert metrics.queries_executed == ran.total() > 3
    assert metrics.slowest_query_ms > 0


async def test_history_has_the_statement_of_an_export(
    parent: MonitoredAsyncDatabaseManager, project_id: ProjectId, key: str
) -> None:
    transport = httpx.ASGITransport(create_app(parent, settings=Settings(auth="open")))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"X-API-Key": key}
    ) as client:
        await Ring(parent).usage.log(project_id, ENTRY)
        before = history(parent)
        exported = await client.get("/api/v1/logs/export")
    assert exported.text.count("gpt-4o-mini") == 1
    assert any("usage_logs" in query for query in history(parent) - before)


async def test_failed_statements_are_counted_as_failed(pool: Pool, project_id: ProjectId) -> None:
    parent = MonitoredAsyncDatabaseManager(pool=pool, schema="no_such_schema")
    with pytest.raises(NotMigrated):
        await Ring(parent).usage.logs(project_id)
    assert (await parent.get_metrics()).queries_failed == 1
    assert "no_such_schema" in (parent.get_query_history()[0].error or "")


async def test_slow_statements_of_a_manager_with_a_pool_of_its_own_are_logged(
    url: str, project_id: ProjectId, caplog: pytest.LogCaptureFixture
) -> None:
    config = DatabaseConfig(connection_string=url, schema=SCHEMA, min_connections=1)
    parent = MonitoredAsyncDatabaseManager(config, slow_query_threshold_ms=0)
    await parent.connect()
    with caplog.at_level(logging.WARNING, "pgdbm"):
        await Ring(parent).usage.logs(project_id)
    assert "Slow query detected" in caplog.text
    assert f'"{SCHEMA}".' in parent.get_slow_queries(0.001)[0].query
    await parent.disconnect()


async def test_statements_in_the_parents_transaction_are_counted(
    parent: MonitoredAsyncDatabaseManager, project_id: ProjectId
) -> None:
    async with parent.transaction() as transaction:
        await Ring(parent).within(transaction).usage.log(project_id, ENTRY)
    assert any("usage_logs" in query for query in history(parent))


async def test_statements_in_another_schema_of_the_parent_are_counted(
    parent: MonitoredAsyncDatabaseManager, key: str
) -> None:
    schema = f"fresh_{uuid4().hex[:8]}"
    app = create_app(parent, schema=schema, settings=Settings(auth="open"))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.post("/api/v1/log", json=CALL, headers={"X-API-Key": key})
    assert response.status_code == 200
    await app.state.ring.aclose()
    queries = "\n".join(history(parent))
    # The migrations and the call.
    assert f'CREATE TABLE "{schema}".usage_logs' in queries
    assert f'INSERT INTO "{schema}".usage_logs' in queries
    await drop(parent, schema)


async def test_arguments_are_recorded_only_if_the_parent_asks_for_it(
    pool: Pool, parent: MonitoredAsyncDatabaseManager, project_id: ProjectId
) -> None:
    recording = MonitoredAsyncDatabaseManager(pool=pool, schema=SCHEMA, record_args=True)
    for manager in (parent, recording):
        await Ring(manager).usage.logs(project_id)
    assert not any(query.args for query in parent.get_query_history())
    assert any(project_id in query.args for query in recording.get_query_history())


async def test_a_plain_manager_gets_the_connections_of_its_pool(
    db: AsyncDatabaseManager, parent: MonitoredAsyncDatabaseManager
) -> None:
    async with Database(db).acquire() as plain, Database(parent).acquire() as watched:
        assert isinstance(plain, asyncpg.pool.PoolConnectionProxy)
        assert not isinstance(watched, asyncpg.pool.PoolConnectionProxy)
