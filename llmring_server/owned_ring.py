"""Owned ring: a ring that is opened when it is first needed, by an app or a service."""

import asyncio
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
        if self._task is None or self._task.done() or self._task.get_loop().is_closed():
            self._opened, self._closing = loop.create_future(), asyncio.Event()
            self._task = loop.create_task(self._hold(settings, self._opened, self._closing))
        elif self._task.get_loop() is not loop:
            raise Unavailable(OTHER_LOOP)
        # Other callers wait for it, so it is not given up when one of them is cancelled.
        return await asyncio.shield(self._opened)

    async def aclose(self) -> None:
        """Close the database; the next `open` opens it again."""
        task, self._task = self._task, None
        if task is None or task.done() or task.get_loop().is_closed():
            return
        if task.get_loop() is not asyncio.get_running_loop():
            self._task = task
            raise Unavailable(OTHER_LOOP)
        self._closing.set()
        if not self._opened.done():
            task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def _hold(
        self, settings: Settings, opened: asyncio.Future[Ring], closing: asyncio.Event
    ) -> None:
        try:
            async with Ring.open(settings, self._keyring) as ring:
                await ring.database_warnings()
                opened.set_result(ring)
                await closing.wait()
        except asyncio.CancelledError:
            if not opened.done():
                opened.set_exception(Unavailable(CLOSED))
                opened.exception()
            raise
        except Exception as exc:
            if opened.done():
                raise
            opened.set_exception(exc)
            # There may be no caller left to see it.
            opened.exception()
