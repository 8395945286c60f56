"""One schema of one PostgreSQL, on a pool of our own or a parent's: its connections and errors."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from copy import copy
from typing import Any, Self, TypeAlias

import asyncpg
from pgdbm import AsyncDatabaseManager

from llmring_server import errors
from llmring_server.core.retry import retry_for
from llmring_server.db.connection_cache import Connection, ConnectionCache, OwnedPool
from llmring_server.db.errors import translated
from llmring_server.settings import Settings

# Generic for the type checker only.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# A server that starts beside us, or recovers, is there after a while.
START_TIMEOUT = 5.0
_NOT_YET = (
    ConnectionError,
    FileNotFoundError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
)

NO_DATABASE = (
    "No database is named: set LLMRING_DATABASE_URL=postgresql://user:password@host/name,"
    " or run `llmring-server serve`, which can bring its own."
)


class _ConnectionWithoutReset(asyncpg.Connection):
    """A connection without session state, which saves a round trip at each release."""

    def get_reset_query(self) -> str:
        return ""


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _session(settings: Settings) -> dict[str, str]:
    # A pooler in transaction mode refuses parameters of a session.
    if settings.database_pooler:
        return {"application_name": "llmring-server"}
    return {
        "application_name": "llmring-server",
        "search_path": "pg_catalog",
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": _milliseconds(settings.statement_timeout),
        "lock_timeout": _milliseconds(settings.lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout),
    }


def _pool(settings: Settings) -> Pool:
    return asyncpg.create_pool(
        settings.dsn(),
        min_size=settings.database_pool_size,
        max_size=settings.database_pool_size + settings.database_pool_overflow,
        connection_class=_ConnectionWithoutReset,
        statement_cache_size=0 if settings.database_pooler else 100,
        server_settings=_session(settings),
    )


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Say why `what` cannot be reached."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        # Of the driver's texts these name a host, a user or a database, never a password.
        raise errors.Unavailable(f"Cannot open {what}: {exc or type(exc).__name__}") from exc


async def _connected(settings: Settings) -> Pool:
    if not settings.database_url:
        raise errors.Unavailable(NO_DATABASE)

    async def connect() -> Pool:
        return await _pool(settings)

    with reaching("the database"):
        return await retry_for(connect, _NOT_YET, START_TIMEOUT, pause=0.1)


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[AsyncDatabaseManager]:
    """Open a pool as `settings` say, and close it at the end."""
    pool = await _connected(settings)
    try:
        yield OwnedPool(pool=pool, schema=settings.database_schema)
    finally:
        await pool.close()


class Database:
    """Where statements run: a connection for each from the pool, or the caller's transaction."""

    def __init__(self, manager: AsyncDatabaseManager, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.manager, self.schema = manager, manager.schema or "public"
        self.mcp_schema = settings.mcp_schema_beside(self.schema)
        # Longer than the database's own limit: for a server that does not answer at all.
        self.timeout: float | None = settings.statement_timeout + 1
        self._leases = ConnectionCache(manager, settings.acquire_timeout)
        self.held: Connection | None = None
        # True inside a transaction of the caller's, which ends when the caller says so.
        self.borrowed = False

    def within(self, transaction: Any) -> Self:
        """Return this database inside pgdbm's `transaction`, or an asyncpg connection with one."""
        other = self._on(getattr(transaction, "connection", transaction))
        other.borrowed = True
        return other

    def _on(self, connection: Connection) -> Self:
        other = copy(self)
        other.held = connection
        return other

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection. What is done with it raises the driver's errors: see `translated`."""
        if self.held is not None:
            yield self.held
            return
        lease = await self._leases.take()
        try:
            yield lease.connection
        except BaseException:
            await self._leases.give_back(lease)
            raise
        with translated(lease.connection):
            await self._leases.rest(lease)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        """Yield this database inside a transaction, or inside a savepoint of the caller's."""
        async with self.connection() as connection:
            with translated(connection):
                transaction = connection.transaction()
                await transaction.start()
            try:
                yield self._on(connection)
            except BaseException:
                # With its connection, a transaction is lost, too: the first error tells why.
                with suppress(errors.Unavailable), translated(connection):
                    await transaction.rollback()
                raise
            with translated(connection):
                await transaction.commit()

    async def fetch(self, text: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run one statement and return its rows."""
        async with self.connection() as connection:
            with translated(connection):
                return await connection.fetch(text, *arguments, timeout=self.timeout)

    async def execute(self, script: str) -> None:
        """Run a script of one or more statements, without parameters."""
        async with self.connection() as connection:
            with translated(connection):
                await connection.execute(script, timeout=self.timeout)

    async def aclose(self) -> None:
        """Give back to the pool the connections that are kept between uses."""
        await self._leases.aclose()
