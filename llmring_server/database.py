"""The database of llmring-server 0.1, at its former path: one of its own, or a borrowed one."""

import asyncio
from types import TracebackType
from typing import Self

from pgdbm import AsyncDatabaseManager, DatabaseConfig

from llmring_server.db.migrations import migrate
from llmring_server.db.monitored import with_schema

DEFAULT_MIN_CONNECTIONS = 10
DEFAULT_MAX_CONNECTIONS = 20


class Database:
    """pgdbm's manager in `db`: connected to `connection_string`, or borrowed as `db_manager`.

    `schema` is that of the tables: by default `llmring`, or that of `db_manager`.
    """

    def __init__(
        self,
        connection_string: str | None = None,
        db_manager: AsyncDatabaseManager | None = None,
        schema: str | None = None,
        min_connections: int | None = None,
        max_connections: int | None = None,
    ) -> None:
        if (connection_string is None) == (db_manager is None):
            raise ValueError(
                "pass either connection_string='postgresql://...' or db_manager=..., not both"
            )
        self.external_db = db_manager is not None
        self._connecting = asyncio.Lock()
        self.db: AsyncDatabaseManager | None = None
        self.config: DatabaseConfig | None = None
        if connection_string is not None:
            self.schema = schema or "llmring"
            most = max_connections
            if most is None:
                most = max(DEFAULT_MAX_CONNECTIONS, min_connections or 0)
            least = min_connections
            if least is None:
                least = min(DEFAULT_MIN_CONNECTIONS, most)
            self.config = DatabaseConfig(
                connection_string=connection_string,
                schema=self.schema,
                min_connections=least,
                max_connections=most,
            )
        elif db_manager is not None:
            self.schema = schema or db_manager.schema or "public"
            has_schema = schema in {None, db_manager.schema}
            self.db = db_manager if has_schema else with_schema(db_manager, self.schema)

    async def connect(self) -> None:
        """Open the pool, unless it is borrowed or open."""
        if self.config is None:
            return
        async with self._connecting:
            if self.db is None:
                db = AsyncDatabaseManager(self.config)
                await db.connect()
                self.db = db

    async def disconnect(self) -> None:
        """Close the pool, unless it is borrowed."""
        if self.config is None or self.db is None:
            return
        db, self.db = self.db, None
        await db.disconnect()

    async def run_migrations(self) -> dict[str, list[str]]:
        """Apply the pending migrations, and return the names of their files as `applied`."""
        if self.db is None:
            raise RuntimeError("the database is not connected: await connect() first")
        return {"applied": await migrate(self.db)}

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.disconnect()
