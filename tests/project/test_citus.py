"""Citus: the tables can be distributed by project, as far as the catalogue tells.

No test runs Citus. They check what it documents as conditions, and the script in the documentation.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Settings, migrate
from llmring_server.db.database import open_database
from tests.support.postgres import database

SCALING = Path(__file__).parents[2] / "docs" / "scaling.md"

SCHEMAS = ("llmring", "mcp_client")
# Tables of projects that are not distributed by project: the documentation says why.
EXEMPT = {
    "llmring.projects",
    "llmring.api_keys",
    "llmring.templates",
    "llmring.template_versions",
    "llmring.audit_events",
}

TABLES = """
SELECT pg_class.oid::regclass::text AS name, EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = pg_class.oid AND attname = 'project_id' AND attnotnull
) AS has_project
FROM pg_class
WHERE relnamespace = ANY ($1::text[]::regnamespace[]) AND relkind IN ('r', 'p')
  AND NOT relispartition
"""
# Constraints that are not checks, and unique indexes, which primary keys have, too.
KEYS = """
SELECT conrelid::regclass::text AS table_name, conname AS name, contype::text AS kind,
       confrelid::regclass::text AS referenced,
       ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS key (number, position)
             JOIN pg_attribute ON attrelid = conrelid AND attnum = number ORDER BY position)
           AS columns,
       ARRAY(SELECT attname::text FROM unnest(confkey) WITH ORDINALITY AS key (number, position)
             JOIN pg_attribute ON attrelid = confrelid AND attnum = number ORDER BY position)
           AS referenced_columns
FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
WHERE connamespace = ANY ($1::text[]::regnamespace[]) AND contype IN ('p', 'u', 'f', 'x')
UNION ALL
SELECT indrelid::regclass::text, indexrelid::regclass::text, 'index', NULL,
       ARRAY(SELECT attname::text FROM unnest(indkey[:indnkeyatts - 1]) AS number
             JOIN pg_attribute ON attrelid = indrelid AND attnum = number),
       NULL
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE relnamespace = ANY ($1::text[]::regnamespace[]) AND indisunique
"""
TRIGGERS = """
SELECT tgrelid::regclass::text FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE relnamespace = ANY ($1::text[]::regnamespace[]) AND NOT tgisinternal
"""
FOREIGN_KEYS = """
SELECT conrelid::regclass::text AS table_name, conname, pg_get_constraintdef(pg_constraint.oid)
FROM pg_constraint WHERE contype = 'f' AND connamespace = ANY ($1::text[]::regnamespace[])
ORDER BY 1, 2
"""

# Functions of Citus that do nothing, but raise an error for what does not exist, and for a foreign
# key: Citus, too, refuses to distribute a table that references one that is not distributed yet.
FUNCTIONS = """
SET LOCAL search_path = public;
CREATE FUNCTION public.create_reference_table(name regclass) RETURNS void
    LANGUAGE sql AS 'SELECT';
CREATE FUNCTION public.create_distributed_table(
    name regclass, distribution_column text, colocate_with text DEFAULT 'default'
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM colocate_with::regclass WHERE colocate_with <> 'default';
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute
        WHERE attrelid = name AND attname = distribution_column
    ) OR EXISTS (
        SELECT FROM pg_catalog.pg_constraint WHERE conrelid = name AND contype = 'f'
    ) THEN
        RAISE EXCEPTION 'cannot distribute %', name;
    END IF;
END $$;
"""


class Script(NamedTuple):
    """The documented script, and what it says about each table."""

    text: str
    distributed: dict[str, str]
    reference: set[str]
    local: set[str]


@pytest.fixture(scope="module")
def script() -> Script:
    [text] = re.findall(r"```sql\n([^`]*create_distributed_table[^`]*)```", SCALING.read_text())
    distributed = re.findall(r"create_distributed_table\('([\w.]+)', '(\w+)'", text)
    reference = re.findall(r"create_reference_table\('([\w.]+)'\)", text)
    local = re.findall(r"^-- local: ([\w.]+)$", text, re.MULTILINE)
    names = [*dict(distributed), *reference, *local]
    assert len(names) == len(set(names)) == len(distributed) + len(reference) + len(local)
    return Script(text, dict(distributed), set(reference), set(local))


@pytest.fixture(scope="module")
async def migrated(server_url: str) -> AsyncIterator[AsyncDatabaseManager]:
    """A database with the default schemas, which the script names."""
    async with database(server_url, "citus") as url:
        settings = Settings(database_url=url, database_pool_size=1)
        async with open_database(settings) as db:
            await migrate(db)
            yield db


async def test_the_script_names_every_table_once(
    migrated: AsyncDatabaseManager, script: Script
) -> None:
    rows = await migrated.fetch_all(TABLES, [*SCHEMAS])
    tables = {row["name"]: row["has_project"] for row in rows}
    assert tables.keys() == script.distributed.keys() | script.reference | script.local
    of_projects = {name for name, has_project in tables.items() if has_project}
    assert script.distributed.keys() == of_projects - EXEMPT
    assert set(script.distributed.values()) == {"project_id"}
    for name in EXEMPT:
        assert f"`{name.removeprefix('llmring.')}`" in SCALING.read_text()


async def test_every_key_of_a_distributed_table_contains_the_project(
    migrated: AsyncDatabaseManager, script: Script
) -> None:
    rows = await migrated.fetch_all(KEYS, [*SCHEMAS])
    keys = [row for row in rows if row["table_name"] in script.distributed]
    assert {row["kind"] for row in keys} == {"p", "u", "f", "index"}
    for row in keys:
        assert "project_id" in row["columns"], row["name"]
        if row["kind"] == "f":
            assert row["referenced"] in script.distributed, row["name"]
            # Citus needs it in the same place of both lists.
            place = row["columns"].index("project_id")
            assert row["referenced_columns"][place] == "project_id", row["name"]


async def test_other_tables_reference_none_that_is_distributed(
    migrated: AsyncDatabaseManager, script: Script
) -> None:
    rows = await migrated.fetch_all(KEYS, [*SCHEMAS])
    for row in rows:
        if row["kind"] == "f" and row["table_name"] not in script.distributed:
            assert row["table_name"] in script.reference, row["name"]
            assert row["referenced"] in script.reference, row["name"]


async def test_there_are_no_triggers(migrated: AsyncDatabaseManager) -> None:
    assert await migrated.fetch_all(TRIGGERS, [*SCHEMAS]) == []


async def test_the_script_runs_and_restores_the_foreign_keys(
    migrated: AsyncDatabaseManager, script: Script
) -> None:
    """PostgreSQL runs all of the script but the work of Citus's functions."""
    before = await migrated.fetch_all(FOREIGN_KEYS, [*SCHEMAS])
    async with migrated.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(FUNCTIONS)
        await connection.execute(script.text)
        after = await connection.fetch(FOREIGN_KEYS, [*SCHEMAS])
        await transaction.rollback()
    assert [dict(row) for row in after] == before
    assert len(before) > 5
