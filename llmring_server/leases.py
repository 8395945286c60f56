"""Connections that stay out of the pool for a moment: to borrow one is half a query's work."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple, TypeAlias, cast

import asyncpg
from pgdbm import AsyncDatabaseManager

# Generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

MOMENT = 0.01


class Lease(NamedTuple):
    """A borrowed connection, and how to give it back."""

    connection: Connection
    back: AsyncExitStack


class Leases:
    """The connections that are borrowed from one pool; TimeoutError if it has none in time."""

    def __init__(self, manager: AsyncDatabaseManager, timeout: float) -> None:
        self._manager = manager
        self._timeout = timeout
        self._rested: list[Lease] = []
        self._uses = 0
        self._returning: asyncio.Task[None] | None = None

    async def take(self) -> Lease:
        """Take the connection that was used last, or borrow one."""
        self._uses += 1
        while self._rested:
            lease = self._rested.pop()
            if _is_open(lease.connection):
                return lease
            await _given_back(lease)
        back = AsyncExitStack()
        async with asyncio.timeout(self._timeout):
            connection = await back.enter_async_context(self._manager.acquire())
        return Lease(cast("Connection", connection), back)

    async def rest(self, lease: Lease) -> None:
        """Keep a connection for whoever comes next, or give it back if others may want it."""
        if not self._others_are_free():
            await lease.back.aclose()
            return
        self._rested.append(lease)
        if not self._returning or self._returning.done():
            self._returning = asyncio.create_task(self._return())

    def _others_are_free(self) -> bool:
        pool = self._manager._pool
        return pool is not None and pool.get_idle_size() > 0

    async def _return(self) -> None:
        """Give all of them back when none was used for a moment."""
        try:
            uses = -1
            while uses != self._uses:
                uses = self._uses
                await asyncio.sleep(MOMENT)
        finally:
            self._returning = None
            while self._rested:
                await _given_back(self._rested.pop())


async def _given_back(lease: Lease) -> None:
    # What the pool cannot make ready for the next, it has ended; nobody asked for this one.
    with suppress(Exception):
        await lease.back.aclose()


def _is_open(connection: Connection) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False  # the pool took it back when it ended
