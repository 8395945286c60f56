"""Connections that rest outside the pool between uses: to borrow one is half a query's work."""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from pgdbm import AsyncDatabaseManager

from llmring_server.db.errors import is_lost, translated

if TYPE_CHECKING:
    import asyncpg

# Generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# For how many seconds one rests until the pool has it back.
IDLE_SECONDS = 0.01
# And for how many it is kept from the pool at all, which may want to end it.
MAX_HELD_SECONDS = 1.0


class OwnedPool(AsyncDatabaseManager):
    """Manages a pool that is ours: a parent's may do something of its own at every loan."""


class CachedConnection(NamedTuple):
    """A borrowed connection, how to give it back, and since when it is out."""

    connection: Connection
    back: AsyncExitStack
    since: float


class ConnectionCache:
    """What is borrowed from one pool; Overloaded if it has no connection in time."""

    def __init__(self, manager: AsyncDatabaseManager, timeout: float) -> None:
        self._manager = manager
        self._timeout = timeout
        self._rested: list[CachedConnection] = []
        self._uses = 0
        self._returning: asyncio.Task[None] | None = None

    async def take(self) -> CachedConnection:
        """Take the connection that was used last, or borrow one."""
        self._uses += 1
        while self._rested:
            lease = self._rested.pop()
            if not is_lost(lease.connection):
                return lease
            await self.give_back(lease)
        back = AsyncExitStack()
        with translated(self._manager._pool):
            async with asyncio.timeout(self._timeout):
                connection = await back.enter_async_context(self._manager.acquire())
        return CachedConnection(cast("Connection", connection), back, time.monotonic())

    async def rest(self, lease: CachedConnection) -> None:
        """Keep a connection for whoever comes next, or give it back if others may want it."""
        if not self._may_rest(lease):
            await lease.back.aclose()
            return
        self._rested.append(lease)
        if not self._returning or self._returning.done():
            self._returning = asyncio.create_task(self._return())

    async def give_back(self, lease: CachedConnection) -> None:
        """Give a connection back to the pool."""
        # What the pool cannot make ready for the next user, it has closed: there is no one to tell.
        with suppress(Exception):
            await lease.back.aclose()

    async def aclose(self) -> None:
        """Give back to the pool all that rest here."""
        if self._returning:
            self._returning.cancel()
            await asyncio.wait([self._returning])
        # It gives them back at its end, unless it was cancelled before it began.
        while self._rested:
            await self.give_back(self._rested.pop())

    def _may_rest(self, lease: CachedConnection) -> bool:
        pool = self._manager._pool
        if pool is None or not isinstance(self._manager, OwnedPool):
            return False
        return pool.get_idle_size() > 0 and time.monotonic() - lease.since < MAX_HELD_SECONDS

    async def _return(self) -> None:
        """Give all of them back when none was used for a moment."""
        try:
            uses = -1
            while uses != self._uses:
                uses = self._uses
                await asyncio.sleep(IDLE_SECONDS)
        finally:
            while self._rested:
                await self.give_back(self._rested.pop())
