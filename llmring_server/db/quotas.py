"""Quotas: how many things of one kind a project may have.

A service waits for a slot, begins a transaction and locks the quota. The statement that adds things
then counts those that there are, and adds none if there would be too many.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import ClassVar

import asyncpg

from llmring_server.core.fair_queue import FairSlots, QueueLimits, SlotLimits
from llmring_server.core.identity import ProjectId
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.errors import QuotaExceeded


class Quota(Repository):
    """The quota of one kind of things. A `limit` of 0 means that there is none."""

    sql: ClassVar[str] = "db/quotas"

    def __init__(
        self, database: Database, limit: int, *, setting: str, kind: str, remedy: str
    ) -> None:
        super().__init__(database)
        self.limit = limit
        self._setting = setting
        self._kind = kind
        self._remedy = remedy
        self._slots = FairSlots(self._slot_limits, QueueLimits(), database.acquire_timeout)

    def slot(self, project_id: ProjectId | None) -> AbstractAsyncContextManager[None]:
        """Wait for the slot of a project, which has one.

        Transactions that wait for the lock of a quota hold a connection. Without slots, those of
        one project could hold all connections.
        """
        return self._database.slot(self._slots, project_id) if self.limit else nullcontext()

    def _slot_limits(self) -> SlotLimits:
        """Return how many transactions may run at once: nearly all connections are for others."""
        return SlotLimits(self._database.connections_for(0.1), 1)

    async def lock(self, project_id: ProjectId) -> None:
        """Let no other transaction add such things to the project until this one ends.

        A statement that follows, at isolation level READ COMMITTED, counts all that were added.
        """
        if self.limit:
            await self._fetch_all(
                "lock",
                schema=self._database.schema,
                setting=self._setting,
                project_id=project_id,
            )

    async def add(
        self,
        project_id: ProjectId,
        insert: Callable[[], Awaitable[list[asyncpg.Record]]],
        make_room: Callable[[], Awaitable[object]] | None = None,
    ) -> asyncpg.Record:
        """Add one thing, in a transaction; raise QuotaExceeded if there is no room.

        `insert` returns its row, or none at the quota: then it is run again after `make_room`.
        """
        await self.lock(project_id)
        rows = await insert()
        if not rows and make_room:
            await make_room()
            rows = await insert()
        if not rows:
            raise self.exceeded()
        return rows[0]

    def exceeded(self) -> QuotaExceeded:
        """Return the error for a request that would exceed the quota."""
        return QuotaExceeded(
            f"A project may have at most {self.limit:,} {self._kind}: {self._remedy}, or let the"
            f" operator raise {self._setting}."
        )
