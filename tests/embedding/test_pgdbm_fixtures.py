"""pgdbm's fixtures for pytest: an application's tests have the server in their databases."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from pgdbm import AsyncDatabaseManager, DatabaseConfig, DatabaseTestConfig, TransactionManager
from pgdbm.fixtures.conftest import test_db, test_db_factory, test_db_isolated, test_db_with_schema
from pgdbm.testing import AsyncTestDatabase

from llmring_server import Ring, migrate
from llmring_server.core.identity import ProjectId
from llmring_server.usage.models import NewCall
from tests.conftest import CALL

__all__ = ["test_db", "test_db_factory", "test_db_isolated", "test_db_with_schema"]

ENTRY = NewCall(**CALL, cost=Decimal(1))


@pytest.fixture(autouse=True)
def test_config(server_url: str, monkeypatch: pytest.MonkeyPatch) -> DatabaseTestConfig:
    """The fixtures create databases on the server of this test run."""
    parts = urlsplit(server_url)
    options = parse_qs(parts.query)
    config = DatabaseTestConfig(
        host=parts.hostname or quote(options["host"][0], safe=""),
        port=parts.port or int(options.get("port", ["5432"])[0]),
        user=parts.username or "postgres",
        password=parts.password or "unused",
    )
    monkeypatch.setattr("pgdbm.fixtures.conftest.DEFAULT_TEST_CONFIG", config)
    return config


@pytest.fixture
async def app_db(test_db_factory: Any) -> AsyncIterator[AsyncDatabaseManager]:
    """A fixture of an application, built on pgdbm's: a shared pool, and a migrated schema."""
    created = await test_db_factory.create_db(suffix="myapp")
    pool = await AsyncDatabaseManager.create_shared_pool(
        DatabaseConfig(connection_string=created.config.get_dsn(), min_connections=1)
    )
    db = AsyncDatabaseManager(pool=pool, schema="myapp")
    await migrate(db)
    yield db
    await pool.close()


async def requests(ring: Ring, project_id: ProjectId) -> int:
    return (await ring.usage.stats(project_id)).summary.total_requests


async def test_a_fixture_of_an_application_has_the_server_in_a_database_of_its_own(
    app_db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    assert (await app_db.fetch_value("SELECT current_database()")).endswith("_myapp")
    ring = Ring(app_db)
    await ring.usage.log(project_id, ENTRY)
    assert await requests(ring, project_id) == 1
    await ring.aclose()


@pytest.mark.full
async def test_the_isolated_fixture_rolls_back_what_the_server_wrote(
    test_db: AsyncDatabaseManager, test_db_isolated: TransactionManager, project_id: ProjectId
) -> None:
    # The transaction of the fixture has begun: migrations are visible in it once they are there.
    await migrate(test_db)
    ring = Ring(test_db)
    inside = ring.within(test_db_isolated)
    await inside.usage.log(project_id, ENTRY)
    assert [await requests(each, project_id) for each in (inside, ring)] == [1, 0]
    await test_db_isolated.execute("ROLLBACK TO SAVEPOINT test_isolation")
    assert await requests(inside, project_id) == 0
    await ring.aclose()


@pytest.mark.full
async def test_the_fixture_with_a_schema_is_that_of_the_server(
    test_db_with_schema: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    await migrate(test_db_with_schema)
    ring = Ring(test_db_with_schema)
    await ring.usage.log(project_id, ENTRY)
    count = "SELECT count(*) FROM test_schema.usage_logs"
    assert await test_db_with_schema.fetch_value(count) == 1
    await ring.aclose()


@pytest.mark.full
async def test_a_test_database_without_fixtures(
    test_config: DatabaseTestConfig, project_id: ProjectId
) -> None:
    async with AsyncTestDatabase.create(schema="llmring", config=test_config) as db:
        await migrate(db)
        ring = Ring(db)
        await ring.usage.log(project_id, ENTRY)
        assert await requests(ring, project_id) == 1
        await ring.aclose()
