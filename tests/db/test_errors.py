"""Errors of the database and its driver: translated where they occur, and nowhere else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.access.keys import IssuedKey
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.db.database import Database
from llmring_server.db.errors import CONSTRAINTS
from llmring_server.db.repository import FETCH_ROWS
from llmring_server.errors import Conflict, NotFound, RingError, Unavailable
from llmring_server.usage.models import NewCall
from tests.conftest import CALL

TERMINATE = "SELECT pg_terminate_backend($1)"


@pytest.fixture
async def issued(ring: Ring) -> IssuedKey:
    return await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)


@pytest.fixture
async def own(settings: Settings) -> AsyncIterator[Ring]:
    """A ring with its own pool."""
    async with Ring.open(settings) as ring:
        yield ring


async def terminate(ring: Ring, connection: Any) -> None:
    """Close a connection from another one."""
    await ring.db.execute(TERMINATE, connection.get_server_pid())


async def begin(database: Database) -> None:
    async with database.transaction():
        pass


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk"),
        FileNotFoundError("file"),
        ConnectionResetError("a service that is not the database"),
        TimeoutError("own"),
        OverflowError("own"),
        asyncpg.InterfaceError("own"),
        asyncpg.UniqueViolationError("of another database"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_errors_of_other_code_are_not_translated(ring: Ring, error: Exception) -> None:
    database = ring._database
    for acquire in (database.acquire, database.transaction):
        with pytest.raises(type(error)) as raised:
            async with acquire():
                raise error
        assert raised.value is error


async def test_errors_of_other_code_roll_back(ring: Ring, project_id: ProjectId) -> None:
    async def log_and_fail() -> None:
        async with ring._database.transaction() as inside:
            await ring.usage.with_database(inside).log_many(project_id, [NewCall(**CALL)])
            raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        await log_and_fail()
    assert await ring.usage.logs(project_id) == []


async def test_misuse_of_a_connection_is_not_translated(ring: Ring, project_id: ProjectId) -> None:
    async with ring.db.transaction() as tx:
        usage = ring.within(tx).usage
        outcomes = await asyncio.gather(
            *(usage.logs(project_id) for _ in range(5)), return_exceptions=True
        )
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert errors
    assert {type(error) for error in errors} == {asyncpg.InterfaceError}


@pytest.mark.direct("the sessions of a pooler are not those of the server's connections")
async def test_statements_on_a_lost_connection_raise_unavailable(ring: Ring, own: Ring) -> None:
    database = own._database
    for use in (
        lambda inside: inside.fetch("SELECT 1"),
        begin,
    ):
        # The first call finds the connection lost, the second finds it closed.
        async with database.acquire() as connection:
            inside = database.within(connection)
            await terminate(ring, connection)
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await use(inside)


@pytest.mark.direct("the sessions of a pooler are not those of the server's connections")
async def test_connection_lost_before_commit_raises_unavailable(ring: Ring, own: Ring) -> None:
    with pytest.raises(Unavailable):
        async with own._database.transaction() as inside:
            await terminate(ring, inside.connection)


async def test_a_lost_connection_does_not_hide_another_error(ring: Ring, own: Ring) -> None:
    async def lose_and_fail() -> None:
        async with own._database.transaction() as inside:
            await terminate(ring, inside.connection)
            with suppress(Unavailable):
                await inside.fetch("SELECT 1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await lose_and_fail()


async def test_connection_lost_between_rows_raises_unavailable(
    ring: Ring, own: Ring, project_id: ProjectId
) -> None:
    entries = [NewCall(**CALL)] * (FETCH_ROWS + 1)
    await ring.usage.log_many(project_id, entries)
    pids = "SELECT pid FROM pg_stat_activity WHERE application_name = 'llmring-server'"
    # Only connections to this test's database: other tests share the server.
    pids += " AND datname = current_database() AND usename = current_user"
    async with aclosing(own.usage.export(project_id)) as logs:
        await anext(logs)
        for row in await ring.db.fetch_all(pids):
            await ring.db.execute(TERMINATE, row["pid"])
        with pytest.raises(Unavailable):
            async for _ in logs:
                pass


async def test_closed_pool_raises_unavailable(settings: Settings, project_id: ProjectId) -> None:
    async with Ring.open(settings) as ring:
        pass
    with pytest.raises(Unavailable):
        await ring.usage.logs(project_id)


async def test_every_known_constraint_is_in_the_schema(ring: Ring) -> None:
    found = await ring.db.fetch_all(
        "SELECT conname FROM pg_constraint JOIN pg_namespace AS space ON space.oid = connamespace"
        " WHERE nspname IN ($1::text, $1::text || '_mcp') AND contype IN ('u', 'f')",
        ring.db.schema,
    )
    assert CONSTRAINTS.keys() <= {row["conname"] for row in found}


async def test_constraint_violations_become_conflict_and_not_found(
    ring: Ring, issued: IssuedKey
) -> None:
    taken = f"project {uuid4()}"
    await ring.projects.create(taken, actor=LIBRARY)
    with pytest.raises(Conflict):
        await ring.projects.rename(issued.project_id, taken, actor=LIBRARY)
    with pytest.raises(NotFound):
        await ring.keys.issue_for(ProjectId(uuid4()), actor=LIBRARY)


@pytest.mark.parametrize(
    ("values", "violation"),
    [
        ("project_id, id || '-', digest", asyncpg.CheckViolationError),
        ("project_id, id, digest", asyncpg.UniqueViolationError),
        ("project_id, 'abcdefgh', NULL", asyncpg.NotNullViolationError),
    ],
)
async def test_unexpected_constraint_violations_are_not_translated(
    ring: Ring, db: AsyncDatabaseManager, issued: IssuedKey, values: str, violation: type[Exception]
) -> None:
    table = db.prepare_query("{{tables.api_keys}}")
    with pytest.raises(violation):
        await ring._database.fetch(
            f"INSERT INTO {table} (scopes, project_id, id, digest)"  # noqa: S608, a constant
            f" SELECT scopes, {values} FROM {table} WHERE id = $1",
            issued.id,
        )


async def test_a_call_that_violates_a_constraint_fails_alone(
    ring: Ring, project_id: ProjectId
) -> None:
    good = NewCall(**CALL)
    bad = good.model_copy(update={"latency_ms": -1})
    logs = [ring.usage.log(project_id, bad if n % 7 == 3 else good) for n in range(20)]
    outcomes = await asyncio.gather(*logs, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert [type(error) for error in errors] == [asyncpg.CheckViolationError] * 3
    assert not any(isinstance(each, RingError) for each in outcomes)
    assert len(await ring.usage.logs(project_id)) == 17
