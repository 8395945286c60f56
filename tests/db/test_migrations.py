"""Migrations: applied once and completely by any number of processes, and readable by pgdbm."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from pgdbm import AsyncDatabaseManager, AsyncMigrationManager

from llmring_server import Ring, Settings, migrate
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.db.database import open_database
from llmring_server.db.migrations import FOLDER, migration_status, pending_migrations
from llmring_server.errors import NotMigrated
from llmring_server.maintenance import maintain
from tests.conftest import drop
from tests.support.pooler import is_between

PROCESSES = 8
ROUNDS = 10
# One table of each file.
TABLES = {
    "llmring": (
        "usage_logs",
        "projects",
        "prices",
        "registry_files",
        "conversations",
        "templates",
        "alias_bindings",
        "receipts",
    ),
    "mcp_client": ("servers",),
}

MIGRATE = """
import asyncio, sys
from llmring_server import Settings, migrate
from llmring_server.db.database import open_database

async def main():
    settings = Settings(database_url=sys.argv[1], database_pool_size=1, database_pool_overflow=0)
    for schema in sys.stdin:
        chosen = settings.model_copy(update={"database_schema": schema.strip()})
        async with open_database(chosen) as db:
            print(len(await migrate(db)), flush=True)

asyncio.run(main())
"""


def names(*folders: str) -> list[str]:
    """Return the names of the migration files, in the order in which they are applied."""
    folders = folders or ("llmring", "mcp_client")
    return [file.name for folder in folders for file in sorted((FOLDER / folder).glob("*.sql"))]


@pytest.fixture
async def fresh(owner_settings: Settings) -> AsyncIterator[AsyncDatabaseManager]:
    """A schema that does not exist yet."""
    schema = f"fresh_{uuid4().hex[:8]}"
    async with open_database(owner_settings.model_copy(update={"database_schema": schema})) as db:
        yield db
        await drop(db, schema)


async def test_migrate_returns_the_applied_files_and_applies_them_once(
    fresh: AsyncDatabaseManager,
) -> None:
    files = names()
    assert await pending_migrations(fresh) == files
    assert await migrate(fresh) == files
    assert await migrate(fresh) == await pending_migrations(fresh) == []
    assert all(step.applied_at and step.applied_at.tzinfo for step in await migration_status(fresh))


async def test_pgdbm_applies_the_files_without_the_server(fresh: AsyncDatabaseManager) -> None:
    manager = AsyncDatabaseManager(pool=fresh._pool, schema=f"{fresh.schema}_mcp")
    for db, folder in ((fresh, "llmring"), (manager, "mcp_client")):
        await db.execute(f"CREATE SCHEMA {db.schema}")
        migrations = AsyncMigrationManager(db, str(FOLDER / folder), module_name="plain")
        result = await migrations.apply_pending_migrations()
        assert [each["filename"] for each in result["applied"]] == names(folder)
        for name in TABLES[folder]:
            assert await db.table_exists(name)


async def test_tables_of_another_program_are_left_alone(
    fresh: AsyncDatabaseManager,
) -> None:
    theirs = f"{fresh.schema}_mcp"
    await fresh.execute(f"CREATE SCHEMA {theirs}; CREATE TABLE {theirs}.servers (id uuid)")
    with pytest.raises(NotMigrated, match="LLMRING_MCP_SCHEMA"):
        await migrate(fresh)
    assert await pending_migrations(fresh) == names()
    other = f"{fresh.schema}_x"
    assert await migrate(fresh, other) == names()
    await fresh.execute(f"DROP SCHEMA {other} CASCADE")


async def test_a_role_that_may_not_create_a_schema_gets_instructions(settings: Settings) -> None:
    missing = settings.model_copy(update={"database_schema": f"fresh_{uuid4().hex[:8]}"})
    async with open_database(missing) as db:
        with pytest.raises(NotMigrated, match="may not create the schema fresh_"):
            await migrate(db)


async def test_a_migration_that_fails_changes_nothing(
    fresh: AsyncDatabaseManager,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("sql")
    for name in ("llmring", "mcp_client"):
        (folder / name).mkdir()
    (folder / "llmring" / "001_good.sql").write_text("CREATE TABLE {{tables.good}} ()")
    (folder / "mcp_client" / "001_bad.sql").write_text("CREATE TABLE nonsense")
    monkeypatch.setattr("llmring_server.db.migrations.FOLDER", folder)
    with pytest.raises(Exception, match="001_bad"):
        await migrate(fresh)
    for schema in (fresh.schema, f"{fresh.schema}_mcp"):
        assert await fresh.fetch_value("SELECT to_regnamespace($1)", schema) is None


async def test_two_instances_in_one_database_have_separate_schemas(
    fresh: AsyncDatabaseManager,
) -> None:
    other = AsyncDatabaseManager(pool=fresh._pool, schema=f"{fresh.schema}_b")
    try:
        assert len(await migrate(fresh)) == len(await migrate(other)) == len(names())
    finally:
        await drop(fresh, other.schema or "")


async def test_the_schema_of_mcp_can_be_named(fresh: AsyncDatabaseManager) -> None:
    mine = f"{fresh.schema}_mine"
    try:
        assert await migrate(fresh, mine) == names()
        tables = {f"{mine}.servers": True, f"{fresh.schema}_mcp.servers": False}
        for table, there in tables.items():
            found = await fresh.fetch_value("SELECT to_regclass($1) IS NOT NULL", table)
            assert found is there
        assert await pending_migrations(fresh, mine) == []
        # In the default schema, the files of MCP are pending.
        assert await pending_migrations(fresh) == names("mcp_client")
        ring = Ring(fresh, Settings(mcp_schema=mine))
        assert await ring.mcp.servers.list(ProjectId(uuid4())) == []
        await ring.ready()
        with pytest.raises(NotMigrated):
            await Ring(fresh).ready()
    finally:
        await fresh.execute(f"DROP SCHEMA IF EXISTS {mine} CASCADE")


@pytest.mark.slow
async def test_concurrent_processes_apply_each_migration_once(
    url: str, owner_settings: Settings
) -> None:
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            MIGRATE,
            f"{url}&pgbouncer=true" if is_between() else url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]
    async with open_database(owner_settings) as db:
        for _ in range(ROUNDS):
            schema = f"race_{uuid4().hex[:8]}"
            assert sorted(await migrate_in_all(workers, schema)) == [0] * (PROCESSES - 1) + [
                len(names())
            ]
            await drop(db, schema)
    for worker in workers:
        await worker.communicate(b"")
        assert worker.returncode == 0


async def migrate_in_all(workers: list[asyncio.subprocess.Process], schema: str) -> list[int]:
    """Let all workers migrate a schema at the same time; return how many files each applied."""
    for worker in workers:
        assert worker.stdin
        worker.stdin.write(f"{schema}\n".encode())
    return [int(await worker.stdout.readline()) for worker in workers if worker.stdout]


async def test_a_new_partition_gets_its_rows_from_the_default_partition(
    fresh: AsyncDatabaseManager,
) -> None:
    await migrate(fresh)
    now = datetime.now(UTC)
    this_month = f"{now:%Y_%m}"
    await fresh.execute(f"DROP TABLE {{{{tables.usage_logs_{this_month}}}}}")
    await fresh.execute(
        "INSERT INTO {{tables.usage_logs}} VALUES (gen_random_uuid(), $1, gen_random_uuid(),"
        " 1, 1, 0, NULL, 1, 'client', 'ok', 'p', 'm', 'default', NULL, NULL, NULL, '{}')",
        now,
    )
    assert f"usage_logs_{this_month}" in (await maintain(fresh, actor=LIBRARY)).created
    count = "SELECT count(*) FROM {{tables.usage_logs_%s}}"
    assert await fresh.fetch_value(count % this_month) == 1
    assert await fresh.fetch_value(count % "default") == 0
