"""The SQL of all migrations: applied by psql, it leaves what `migrate` leaves."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Settings, migrate
from llmring_server.db.database import open_database
from llmring_server.db.embedded_postgres import find_programs
from llmring_server.db.migration_script import migration_script
from llmring_server.db.migrations import FOLDER, pending_migrations
from tests.conftest import drop
from tests.support.command_line import invoke

# Each object of two schemas, in one line of text.
CATALOGUE = """
SELECT format('column %s %s %s %s %s %s %s', attrelid::regclass, attname, attnum,
              format_type(atttypid, atttypmod), attnotnull, concat(attidentity, attgenerated),
              pg_get_expr(adbin, adrelid)) AS object
FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relnamespace = ANY ($1::regnamespace[]) AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT format('relation %s %s %s %s %s', oid::regclass, relkind, relpersistence, reloptions,
              pg_get_expr(relpartbound, oid))
FROM pg_class WHERE relnamespace = ANY ($1::regnamespace[])
UNION ALL
SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM pg_constraint WHERE connamespace = ANY ($1::regnamespace[])
UNION ALL
SELECT format('index %s', pg_get_indexdef(indexrelid))
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relnamespace = ANY ($1::regnamespace[])
UNION ALL
SELECT format('view %s %s', oid::regclass, pg_get_viewdef(oid))
FROM pg_class WHERE relnamespace = ANY ($1::regnamespace[]) AND relkind = 'v'
UNION ALL
SELECT format('partition of %s %s', inhparent::regclass, inhrelid::regclass)
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE relnamespace = ANY ($1::regnamespace[])
ORDER BY object
"""


@pytest.fixture
async def fresh(owner_settings: Settings) -> AsyncIterator[AsyncDatabaseManager]:
    """A schema that does not exist yet."""
    schema = f"fresh_{uuid4().hex[:8]}"
    async with open_database(owner_settings.model_copy(update={"database_schema": schema})) as db:
        yield db
        await drop(db, schema)


@pytest.fixture
async def migrated(fresh: AsyncDatabaseManager) -> AsyncIterator[AsyncDatabaseManager]:
    """A schema that `migrate` has migrated, on the same pool."""
    db = AsyncDatabaseManager(pool=fresh._pool, schema=f"migrated_{uuid4().hex[:8]}")
    await migrate(db)
    yield db
    await drop(db, db.schema or "")


async def run_script(db: AsyncDatabaseManager, url: str, folder: Path) -> str:
    """Apply the script for `db` with psql; return what psql reports as an error."""
    path = folder / "migrations.sql"
    path.write_text(await migration_script(db.schema or "", f"{db.schema}_mcp"))
    process = await asyncio.create_subprocess_exec(
        *(find_programs() / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", path, url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert bool(process.returncode) == bool(errors)
    return errors.decode()


async def catalogue(db: AsyncDatabaseManager) -> list[str]:
    """Describe the objects in the schemas of `db`, without the names of these schemas."""
    schema = db.schema or ""
    rows = await db.fetch_all(CATALOGUE, [schema, f"{schema}_mcp"])
    assert len(rows) > 500
    return sorted(row["object"].replace(schema, "schema") for row in rows)


async def records(db: AsyncDatabaseManager) -> list[tuple[str, ...]]:
    """Return what is recorded about the migrations of both schemas."""
    schema = db.schema or ""
    rows = await db.fetch_all(
        f"SELECT * FROM {schema}.schema_migrations"  # noqa: S608
        f" UNION ALL SELECT * FROM {schema}_mcp.schema_migrations ORDER BY module_name, filename"
    )
    columns = ("module_name", "filename", "checksum", "applied_by")
    return [tuple(row[column].replace(schema, "schema") for column in columns) for row in rows]


async def test_the_script_leaves_what_migrate_leaves(
    fresh: AsyncDatabaseManager, migrated: AsyncDatabaseManager, url: str, tmp_path: Path
) -> None:
    assert await run_script(fresh, url, tmp_path) == ""
    assert await pending_migrations(fresh) == []
    before = await catalogue(fresh)
    assert before == await catalogue(migrated)
    assert await records(fresh) == await records(migrated)
    # Neither another run nor `migrate` has anything to do.
    recorded = await fresh.fetch_all("SELECT * FROM {{tables.schema_migrations}} ORDER BY id")
    assert await run_script(fresh, url, tmp_path) == ""
    assert await migrate(fresh) == []
    assert await catalogue(fresh) == before
    assert recorded == await fresh.fetch_all(
        "SELECT * FROM {{tables.schema_migrations}} ORDER BY id"
    )


async def test_the_script_upgrades_the_tables_of_an_earlier_version(
    fresh: AsyncDatabaseManager,
    migrated: AsyncDatabaseManager,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder in ("llmring", "mcp_client"):
        shutil.copytree(FOLDER / folder, tmp_path / folder)
        max((tmp_path / folder).glob("*.sql")).unlink()
    with monkeypatch.context() as earlier:
        earlier.setattr("llmring_server.db.migrations.FOLDER", tmp_path)
        await migrate(fresh)
    assert len(await pending_migrations(fresh)) == 2
    assert await run_script(fresh, url, tmp_path) == ""
    assert await pending_migrations(fresh) == []
    assert await catalogue(fresh) == await catalogue(migrated)


async def test_a_script_that_fails_changes_nothing(
    fresh: AsyncDatabaseManager, url: str, tmp_path: Path
) -> None:
    theirs = f"{fresh.schema}_mcp"
    await fresh.execute(f"CREATE SCHEMA {theirs}; CREATE TABLE {theirs}.servers (id uuid)")
    assert 'relation "servers" already exists' in await run_script(fresh, url, tmp_path)
    assert await fresh.fetch_value("SELECT to_regnamespace($1)", fresh.schema) is None


def test_the_command_prints_the_script_for_the_schemas_that_it_is_given() -> None:
    def printed(*options: str, **environment: str) -> str:
        ran = invoke("db", "sql", *options, environment=environment)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    plain = printed()
    assert plain == printed() == asyncio.run(migration_script("llmring", "mcp_client"))
    assert "{{" not in plain
    given = printed("--schema", "calls", "--mcp-schema", "tools")
    assert given == printed(LLMRING_DATABASE_SCHEMA="calls", LLMRING_MCP_SCHEMA="tools")
    assert given == asyncio.run(migration_script("calls", "tools")) != plain
    refused = invoke("db", "sql", "--schema", "No", environment={})
    assert refused.returncode == 2
    assert "LLMRING_DATABASE_SCHEMA" in refused.stderr
