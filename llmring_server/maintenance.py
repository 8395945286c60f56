"""What keeps the tables small and fast: months made ahead, months dropped, sums moved."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pgdbm import AsyncDatabaseManager

from llmring_server.core.identity import Action, Actor
from llmring_server.core.ids import new_id
from llmring_server.db.connection_cache import Connection
from llmring_server.db.database import Database
from llmring_server.db.errors import translated
from llmring_server.db.repository import bind, load
from llmring_server.settings import Settings
from llmring_server.usage.rollups import Rollups

BATCH_SIZE = 5000
LIMITS = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '2s'"
# For how many days is kept what an MCP server offers no longer, unless its project says.
INACTIVE_CAPABILITY_DAYS = 400


class MaintenanceReport(NamedTuple):
    """Which months' tables were made, and which dropped; how much is forgotten."""

    made: list[str]
    dropped: list[str]
    forgotten: int
    executions: int
    capabilities: int


class _Housekeeping:
    """The statements of maintenance on one connection, in a transaction."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self._connection = connection
        blocks = {**load("db/maintenance"), **load("access/audit")}
        self._sql = {name: bind(sql, database) for name, sql in blocks.items()}

    async def run(self, name: str, **params: Any) -> None:
        statement = self._sql[name]
        with translated(self._connection):
            await self._connection.execute(statement.text, *statement.arguments(params))

    async def value(self, name: str, **params: Any) -> int:
        statement = self._sql[name]
        arguments = statement.arguments(params)
        with translated(self._connection):
            found: int = await self._connection.fetchval(statement.text, *arguments)
        return found

    async def note(self, actor: Actor, action: Action, target: str) -> None:
        """Record an event in the audit log, in this transaction."""
        await self.run(
            "record",
            id=new_id(),
            actor=actor.name,
            remote=actor.remote,
            request_id=actor.request_id,
            action=action,
            target=target,
            project_id=None,
        )

    async def run_each(self, name: str, **params: Any) -> list[str]:
        """Run the statements that the statement `name` finds; return the tables that they name."""
        statement = self._sql[name]
        with translated(self._connection):
            found = await self._connection.fetch(statement.text, *statement.arguments(params))
            for row in found:
                await self._connection.execute(row["statements"])
        return [row["name"] for row in found]


async def partition(database: Database, connection: Connection) -> list[str]:
    """Make the tables of the months that have none yet, for a year ahead."""
    return await _Housekeeping(database, connection).run_each("missing", schema=database.schema)


@asynccontextmanager
async def _step(database: Database) -> AsyncIterator[_Housekeeping]:
    """Yield the statements in a transaction of their own: no step keeps the locks of another."""
    async with database.transaction() as inside, inside.connection() as connection:
        # Long deletes are fine, and touch nothing new; waiting for a lock would block the others.
        with translated(connection):
            await connection.execute(LIMITS)
        yield _Housekeeping(database, connection)


async def maintain(
    db: AsyncDatabaseManager,
    retain: timedelta | None = None,
    mcp_schema: str | None = None,
    *,
    actor: Actor,
) -> MaintenanceReport:
    """Make months ahead, move sums, and forget calls of months that ended `retain` ago.

    What the forgotten calls add up to stays, by UTC day. Messages, what tools did, and what MCP
    servers offer no longer are forgotten when their projects say so. Run it daily, beside a
    serving server.
    """
    database = Database(db, Settings(mcp_schema=mcp_schema))
    async with _step(database) as house:
        made = await house.run_each("missing", schema=database.schema)
    await Rollups(database).move_to_rollups()
    dropped = await _forget(database, retain, actor) if retain else []
    forgotten = await _delete(database, "forget_messages", "messages.expire", actor)
    await _delete(database, "forget_conversations", "conversations.expire", actor)
    executions = await _delete(database, "forget_executions", "executions.expire", actor)
    # After the executions: what has a history is kept.
    capabilities = await _delete(
        database, "forget_capabilities", "capabilities.expire", actor, days=INACTIVE_CAPABILITY_DAYS
    )
    return MaintenanceReport(made, dropped, forgotten, executions, capabilities)


async def _delete(
    database: Database, name: str, action: Action, actor: Actor, **params: Any
) -> int:
    """Delete in batches the rows that the statement `name` finds; return their number."""
    total = 0
    while True:
        async with _step(database) as house:
            gone = await house.value(name, limit=BATCH_SIZE, **params)
            if gone and not total:
                await house.note(actor, action, "older than their projects keep them")
        total += gone
        if not gone:
            return total


async def _forget(database: Database, retain: timedelta, actor: Actor) -> list[str]:
    oldest = (datetime.now(UTC) - retain).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    # The calls go first: stopped half-way, what is left is of no call, and so of no consequence.
    async with _step(database) as house:
        gone = await house.run_each("expired", schema=database.schema, oldest=oldest)
        if gone:
            await house.note(actor, "calls.expire", ", ".join(gone))
    for name in ("forget_strays", "forget_keys", "forget_adjustments", "forget_quarters"):
        async with _step(database) as house:
            await house.run(name, oldest=oldest)
    return gone
