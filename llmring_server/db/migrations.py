"""Bring a schema up to date, once, however many workers start at the same moment."""

from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import asyncpg
from pgdbm import AsyncDatabaseManager, AsyncMigrationManager
from pgdbm.errors import MigrationError

from llmring_server.db.connection_cache import Connection
from llmring_server.db.database import Database
from llmring_server.db.errors import translated
from llmring_server.db.repository import SQL
from llmring_server.errors import NotMigrated
from llmring_server.maintenance import partition
from llmring_server.settings import Settings

FILES = SQL / "migrations"


class SchemaModule(NamedTuple):
    """A folder of migrations, and the schema that they make."""

    folder: str
    schema: str

    @property
    def name(self) -> str:
        """What pgdbm calls it, in the schema's own list of what was applied."""
        return f"{'llmring_mcp' if self.folder == 'mcp_client' else 'llmring_server'}_{self.schema}"

    @property
    def setting(self) -> str:
        """Name what moves it elsewhere."""
        return f"LLMRING_{'MCP' if self.folder == 'mcp_client' else 'DATABASE'}_SCHEMA"

    def files(self) -> list[str]:
        return sorted(file.name for file in (FILES / self.folder).glob("*.sql"))


class MigrationStatus(NamedTuple):
    """A migration file, and when it was applied (None: it is pending)."""

    filename: str
    applied_at: datetime | None


class _SingleConnectionPool(NamedTuple):
    """A pool of one connection, already held."""

    connection: Connection

    def acquire(self) -> AbstractAsyncContextManager[Connection]:
        return nullcontext(self.connection)


def _modules(database: Database) -> list[SchemaModule]:
    return [
        SchemaModule("llmring", database.schema),
        SchemaModule("mcp_client", database.mcp_schema),
    ]


async def _locked(connection: Connection, module: SchemaModule) -> None:
    # pgdbm prepares its own table before it takes its lock, so we take one first.
    with translated(connection):
        await connection.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", module.name)
        # Behind a long query we would block everyone who comes after us: give up instead.
        await connection.execute("SET LOCAL lock_timeout = '10s'")


async def _created(connection: Connection, schema: str) -> None:
    # Reading pg_namespace, unlike IF NOT EXISTS, sees what the last holder of the lock did.
    known = "SELECT true FROM pg_namespace WHERE nspname = $1"
    try:
        with translated(connection):
            if not await connection.fetchval(known, schema):
                await connection.execute(f'CREATE SCHEMA "{schema}"')
    except asyncpg.InsufficientPrivilegeError as exc:
        raise NotMigrated(
            f"This role may not create the schema {schema}: create it for this role, or name one"
            " that is there (LLMRING_DATABASE_SCHEMA, LLMRING_MCP_SCHEMA)."
        ) from exc


async def _applied(connection: Connection, module: SchemaModule) -> list[str]:
    await _created(connection, module.schema)
    held = AsyncDatabaseManager(
        pool=cast("Any", _SingleConnectionPool(connection)), schema=module.schema
    )
    steps = AsyncMigrationManager(held, str(FILES / module.folder), module_name=module.name)
    try:
        with translated(connection):
            done = await steps.apply_pending_migrations()
    except MigrationError as exc:
        raise NotMigrated(
            f"A migration failed and changed nothing: {exc}. If the schema {module.schema} holds"
            f" tables of something else, name another one: {module.setting}."
        ) from exc
    return [each["filename"] for each in done["applied"]]


async def migrate(db: AsyncDatabaseManager, mcp_schema: str | None = None) -> list[str]:
    """Apply what is missing, all or nothing; return the names of the files.

    What is not of MCP goes into `db`'s schema, the rest into `mcp_schema`, or where Settings say.
    """
    database = Database(db, Settings(mcp_schema=mcp_schema))
    # A role that may create nothing can start a server where nothing is missing.
    missing = await pending(db, mcp_schema)
    applied = []
    async with database.transaction() as inner, inner.connection() as connection:
        for module in _modules(database):
            await _locked(connection, module)
            if missing:
                applied += await _applied(connection, module)
        await partition(database, connection)
    return applied


async def migration_status(
    db: AsyncDatabaseManager, mcp_schema: str | None = None
) -> list[MigrationStatus]:
    """List every migration file with the time when it was applied."""
    database = Database(db, Settings(mcp_schema=mcp_schema))
    async with database.connection() as connection:
        return [step for module in _modules(database) for step in await _steps(connection, module)]


async def _steps(connection: Connection, module: SchemaModule) -> list[MigrationStatus]:
    table = f'"{module.schema}".schema_migrations'
    rows = []
    with translated(connection):
        if await connection.fetchval("SELECT to_regclass($1)", table):
            applied = f"SELECT filename, applied_at FROM {table} WHERE module_name = $1"  # noqa: S608, our own name
            rows = await connection.fetch(applied, module.name)
    times = {row["filename"]: row["applied_at"].replace(tzinfo=UTC) for row in rows}
    return [MigrationStatus(name, times.get(name)) for name in module.files()]


async def pending(db: AsyncDatabaseManager, mcp_schema: str | None = None) -> list[str]:
    """Name the migration files that are missing."""
    return [
        step.filename for step in await migration_status(db, mcp_schema) if step.applied_at is None
    ]
