"""Bring a schema up to date, once, however many workers start at the same moment."""

from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from pgdbm import AsyncDatabaseManager, AsyncMigrationManager
from pgdbm.errors import MigrationError
from pgdbm.migrations import Migration

from llmring_server.database import Connection, Database
from llmring_server.errors import NotMigrated
from llmring_server.maintenance import partition
from llmring_server.repository import SQL, template

FILES = SQL / "migrations" / "llmring"


class Step(NamedTuple):
    """A migration file, and when it was applied (None: it is pending)."""

    filename: str
    applied_at: datetime | None


class _Held(NamedTuple):
    """A pool of one connection, already held."""

    connection: Connection

    def acquire(self) -> AbstractAsyncContextManager[Connection]:
        return nullcontext(self.connection)


class _Migrations(AsyncMigrationManager):
    async def find_migration_files(self) -> list[Migration]:
        found = await super().find_migration_files()
        return [each.model_copy(update={"content": template(each.content)}) for each in found]


def _module(schema: str) -> str:
    return f"llmring_server_{schema}"


async def _locked(connection: Connection, schema: str) -> None:
    # pgdbm prepares its own table before it takes its lock, so we take one first.
    await connection.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", _module(schema))
    # Behind a long query we would block everyone who comes after us: give up instead.
    await connection.execute("SET LOCAL lock_timeout = '10s'")


async def _created(connection: Connection, schema: str) -> None:
    # Reading pg_namespace, unlike IF NOT EXISTS, sees what the last holder of the lock did.
    known = "SELECT true FROM pg_namespace WHERE nspname = $1"
    if not await connection.fetchval(known, schema):
        await connection.execute(f'CREATE SCHEMA "{schema}"')


async def _applied(connection: Connection, schema: str) -> list[str]:
    await _created(connection, schema)
    held = AsyncDatabaseManager(pool=cast("Any", _Held(connection)), schema=schema)
    steps = _Migrations(held, str(FILES), module_name=_module(schema))
    try:
        done = await steps.apply_pending_migrations()
    except MigrationError as exc:
        raise NotMigrated(f"A migration failed and changed nothing: {exc}") from exc
    return [each["filename"] for each in done["applied"]]


async def migrate(db: AsyncDatabaseManager) -> list[str]:
    """Apply what is missing in `db`'s schema, all or nothing; return the names of the files."""
    database = Database(db)
    # A role that may create nothing can start a server where nothing is missing.
    missing = await pending(db)
    async with database.transaction() as inner, inner.connection() as connection:
        await _locked(connection, database.schema)
        applied = await _applied(connection, database.schema) if missing else []
        await partition(database, connection)
    return applied


async def steps(db: AsyncDatabaseManager) -> list[Step]:
    """List every migration file with the time when it was applied in `db`'s schema."""
    database = Database(db)
    table = f'"{database.schema}".schema_migrations'
    async with database.connection() as connection:
        rows = []
        if await connection.fetchval("SELECT to_regclass($1)", table):
            applied = f"SELECT filename, applied_at FROM {table} WHERE module_name = $1"  # noqa: S608, our own name
            rows = await connection.fetch(applied, _module(database.schema))
    times = {row["filename"]: row["applied_at"].replace(tzinfo=UTC) for row in rows}
    return [Step(file.name, times.get(file.name)) for file in sorted(FILES.glob("*.sql"))]


async def pending(db: AsyncDatabaseManager) -> list[str]:
    """Name the migration files that `db`'s schema lacks."""
    return [step.filename for step in await steps(db) if step.applied_at is None]
