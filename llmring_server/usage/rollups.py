"""Rollups: sums of calls, moved to a table that is read faster once their quarter hour is over."""

import asyncio
import logging
import time

from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import traceback_without_values

BATCH_SIZE = 500
# Statistics are exact before and after a move; they are read a little faster after it.
MOVE_INTERVAL_SECONDS = 60.0

# Where a row lies in its table: the number of its page, and its number there, from 1.
Place = tuple[int, int]
FIRST_PLACE: Place = (0, 0)
PAGES_AT_ONCE = 256

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
        self._moving: asyncio.Task[None] | None = None
        self._next_move = time.monotonic() + MOVE_INTERVAL_SECONDS

    async def move_to_rollups(self) -> None:
        """Move the sums of all quarter hours that have been over for a while."""
        place: Place | None = FIRST_PLACE
        while place:
            place = await self.move_batch(place)

    async def move_batch(self, place: Place) -> Place | None:
        """Move a batch of sums; return the place where the next begins, None at the end."""
        page, _ = place
        before: Place = (page + PAGES_AT_ONCE, 0)
        row = await self._fetch_one("move_to_rollups", after=place, before=before, limit=BATCH_SIZE)
        if row["picked"] == BATCH_SIZE:
            last_place: Place = row["last_place"]
            return last_place
        return before if before[0] < row["pages"] else None

    def move_in_background(self) -> None:
        """Start moving sums if the last move started a minute ago or earlier; wait for nothing."""
        is_moving = self._moving and not self._moving.done()
        if time.monotonic() > self._next_move and not is_moving:
            self._next_move = time.monotonic() + MOVE_INTERVAL_SECONDS
            self._moving = asyncio.create_task(self.move_to_rollups())
            self._moving.add_done_callback(_log_failure)

    async def aclose(self) -> None:
        """Stop a move that is under way; a later one moves the sums that are left."""
        if self._moving and not self._moving.done():
            self._moving.cancel()
            await asyncio.wait([self._moving])


def _log_failure(moving: asyncio.Task[None]) -> None:
    if not moving.cancelled() and (exc := moving.exception()):
        _logger.warning(
            "moving sums to rollups failed; a later move repeats it: %s",
            traceback_without_values(exc),
        )
