"""Partitions: a table of calls per month, created ahead and dropped when its calls have expired."""

from datetime import datetime

from llmring_server.db.database import Database
from llmring_server.db.repository import Repository


class Partitions(Repository):
    """The monthly partitions of the calls, in a transaction of the caller's."""

    sql = "db/partitions"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._schema = database.schema

    async def create(self) -> list[str]:
        """Create the partitions that are missing, up to a year ahead; return their names."""
        return await self._run("create_partition_statements")

    async def drop(self, oldest: datetime) -> list[str]:
        """Drop the partitions of months that ended before `oldest`; return their names."""
        return await self._run("drop_partition_statements", oldest=oldest)

    async def _run(self, name: str, **params: datetime) -> list[str]:
        """Run the statements that a query builds; return the names of their partitions."""
        rows = await self._fetch_all(name, schema=self._schema, **params)
        for row in rows:
            await self._database.execute(row["statements"])
        return [row["name"] for row in rows]
