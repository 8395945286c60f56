"""What keeps the tables small and fast: months made ahead, months dropped, sums folded."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pgdbm import AsyncDatabaseManager

from llmring_server.database import Connection, Database
from llmring_server.repository import bind, load


class Maintained(NamedTuple):
    """Which months' tables were made, and which dropped."""

    made: list[str]
    dropped: list[str]


class _Housekeeping:
    """The statements of maintenance on one connection, in a transaction."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self._connection = connection
        self._sql = {name: bind(sql, database) for name, sql in load("maintenance").items()}

    async def run(self, name: str, **params: Any) -> None:
        statement = self._sql[name]
        await self._connection.execute(statement.text, *statement.arguments(params))

    async def run_each(self, name: str, **params: Any) -> list[str]:
        """Run the statements that the statement `name` finds; return the tables that they name."""
        statement = self._sql[name]
        found = await self._connection.fetch(statement.text, *statement.arguments(params))
        for row in found:
            await self._connection.execute(row["statements"])
        return [row["name"] for row in found]


async def partition(database: Database, connection: Connection) -> list[str]:
    """Make the tables of the months that have none yet, for a year ahead."""
    return await _Housekeeping(database, connection).run_each("missing", schema=database.schema)


async def maintain(db: AsyncDatabaseManager, retain: timedelta | None = None) -> Maintained:
    """Make months ahead, fold sums, and forget calls of months that ended `retain` ago.

    What the forgotten calls add up to stays, by UTC day. Run it daily, beside a serving server.
    """
    database = Database(db)
    async with database.transaction() as inside, inside.connection() as connection:
        # Long deletes are fine, and touch nothing new; waiting for a lock would block the others.
        await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '2s'")
        made = await partition(database, connection)
        house = _Housekeeping(database, connection)
        await house.run("fold")
        dropped = await _forget(house, database.schema, retain) if retain else []
    return Maintained(made, dropped)


async def _forget(house: _Housekeeping, schema: str, retain: timedelta) -> list[str]:
    oldest = (datetime.now(UTC) - retain).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    dropped = await house.run_each("expired", schema=schema, oldest=oldest)
    for name in ("forget_strays", "forget_keys", "forget_quarters"):
        await house.run(name, oldest=oldest)
    return dropped
