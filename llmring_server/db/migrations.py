"""Migrations: bring both schemas up to date, once, however many workers start at the same moment.

The files are pgdbm's, in `sql/migrations/`; pgdbm applies them and records them in each schema's
`schema_migrations`. All of them are applied in one transaction, or none.
"""

from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, cast

from pgdbm import AsyncDatabaseManager, AsyncMigrationManager
from pgdbm.errors import MigrationError

from llmring_server.core.server_stats import ModuleStats
from llmring_server.db.connection_cache import Connection
from llmring_server.db.database import Database
from llmring_server.db.errors import translated
from llmring_server.db.partitions import Partitions
from llmring_server.db.repository import SQL
from llmring_server.errors import NotMigrated
from llmring_server.settings import Settings

FOLDER = SQL / "migrations"


class SchemaModule(NamedTuple):
    """A folder of migrations, and the schema that they create."""

    folder: Literal["llmring", "mcp_client"]
    schema: str

    @property
    def name(self) -> str:
        """The name by which pgdbm records that a file was applied."""
        prefix = "llmring_mcp" if self.folder == "mcp_client" else "llmring_server"
        return f"{prefix}_{self.schema}"

    @property
    def setting(self) -> str:
        """The environment variable that names the schema."""
        if self.folder == "mcp_client":
            return "LLMRING_MCP_SCHEMA"
        return "LLMRING_DATABASE_SCHEMA"

    def files(self) -> list[str]:
        return sorted(file.name for file in (FOLDER / self.folder).glob("*.sql"))


class MigrationStatus(NamedTuple):
    """A migration file, and when it was applied; None if it is pending."""

    filename: str
    applied_at: datetime | None


class SingleConnectionPool(NamedTuple):
    """The pool that pgdbm gets: it has one connection, which is in our transaction."""

    connection: Connection

    def acquire(self) -> AbstractAsyncContextManager[Connection]:
        return nullcontext(self.connection)


async def migrate(db: AsyncDatabaseManager, mcp_schema: str | None = None) -> list[str]:
    """Apply the pending migrations, all or none, and return the names of their files.

    The tables of MCP go into `mcp_schema`, by default the one beside `db`'s schema that Settings
    names; all others go into `db`'s schema.
    """
    database = Database(db, Settings(mcp_schema=mcp_schema))
    # A role that cannot create anything may start a server whose schema is up to date.
    is_pending = bool(await pending_migrations(db, mcp_schema))
    applied = []
    async with database.transaction() as inside, inside.acquire() as connection:
        for module in _modules(database):
            await _lock(connection, module)
            if is_pending:
                applied += await _apply(connection, module)
        # Rows of a large default partition take long to move.
        inside.timeout = None
        await Partitions(inside).create()
    return applied


async def migration_status(
    db: AsyncDatabaseManager, mcp_schema: str | None = None
) -> list[MigrationStatus]:
    """List every migration with the time when it was applied."""
    database = Database(db, Settings(mcp_schema=mcp_schema))
    async with database.acquire() as connection:
        return [
            status for module in _modules(database) for status in await _status(connection, module)
        ]


async def module_stats(
    db: AsyncDatabaseManager, mcp_schema: str | None = None
) -> list[ModuleStats]:
    """Return the state of the migrations of each schema."""
    database = Database(db, Settings(mcp_schema=mcp_schema))
    async with database.acquire() as connection:
        return [
            _module_stats(module, await _status(connection, module))
            for module in _modules(database)
        ]


def _module_stats(module: SchemaModule, statuses: list[MigrationStatus]) -> ModuleStats:
    applied = [status.applied_at for status in statuses if status.applied_at]
    return {
        "module": module.name,
        "schema": module.schema,
        "applied": len(applied),
        "pending": [status.filename for status in statuses if status.applied_at is None],
        "last_applied_at": max(applied, default=None),
    }


async def pending_migrations(db: AsyncDatabaseManager, mcp_schema: str | None = None) -> list[str]:
    """List the files that have not been applied."""
    statuses = await migration_status(db, mcp_schema)
    return [status.filename for status in statuses if status.applied_at is None]


def schema_modules(schema: str, mcp_schema: str) -> list[SchemaModule]:
    """Return the folders of migrations in the order in which they are applied."""
    return [SchemaModule("llmring", schema), SchemaModule("mcp_client", mcp_schema)]


def _modules(database: Database) -> list[SchemaModule]:
    return schema_modules(database.schema, database.mcp_schema)


async def _lock(connection: Connection, module: SchemaModule) -> None:
    """Wait until no other process migrates this schema."""
    # pgdbm creates its own table before it takes its own lock, so that lock comes too late.
    with translated(connection):
        await connection.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", module.name)
        # A migration that waits for a table blocks all later users of it: give up instead.
        await connection.execute("SET LOCAL lock_timeout = '10s'")


async def _apply(connection: Connection, module: SchemaModule) -> list[str]:
    await _create_schema(connection, module.schema)
    pool = cast("Any", SingleConnectionPool(connection))
    manager = AsyncMigrationManager(
        AsyncDatabaseManager(pool=pool, schema=module.schema),
        str(FOLDER / module.folder),
        module_name=module.name,
    )
    try:
        with translated(connection):
            result = await manager.apply_pending_migrations()
    except MigrationError as exc:
        raise NotMigrated(
            f"A migration failed, and nothing was changed: {exc}. If the schema {module.schema}"
            f" holds tables of another program, name a different schema: {module.setting}."
        ) from exc
    return [migration["filename"] for migration in result["applied"]]


async def _create_schema(connection: Connection, schema: str) -> None:
    # Unlike IF NOT EXISTS, a query of pg_namespace sees what the last holder of the lock created.
    exists = "SELECT true FROM pg_namespace WHERE nspname = $1"
    try:
        with translated(connection):
            if not await connection.fetchval(exists, schema):
                await connection.execute(f'CREATE SCHEMA "{schema}"')
    except NotMigrated as exc:
        raise NotMigrated(
            f"This role may not create the schema {schema}: create it for this role, or name an"
            " existing schema (LLMRING_DATABASE_SCHEMA, LLMRING_MCP_SCHEMA)."
        ) from exc


async def _status(connection: Connection, module: SchemaModule) -> list[MigrationStatus]:
    table = f'"{module.schema}".schema_migrations'
    query = f"SELECT filename, applied_at FROM {table} WHERE module_name = $1"  # noqa: S608, a validated name
    rows = []
    with translated(connection):
        if await connection.fetchval("SELECT to_regclass($1)", table):
            rows = await connection.fetch(query, module.name)
    applied_at = {row["filename"]: row["applied_at"].replace(tzinfo=UTC) for row in rows}
    return [MigrationStatus(name, applied_at.get(name)) for name in module.files()]
