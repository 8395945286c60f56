"""Owned ring: a ring that is opened when it is first needed, by an app or a service."""

import asyncio
from functools import partial
from typing import Any

from pgdbm import AsyncDatabaseManager

from llmring_server.errors import Unavailable
from llmring_server.receipts.signing_keys import Keyring
from llmring_server.ring import Ring
from llmring_server.settings import Settings

OTHER_LOOP = (
    "The database was opened in another event loop, which still runs. Use one app for each event"
    " loop, or await its aclose() there first."
)

LENT_IN_OTHER_LOOP = (
    "The database that was lent to this app was opened in another event loop. Lend one that was"
    " opened in the loop that serves the app, and use one app for each event loop."
)
NOT_LENT = "This app has no database: set app.state.db to a manager of pgdbm."
CLOSED = "The database was closed before it was open."


class ClosedDatabase(AsyncDatabaseManager):
    """Stands for a database that has not been opened."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.config = None
        self._pool = None

    def acquire(self) -> Any:
        raise Unavailable


class OwnedRing:
    """A ring on a database of its own. It stays open until `aclose`, or until its event loop ends.

    A task holds it open: like every task it is cancelled when `asyncio.run` ends, and then closes
    the database, also if nobody has called `aclose`.
    """

    def __init__(self, keyring: Keyring | None = None) -> None:
        self._keyring = keyring
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[Ring]
        self._closing: asyncio.Event

    async def open(self, settings: Settings) -> Ring:
        """Return the ring; open it before, once for all callers, if it is closed.

        If that fails, each of them gets the error, and the next caller tries again.
        """
        loop = asyncio.get_running_loop()
        while (task := self._holding()) and self._closing.is_set():
            await asyncio.wait({task})
        if task is None:
            opened, closing = self._opened, self._closing = loop.create_future(), asyncio.Event()
            task = self._task = loop.create_task(self._hold(settings, opened, closing))
            task.add_done_callback(partial(_give_up, opened))
        opened, closing = self._opened, self._closing
        # Other callers wait for it, so it is not given up when one of them is cancelled.
        ring = await asyncio.shield(opened)
        if closing.is_set():
            raise Unavailable(CLOSED)
        return ring

    async def aclose(self) -> None:
        """Close the database; the next `open` opens it again."""
        task = self._holding()
        if task is None:
            return
        self._closing.set()
        if not self._opened.done():
            task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    def _holding(self) -> asyncio.Task[None] | None:
        """Return the task that holds the ring open, if there is one.

        Raise Unavailable if it is that of another event loop.
        """
        task = self._task
        if task is None or task.done() or task.get_loop().is_closed():
            return None
        if task.get_loop() is not asyncio.get_running_loop():
            raise Unavailable(OTHER_LOOP)
        return task

    async def _hold(
        self, settings: Settings, opened: asyncio.Future[Ring], closing: asyncio.Event
    ) -> None:
        try:
            async with Ring.open(settings, self._keyring) as ring:
                await ring.database_warnings()
                opened.set_result(ring)
                await closing.wait()
        except Exception as exc:
            if opened.done():
                raise
            opened.set_exception(exc)
            # There may be no caller left to see it.
            opened.exception()


def _give_up(opened: asyncio.Future[Ring], _: asyncio.Task[None]) -> None:
    """Tell those who wait for a ring that it was closed, even before its task has begun."""
    if not opened.done():
        opened.set_exception(Unavailable(CLOSED))
        opened.exception()
