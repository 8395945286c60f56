"""Connection cache: connections that are kept for a moment before they return to the pool.

Acquiring a connection from asyncpg's pool and releasing it costs half as much as a short query. The
next user within `IDLE_SECONDS` gets a kept connection without that cost.
"""

import asyncio
import math
import time
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple, TypeAlias, cast

import asyncpg
from pgdbm import AsyncDatabaseManager

from llmring_server.core.server_stats import PoolStats
from llmring_server.db.errors import ends_all_connections, ends_connection, is_lost, translated
from llmring_server.db.monitored import monitored
from llmring_server.db.pool_monitor import PoolMonitor, monitor_of

# Generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# How long a connection is kept after its last use.
IDLE_SECONDS = 0.01
# How long a connection stays out of the pool in total: the pool may have to close it.
MAX_HELD_SECONDS = 1.0
# How long an old connection has to end its session.
CLOSE_TIMEOUT_SECONDS = 1.0
# A database that stays read-only must not cause all connections to be replaced for each statement.
EXPIRY_PAUSE_SECONDS = 1.0


class OwnedConnection(asyncpg.Connection):
    """A connection of the server's own pool.

    It is not reset when it is released, which saves a round trip: the server leaves no state in its
    sessions. What it sets, it sets for a transaction.
    """

    # When it is to be replaced by a new one, which may lead to another host.
    retires_at = math.inf

    def get_reset_query(self) -> str:
        return ""


class OwnedPool(AsyncDatabaseManager):
    """Manager of a pool that the server opened itself.

    Only its connections are cached: a parent's pool may have a callback that must run each time a
    connection is acquired.
    """

    # When the connections that were open at that time were expired.
    expired_at = -math.inf

    async def expire_connections(self) -> None:
        """Have all open connections replaced before they are used again; at most once a second."""
        now = time.monotonic()
        if self._pool is not None and now - self.expired_at > EXPIRY_PAUSE_SECONDS:
            self.expired_at = now
            await self._pool.expire_connections()


class CachedConnection(NamedTuple):
    """A connection acquired from the pool, how to release it, and when it was acquired."""

    connection: Connection
    releasing: AsyncExitStack
    acquired_at: float


class ConnectionCache:
    """The cached connections of one pool."""

    def __init__(self, manager: AsyncDatabaseManager, timeout: float) -> None:
        self._manager = manager
        self._timeout = timeout
        self._idle: list[CachedConnection] = []
        self._acquisitions = 0
        self._release_task: asyncio.Task[None] | None = None
        # Of the pool, which a manager may have only later, and replaces when it connects again.
        self._monitor: PoolMonitor | None = None

    async def acquire(self) -> CachedConnection:
        """Return the connection used last, or one from the pool; Overloaded after the timeout."""
        self._acquisitions += 1
        while self._idle:
            cached = self._idle.pop()
            if not is_lost(cached.connection):
                return cached
            await self.release(cached)
        cached = await self._acquire_from_pool()
        if self._is_too_old(cached.connection):
            with suppress(Exception):
                await cached.connection.close(timeout=CLOSE_TIMEOUT_SECONDS)
            await self.release(cached)
            cached = await self._acquire_from_pool()
        return cached

    async def _acquire_from_pool(self) -> CachedConnection:
        releasing = AsyncExitStack()
        monitor = self.monitor()
        ticket = monitor.begin_waiting(len(self._idle)) if monitor else None
        try:
            with translated(self._manager._pool):
                async with asyncio.timeout(self._timeout):
                    connection = await releasing.enter_async_context(self._manager.acquire())
        finally:
            if monitor:
                monitor.end_waiting(ticket)
        connection = monitored(cast("Connection", connection), self._manager)
        return CachedConnection(connection, releasing, time.monotonic())

    async def keep(self, cached: CachedConnection) -> None:
        """Keep a connection for the next user, or release it if others may want it."""
        if not self._may_keep(cached):
            try:
                await cached.releasing.aclose()
            finally:
                self._look_if_busy()
            return
        self._idle.append(cached)
        if self._monitor and self._monitor.busy_since is not None:
            self._look_if_busy()
        if not self._release_task or self._release_task.done():
            self._release_task = asyncio.create_task(self._release_when_idle())

    def _is_too_old(self, connection: Connection) -> bool:
        return (
            isinstance(self._manager, OwnedPool)
            and time.monotonic() > cast("OwnedConnection", connection).retires_at
        )

    async def release(self, cached: CachedConnection, exc: BaseException | None = None) -> None:
        """Return a connection to the pool; if it failed with `exc`, it may have to be ended.

        Of a parent's pool, only this connection is ended: the others are the parent's.
        """
        if exc is not None and ends_connection(exc):
            with suppress(Exception):
                cached.connection.terminate()
            if ends_all_connections(exc) and isinstance(self._manager, OwnedPool):
                await self._manager.expire_connections()
                await self._release_all()
        # The pool closes a connection that it cannot reset, so the error needs no handling.
        with suppress(Exception):
            await cached.releasing.aclose()
        self._look_if_busy()

    def monitor(self) -> PoolMonitor | None:
        """Return the monitor of the pool; None if the manager has none now."""
        pool = self._manager._pool
        if pool is None:
            self._monitor = None
        elif self._monitor is None or not self._monitor.is_of(pool):
            self._monitor = monitor_of(pool)
        return self._monitor

    def pool_stats(self) -> PoolStats | None:
        """Return the state of the pool; None if the manager has no pool."""
        monitor = self.monitor()
        return monitor.stats(len(self._idle)) if monitor else None

    def _look_if_busy(self) -> None:
        if self._monitor and self._monitor.busy_since is not None:
            self._monitor.look(len(self._idle))

    async def aclose(self) -> None:
        """Return all cached connections to the pool."""
        if self._release_task:
            self._release_task.cancel()
            await asyncio.wait([self._release_task])
        # The task releases them when it ends, unless it was cancelled before it began.
        await self._release_all()

    def _may_keep(self, cached: CachedConnection) -> bool:
        pool = self._manager._pool
        if pool is None or not isinstance(self._manager, OwnedPool):
            return False
        # If the pool has no idle connection, another task may be waiting for this one.
        if cached.acquired_at < self._manager.expired_at:
            return False
        return pool.get_idle_size() > 0 and time.monotonic() - cached.acquired_at < MAX_HELD_SECONDS

    async def _release_when_idle(self) -> None:
        """Release all connections after a moment in which none was acquired."""
        try:
            acquisitions = -1
            while acquisitions != self._acquisitions:
                acquisitions = self._acquisitions
                await asyncio.sleep(IDLE_SECONDS)
        finally:
            await self._release_all()

    async def _release_all(self) -> None:
        while self._idle:
            await self.release(self._idle.pop())
