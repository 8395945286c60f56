"""What calls add up to, moved to where it is read fastest when its quarter of an hour is over."""

import asyncio
import logging
import time

from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import traceback_without_values

BATCH_SIZE = 500
# Statistics are exact before and after; they are read a little faster after.
PAUSE = 60.0

_logger = logging.getLogger(__name__)


class Rollups(Repository):
    """The sums of every project."""

    sql = "usage/rollups"
    tables = (
        Table("usage_recent", "recent totals", "erase_recent", ("UPDATE", "DELETE")),
        Table("usage_rollups", "totals", "erase_rollups", ("UPDATE",)),
    )
    delete_with_calls = ("delete_quarter_hours",)

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._folding: asyncio.Task[None] | None = None
        self._due = time.monotonic() + PAUSE

    async def fold(self) -> None:
        """Move the sums of all quarters that have been over for a while."""
        while (await self._fetch_one("fold", limit=BATCH_SIZE))["moved"] == BATCH_SIZE:
            pass

    def fold_if_due(self) -> None:
        """Begin to move them, a minute after the last time or later; nobody waits for it."""
        if time.monotonic() > self._due and (not self._folding or self._folding.done()):
            self._due = time.monotonic() + PAUSE
            self._folding = asyncio.create_task(self.fold())
            self._folding.add_done_callback(_tell)

    async def aclose(self) -> None:
        """Leave off moving them: those that are left are moved another time."""
        if self._folding and not self._folding.done():
            self._folding.cancel()
            await asyncio.wait([self._folding])


def _tell(folding: asyncio.Task[None]) -> None:
    if not folding.cancelled() and (exc := folding.exception()):
        _logger.warning("sums stay where they are for now: %s", traceback_without_values(exc))
