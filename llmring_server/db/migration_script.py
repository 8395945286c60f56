"""Migration script: all migrations as SQL, for whoever may not let a program change a schema."""

from pgdbm import AsyncDatabaseManager, AsyncMigrationManager, DatabaseConfig
from pgdbm.migrations import Migration

from llmring_server.db.database import Database
from llmring_server.db.migrations import FOLDER, SchemaModule, schema_modules
from llmring_server.db.repository import bind, load
from llmring_server.settings import Settings

_HEADER = """\
-- The tables of llmring-server. Apply them with: psql -v ON_ERROR_STOP=1 -f FILE
-- All of it is one transaction, and a migration that has been applied is left out.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL search_path = pg_catalog;
SET LOCAL timezone = 'UTC';
SET LOCAL standard_conforming_strings = on;
SET LOCAL lock_timeout = 0;
SET LOCAL statement_timeout = 0;
"""

# As the server does: it waits for other processes that migrate, but not for a table.
_LOCK = "DO $block$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('{name}')); END $block$;\n"
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s';\n"

# pgdbm's list of the migrations that were applied.
_SCHEMA = """
DO $block$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{schema}') THEN
        CREATE SCHEMA "{schema}";
    END IF;
    IF to_regclass('"{schema}".schema_migrations') IS NULL THEN
        CREATE TABLE "{schema}".schema_migrations (
            id serial PRIMARY KEY,
            filename varchar(255) NOT NULL,
            checksum varchar(64) NOT NULL,
            module_name varchar(100),
            applied_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
            applied_by varchar(100) DEFAULT CURRENT_USER,
            execution_time_ms integer,
            UNIQUE (filename, module_name)
        );
        CREATE INDEX idx_schema_migrations_module
            ON "{schema}".schema_migrations (module_name, filename);
    END IF;
END
$block$;
"""

_MIGRATION = """
DO $block$
BEGIN
IF EXISTS (
    SELECT FROM "{schema}".schema_migrations
    WHERE filename = '{filename}' AND module_name = '{module}'
) THEN
    RETURN;
END IF;

{content}

INSERT INTO "{schema}".schema_migrations (filename, checksum, module_name, execution_time_ms)
VALUES ('{filename}', '{checksum}', '{module}', 1);
END
$block$;
"""

_PARTITIONS = """
-- Partitions of the months to come, as `llmring-server db maintain` creates them.
DO $block$
DECLARE
    partition record;
BEGIN
    FOR partition IN
{query}
    LOOP
        EXECUTE partition.statements;
    END LOOP;
END
$block$;
"""


async def migration_script(schema: str, mcp_schema: str) -> str:
    """Return the SQL that brings both schemas up to date; a version always returns the same."""
    modules = schema_modules(schema, mcp_schema)
    parts = [_HEADER, *(_LOCK.format(name=module.name) for module in modules), _LOCK_TIMEOUT]
    for module in modules:
        parts.append(_SCHEMA.format(schema=module.schema))
        db = _unconnected(module.schema)
        manager = AsyncMigrationManager(db, str(FOLDER / module.folder), module_name=module.name)
        parts += [_migration(db, module, file) for file in await manager.find_migration_files()]
    parts += [_partitions(schema), "\nCOMMIT;\n"]
    return "".join(parts)


def _unconnected(schema: str) -> AsyncDatabaseManager:
    """Return a manager that only names tables."""
    return AsyncDatabaseManager(DatabaseConfig(connection_string="postgresql://", schema=schema))


def _migration(db: AsyncDatabaseManager, module: SchemaModule, file: Migration) -> str:
    return _MIGRATION.format(
        schema=module.schema,
        module=module.name,
        filename=file.filename,
        checksum=file.checksum,
        content=db.prepare_query(file.content).strip(),
    )


def _partitions(schema: str) -> str:
    database = Database(_unconnected(schema), Settings())
    block = load("db/partitions")["create_partition_statements"]
    query = bind(block.replace("@schema", f"'{schema}'"), database).text
    return _PARTITIONS.format(query=query)
