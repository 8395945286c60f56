"""Tables: each is declared by the service that owns it, and the declarations are true."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
# pgdbm's list of the migrations that were applied.
NOT_OURS = "schema_migrations"


class TableName(NamedTuple):
    """A table, by the prefix of its placeholder in statements and its name."""

    schema: str
    name: str


async def tables_of(db: AsyncDatabaseManager) -> dict[TableName, bool]:
    """Return the tables of both schemas, and whether they have a project_id."""
    rows = await db.fetch_all(
        "SELECT nspname, relname, EXISTS ("
        "     SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'project_id'"
        " ) AS has_project"
        " FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE nspname IN ($1::text, $1::text || '_mcp') AND relkind IN ('r', 'p')"
        # A partition is part of its parent.
        " AND NOT relispartition",
        db.schema,
    )
    return {
        TableName("tables" if row["nspname"] == db.schema else "mcp", row["relname"]): row[
            "has_project"
        ]
        for row in rows
        if row["relname"] != NOT_OURS
    }


def declared(ring: Ring) -> Counter[TableName]:
    return Counter(
        TableName(table.schema, table.name) for service in ring.services for table in service.tables
    )


async def test_every_table_is_declared_by_exactly_one_service(
    db: AsyncDatabaseManager, ring: Ring
) -> None:
    found = await tables_of(db)
    assert len(found) > 20
    assert declared(ring) == Counter(found.keys())


async def test_every_table_with_a_project_is_erased_or_declared_exempt(
    db: AsyncDatabaseManager, ring: Ring
) -> None:
    owned = {name for name, has_project in (await tables_of(db)).items() if has_project}
    erased = {
        TableName(table.schema, table.name)
        for service in ring.services
        for table in service.tables
        if table.erase
    }
    # The first two are deleted first, and the last one is not deleted.
    others = {TableName("tables", name) for name in ("projects", "api_keys", "audit_events")}
    assert owned == erased | others
    assert not erased & others


def test_a_declared_statement_is_one_of_the_service_and_of_its_table(ring: Ring) -> None:
    for service in ring.services:
        for table in service.tables:
            assert bool(table.erase) == bool(table.rows), table
            if table.erase:
                statement = service._sql[table.erase]
                assert set(statement.params) == {"project_id", "limit"}
                assert table.name in statement.text
        for retention in service.retention:
            params = service._sql[retention.statement].params
            assert set(params) == {"limit", *retention.params}
        for name in service.delete_with_calls:
            assert service._sql[name].params == ("oldest",)


def test_every_statement_that_erases_or_expires_is_declared(ring: Ring) -> None:
    for service in ring.services:
        names = {name for name in service._sql if re.match("erase_|delete_expired_", name)}
        tables = {table.erase for table in service.tables}
        assert names <= tables | {each.statement for each in service.retention}


@pytest.mark.parametrize("privilege", ["UPDATE", "DELETE"])
def test_the_documented_grants_are_those_that_services_declare(ring: Ring, privilege: str) -> None:
    schemas = {"llmring": "tables", "mcp_client": "mcp"}
    granted = {
        TableName(schemas[schema], name)
        for tables in re.findall(
            rf"GRANT {privilege} ON (.*?) TO", DEPLOYMENT.read_text(), re.DOTALL
        )
        for schema, name in re.findall(r"(\w+)\.(\w+)", tables)
    }
    assert granted == {
        TableName(table.schema, table.name)
        for service in ring.services
        for table in service.tables
        if privilege in table.grants
    }
