"""Module migrations: the modules of a pgdbm.toml, each migrated in its schema, in their order.

The server's own module is migrated by `migrate`, under the names by which a later `db migrate`
without a file finds it. All others are applied by pgdbm.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import asyncpg
from pgdbm import AsyncDatabaseManager, AsyncMigrationManager
from pgdbm.errors import MigrationError

from llmring_server.db import connect
from llmring_server.db.connection_cache import Connection
from llmring_server.db.database import open_database
from llmring_server.db.migrations import (
    SingleConnectionPool,
    migrate,
    migration_status,
    schema_modules,
)
from llmring_server.db.pgdbm_config import Module, PgdbmConfig
from llmring_server.errors import InvalidRequest, NotMigrated
from llmring_server.settings import Settings

LOCK_POLL_SECONDS = 0.1
# Of all runs on one database: a module may change what another one needs.
_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('llmring-server: modules', 0))"
# A migration may take long, but must not block later users of a table while it waits for it. The
# connection that holds the lock is idle meanwhile.
_SESSION = {
    "statement_timeout": "0",
    "lock_timeout": "10s",
    "idle_session_timeout": "0",
    "timezone": "UTC",
}


class PlannedModule(NamedTuple):
    """A module, and the schemas that it is migrated in."""

    module: Module
    schemas: tuple[str, ...]


class ModuleMigration(NamedTuple):
    """A migration of a module, and when it was applied; None if it is pending."""

    module: str
    schema: str
    filename: str
    applied_at: datetime | None
    # The file is another one than the one that was applied.
    is_changed: bool = False


def plan(config: PgdbmConfig, settings: Settings) -> list[PlannedModule]:
    """Return the modules in their order, with the schemas of each.

    A foreign module without a schema has that of the environment; our own has that of `settings`.
    """
    planned = [_planned(module, config, settings) for module in config.modules]
    own: dict[str, str] = {}
    for module, schemas in planned:
        for schema in schemas if module.is_own else ():
            if schema in own:
                raise InvalidRequest(
                    f"The modules {own[schema]} and {module.name} need the schema {schema} for"
                    " themselves: name another schema, or another mcp_schema."
                )
            own[schema] = module.name
    return planned


def _planned(module: Module, config: PgdbmConfig, settings: Settings) -> PlannedModule:
    if not module.is_own:
        return PlannedModule(module, (module.schema or config.default_schema,))
    schema = module.schema or settings.database_schema
    mcp_schema = module.mcp_schema or settings.mcp_schema_beside(schema)
    return PlannedModule(module, (schema, mcp_schema))


async def migrate_modules(
    config: PgdbmConfig,
    settings: Settings,
    on_applied: Callable[[Module, list[str]], None],
    on_wait: Callable[[], None],
) -> None:
    """Apply the pending migrations of all modules; report each module when it is done.

    A module that fails stops the run, and those before it stay migrated.
    """
    planned = plan(config, settings)
    async with _locked(settings, on_wait):
        for module, schemas in planned:
            if module.is_own:
                async with open_database(_settings_of(settings, schemas)) as db:
                    applied = await migrate(db, schemas[1])
            else:
                async with _open_connection(settings, schemas[0]) as connection:
                    applied = await _apply_foreign(connection, module, schemas[0], config)
            on_applied(module, applied)


async def module_status(config: PgdbmConfig, settings: Settings) -> list[ModuleMigration]:
    """List the migrations of all modules in their order."""
    statuses: list[ModuleMigration] = []
    for module, schemas in plan(config, settings):
        if module.is_own:
            statuses += await _status_of_own(module, _settings_of(settings, schemas))
        else:
            async with _open_connection(settings, schemas[0]) as connection:
                statuses += await _status_of_foreign(connection, module, schemas[0], config)
    return statuses


def _settings_of(settings: Settings, schemas: tuple[str, ...]) -> Settings:
    schema, mcp_schema = schemas
    return settings.model_copy(update={"database_schema": schema, "mcp_schema": mcp_schema})


async def _status_of_own(module: Module, settings: Settings) -> list[ModuleMigration]:
    async with open_database(settings) as db:
        statuses = await migration_status(db, settings.mcp_schema)
        modules = schema_modules(db.schema or "", settings.mcp_schema or "")
    schemas = [each.schema for each in modules for _ in each.files()]
    return [
        ModuleMigration(module.name, schema, filename, applied_at)
        for schema, (filename, applied_at) in zip(schemas, statuses, strict=True)
    ]


@asynccontextmanager
async def _open_connection(settings: Settings, schema: str) -> AsyncIterator[Connection]:
    """Open a connection on which unqualified names are of `schema`, as pgdbm's own pool does."""
    url = settings.dsn() or ""
    session = _SESSION | {"search_path": f'"{schema}", public'}
    with connect.connecting_to("the database", url):
        connection = await asyncpg.connect(**connect.arguments(url, session=session))
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _locked(settings: Settings, on_wait: Callable[[], None]) -> AsyncIterator[None]:
    """Wait until no other process migrates modules of this database, and keep others waiting.

    The lock is polled: a session that waits in `pg_advisory_lock` holds a snapshot, for which
    CREATE INDEX CONCURRENTLY in a migration of the other process would wait in turn.
    """
    async with _open_connection(settings, "pg_catalog") as connection:
        is_first = True
        while not await connection.fetchval(_TRY_LOCK):
            if is_first:
                on_wait()
            is_first = False
            await asyncio.sleep(LOCK_POLL_SECONDS)
        # The lock ends with its connection.
        yield


async def _apply_foreign(
    connection: Connection, module: Module, schema: str, config: PgdbmConfig
) -> list[str]:
    try:
        if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", f'"{schema}"'):
            await connection.execute(f'CREATE SCHEMA "{schema}"')
        result = await _migration_manager(
            connection, module, schema, config
        ).apply_pending_migrations()
    except MigrationError as exc:
        text = ". ".join(line.strip() for line in str(exc).splitlines())
        raise NotMigrated(
            f"Module {module.name}, schema {schema}: {text}. The migrations before it stay applied."
            " Correct the file and run the command again."
        ) from exc
    except asyncpg.InsufficientPrivilegeError as exc:
        raise NotMigrated(f"Module {module.name}, schema {schema}: {exc}.") from exc
    return [migration["filename"] for migration in result["applied"]]


def _migration_manager(
    connection: Connection, module: Module, schema: str, config: PgdbmConfig
) -> AsyncMigrationManager:
    pool = cast("Any", SingleConnectionPool(connection))
    return AsyncMigrationManager(
        AsyncDatabaseManager(pool=pool, schema=schema),
        str(module.folder),
        migrations_table=config.migrations_table,
        module_name=module.name,
    )


async def _status_of_foreign(
    connection: Connection, module: Module, schema: str, config: PgdbmConfig
) -> list[ModuleMigration]:
    manager = _migration_manager(connection, module, schema, config)
    table = f'"{schema}".{config.migrations_table}'
    is_known = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
    applied = await manager.get_applied_migrations() if is_known else {}
    statuses = []
    for file in await manager.find_migration_files():
        record = applied.get(file.filename)
        at = record.applied_at if record else None
        is_changed = record is not None and record.checksum != file.checksum
        statuses.append(
            ModuleMigration(
                module.name, schema, file.filename, at and at.replace(tzinfo=UTC), is_changed
            )
        )
    return statuses
