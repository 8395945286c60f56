"""Monitored managers: a parent's `MonitoredAsyncDatabaseManager` sees the server's statements.

pgdbm counts the statements that run through the methods of its manager. The server runs its own on
connections that it acquires from the manager, so it reports them to the manager itself.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from pgdbm import AsyncDatabaseManager, MonitoredAsyncDatabaseManager

if TYPE_CHECKING:
    from llmring_server.db.connection_cache import Connection


class _MonitoredConnection:
    """A connection whose statements appear in the history and the metrics of a manager.

    Like pgdbm, it leaves out those that begin and end transactions. A cursor is one statement, and
    its time is that of opening it: how long its rows are read depends on the reader. The methods
    below are all with which the server runs statements.
    """

    def __init__(self, connection: "Connection", manager: MonitoredAsyncDatabaseManager) -> None:
        self._connection = connection
        self._manager = manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def _run(
        self, method: Callable[..., Awaitable[Any]], query: str, args: tuple[Any, ...], options: Any
    ) -> Any:
        return await self._manager._track_query(method, query, args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._run(self._connection.fetch, query, args, options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._run(self._connection.fetchval, query, args, options)

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._run(self._connection.execute, query, args, options)

    async def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        async def opened(query: str, *args: Any, **options: Any) -> Any:
            return await self._connection.cursor(query, *args, **options)

        return await self._run(opened, query, args, options)


class _MonitoredSchema(MonitoredAsyncDatabaseManager):
    """Another schema on the pool of a monitored manager, which counts its statements, too."""

    def __init__(self, manager: MonitoredAsyncDatabaseManager, schema: str) -> None:
        super().__init__(pool=manager._pool, schema=schema)
        self._manager = manager

    async def _track_query(
        self, func: Callable[..., Any], query: str, args: tuple[Any, ...], **kwargs: Any
    ) -> Any:
        return await self._manager._track_query(func, query, args, **kwargs)


def monitored(connection: "Connection", manager: AsyncDatabaseManager) -> "Connection":
    """Return the connection, such that a monitored manager sees what runs on it."""
    if isinstance(manager, MonitoredAsyncDatabaseManager):
        return cast("Connection", _MonitoredConnection(connection, manager))
    return connection


def with_schema(manager: AsyncDatabaseManager, schema: str) -> AsyncDatabaseManager:
    """Return a manager of another schema on the same pool."""
    if manager._pool is None:
        raise ValueError(
            "A manager of another schema needs the pool: call `await manager.connect()` first, or"
            " name the schema in the manager's DatabaseConfig."
        )
    if isinstance(manager, MonitoredAsyncDatabaseManager):
        return _MonitoredSchema(manager, schema)
    return AsyncDatabaseManager(pool=manager._pool, schema=schema)
