"""Database: one schema of one PostgreSQL, on the server's own pool or its parent's.

It provides connections, transactions and single statements, and translates the driver's errors.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

import asyncpg
from pgdbm import AsyncDatabaseManager

from llmring_server import errors
from llmring_server.core.events import Events
from llmring_server.core.fair_queue import FairSlots
from llmring_server.core.identity import ProjectId
from llmring_server.core.server_stats import LongReadStats, PoolStats
from llmring_server.db import connect
from llmring_server.db.connection_cache import (
    Connection,
    ConnectionCache,
    OwnedConnection,
    OwnedPool,
)
from llmring_server.db.errors import translated
from llmring_server.db.long_reads import LongReads
from llmring_server.db.monitored import monitored
from llmring_server.settings import Settings

if TYPE_CHECKING:
    from llmring_server.db.replica import Replica

# Generic for the type checker only.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# The client waits this much longer than the server: it gives up only if the server does not answer.
CLIENT_TIMEOUT_MARGIN_SECONDS = 1.0
# Connections reach their maximum age at different times, within this share of it.
MAX_AGE_JITTER = 0.2
# The oldest major version of PostgreSQL that the server is tested with.
MIN_POSTGRES = 14

_RETRIES_IN_ONE_LINE = connect.RetriesInOneLine()

NO_DATABASE = (
    "No database is configured: set LLMRING_DATABASE_URL=postgresql://user:password@host/name,"
    " or run `llmring-server serve`, which can start an embedded PostgreSQL."
)

# How long the end of a server waits for the connections to its replica.
CLOSE_TIMEOUT_SECONDS = 2.0


@dataclass(slots=True)
class ReadReport:
    """What a read replica told of the reads that it answered."""

    # How old their data was at most, in seconds; None if no replica was asked, or if unknown.
    lag: float | None = None


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def loop_of(manager: AsyncDatabaseManager) -> asyncio.AbstractEventLoop | None:
    """Return the event loop of the manager's pool; None if it has none yet."""
    loop: asyncio.AbstractEventLoop | None = getattr(manager._pool, "_loop", None)
    return loop


@asynccontextmanager
async def open_replica(settings: Settings) -> AsyncIterator[AsyncDatabaseManager | None]:
    """Open a pool of the read replica in the settings, and close it at the end.

    It connects when it is used: the server starts without its replica.
    """
    if settings.database_read_url is None:
        yield None
        return
    settings = settings.model_copy(update={"database_url": settings.database_read_url})
    pool = await _pool(settings, min_size=0)
    try:
        yield OwnedPool(pool=pool, schema=settings.database_schema)
    finally:
        try:
            # A frozen replica would not answer.
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await pool.close()
        except (OSError, TimeoutError):
            pool.terminate()


def _session_parameters(settings: Settings) -> dict[str, str]:
    # A pooler in transaction mode rejects parameters of a session.
    if settings.has_pooler:
        return {}
    return {
        "search_path": "pg_catalog",
        "default_transaction_isolation": "read committed",
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": _milliseconds(settings.statement_timeout),
        "lock_timeout": _milliseconds(settings.lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout),
    }


def _pool(settings: Settings, min_size: int | None = None) -> Pool:
    url = settings.dsn() or ""
    session = _session_parameters(settings)
    # Adding the same filter again has no effect.
    logging.getLogger("asyncpg.pool").addFilter(_RETRIES_IN_ONE_LINE)
    return asyncpg.create_pool(
        **connect.arguments(url, has_pooler=settings.has_pooler, session=session),
        min_size=settings.database_pool_size if min_size is None else min_size,
        max_size=settings.database_pool_size + settings.database_pool_overflow,
        connect=connect.connect_for_pool,
        connection_class=OwnedConnection,
        init=partial(_prepare, settings),
    )


async def _prepare(settings: Settings, connection: Connection) -> None:
    """Prepare a new connection of the server's own pool."""
    await connect.keep_alive(settings.dsn() or "", connection)
    if age := settings.database_max_connection_age:
        # Not all at once: connecting takes time, and a pooler may limit its rate.
        share = 1 - MAX_AGE_JITTER * random()  # noqa: S311, not a secret
        cast("OwnedConnection", connection).retires_at = time.monotonic() + age * share


async def _open_pool(settings: Settings) -> Pool:
    if not settings.database_url:
        raise errors.Unavailable(NO_DATABASE)

    async def open_pool() -> Pool:
        return await _pool(settings)

    with connect.connecting_to("the database", settings.database_url):
        return await connect.when_started(open_pool)


async def _check_version(pool: Pool) -> None:
    async with pool.acquire() as connection:
        major = connection.get_server_version().major
    if major < MIN_POSTGRES:
        raise errors.Unavailable(
            f"The database runs on PostgreSQL {major}, and the server needs {MIN_POSTGRES} or"
            " later."
        )


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[AsyncDatabaseManager]:
    """Open a pool with these settings, and close it at the end."""
    pool = await _open_pool(settings)
    try:
        await _check_version(pool)
        yield OwnedPool(pool=pool, schema=settings.database_schema)
    finally:
        try:
            await pool.close()
        except OSError:
            # PostgreSQL has ended a connection that nobody has used since.
            pool.terminate()


class Database:
    """Where statements run: each on a connection from the pool, or all in one transaction."""

    def __init__(self, manager: AsyncDatabaseManager, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.manager = manager
        self.schema = manager.schema or "public"
        self.mcp_schema = settings.mcp_schema_beside(self.schema)
        # Of a single statement, in seconds. None: no limit.
        self.timeout: float | None = settings.statement_timeout + CLIENT_TIMEOUT_MARGIN_SECONDS
        # The connection of the transaction; None outside of one.
        self.connection: Connection | None = None
        # True if the caller began the transaction, and decides when it ends.
        self.in_caller_transaction = False
        # Answers reads outside of transactions with data that may be a moment old.
        self.replica: Replica | None = None
        # What the replica must have replayed before it answers; None: as little as it has.
        self.position: int | None = None
        self.read_report: ReadReport | None = None
        # Of what is committed outside of a caller's transaction.
        self.events = Events()
        self.acquire_timeout = settings.acquire_timeout
        self._connections = ConnectionCache(manager, settings.acquire_timeout)
        self._long_reads = LongReads(manager, settings)

    @property
    def max_connections(self) -> int:
        """How many connections the pool may have."""
        pool = self.manager._pool
        return pool.get_max_size() if pool else 1

    def connections_for(self, share: float) -> int:
        """Return how many connections one kind of work may hold: a share of all.

        Two at least, so that one project does not hold all of them, unless the pool is very small.
        """
        connections = self.max_connections
        return max(1, min(2, connections // 2), int(connections * share))

    def within(self, transaction: Any) -> Self:
        """Return this database inside pgdbm's `transaction`, or an asyncpg connection with one."""
        connection = getattr(transaction, "connection", transaction)
        inside = self._on(monitored(connection, self.manager))
        inside.in_caller_transaction = True
        return inside

    def _on(self, connection: Connection) -> Self:
        inside = copy(self)
        inside.connection = connection
        # What a transaction reads must be what it has written, and what it locks.
        inside.replica = None
        return inside

    def note_primary(self) -> None:
        """Note that the primary answers, although a replica was asked."""
        if self.read_report:
            self.read_report.lag = None

    def without_replica(self) -> Self:
        """Return this database with all reads on the primary."""
        self.note_primary()
        primary = copy(self)
        primary.replica = None
        return primary

    def reading(self, position: int | None) -> Self:
        """Return this database with reads that see at least `position`, and report on them."""
        reader = copy(self)
        reader.position = position
        reader.read_report = ReadReport()
        return reader

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Yield a connection. Using it raises the driver's errors: see `translated`."""
        if self.connection is not None:
            yield self.connection
            return
        cached = await self._connections.acquire()
        try:
            yield cached.connection
        except BaseException as exc:
            await self._connections.release(cached, exc)
            raise
        with translated(cached.connection):
            await self._connections.keep(cached)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        """Yield this database inside a transaction, or inside a savepoint of the current one."""
        # A role or a database may have another default, at which concurrent writers would fail.
        isolation: Any = None if self.connection else "read_committed"
        async with self.acquire() as connection:
            with translated(connection):
                transaction = connection.transaction(isolation=isolation)
                await transaction.start()
            try:
                yield self._on(connection)
            except BaseException:
                # If the connection is lost, so is the transaction. The first error says why.
                with suppress(errors.Unavailable), translated(connection):
                    await transaction.rollback()
                raise
            with translated(connection):
                await transaction.commit()

    @property
    def announces(self) -> bool:
        """Whether somebody subscribes to events, and what was written is committed."""
        return self.events.has_subscribers and self.connection is None

    def slot(
        self, slots: FairSlots, project_id: ProjectId | None, size: int = 1
    ) -> AbstractAsyncContextManager[None]:
        """Wait for a slot for work that takes a connection.

        Work in a transaction has one already, and needs no slot.
        """
        if self.connection is not None:
            return nullcontext()
        return slots.slot(project_id, size)

    def long_statement(self, project_id: ProjectId) -> AbstractAsyncContextManager[None]:
        """Wait for a slot for a read that may hold a connection for seconds.

        Do not wait for a slot within another. A read in a transaction needs none.
        """
        if not self._takes_connections:
            return nullcontext()
        return self._long_reads.statement(project_id)

    def long_transaction(self, project_id: ProjectId) -> AbstractAsyncContextManager[None]:
        """Wait for a slot for a transaction that may last as long as a client reads."""
        if not self._takes_connections:
            return nullcontext()
        return self._long_reads.transaction(project_id)

    def pool_stats(self) -> PoolStats | None:
        """Return the state of the pool; None if the manager has no pool."""
        return self._connections.pool_stats()

    def long_read_stats(self) -> LongReadStats | None:
        """Return the slots of long reads; None if the manager has no pool."""
        return self._long_reads.stats() if self.manager._pool is not None else None

    @property
    def _takes_connections(self) -> bool:
        # A manager without a pool reports it when it is used.
        return self.connection is None and self.manager._pool is not None

    async def fetch(self, text: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run one statement and return its rows."""
        async with self.acquire() as connection:
            with translated(connection):
                return await connection.fetch(text, *arguments, timeout=self.timeout)

    async def execute(self, script: str) -> None:
        """Run a script of one or more statements, without parameters."""
        async with self.acquire() as connection:
            with translated(connection):
                await connection.execute(script, timeout=self.timeout)

    async def aclose(self) -> None:
        """Return all cached connections to the pool."""
        await self._connections.aclose()
