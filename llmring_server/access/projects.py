"""Projects: what owns data, and how all of it goes."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from llmring_server.core.identity import Actor, Auditing, ProjectId, project_name
from llmring_server.core.ids import new_id
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import Conflict, InvalidRequest, NotFound

MAX_RETENTION_DAYS = 36_500
# So few at a time that no one waits for the locks.
BATCH_SIZE = 5000

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

# A key is believed for five seconds after it is gone, and a call that it let in may be tried again
# for five more.
ERASE_GRACE_SECONDS = 11.0
LOCK_POLL_SECONDS = 0.2


@dataclass(slots=True)
class Project:
    """A project, how many of its keys are good, and for how long it keeps messages."""

    project_id: ProjectId
    name: str
    created_at: datetime
    retain_days: int | None
    keys: int


class ErasedRows(NamedTuple):
    """How many rows of a kind are gone."""

    what: str
    rows: int


class Projects(Repository):
    """The projects of a deployment."""

    sql = "access/projects"
    tables = (Table("projects", grants=("UPDATE",)),)

    def __init__(self, database: Database, audit: Auditing) -> None:
        super().__init__(database)
        self._audit = audit
        # The services of all domains, whose tables `erase` empties: set by the ring.
        self.services: Sequence[Repository] = ()

    async def create(self, name: str, *, actor: Actor) -> ProjectId:
        """Make a project; Conflict if there is one of that name."""
        async with self._database.transaction() as inside:
            project_id = ProjectId(new_id())
            here = self.with_database(inside)
            if not await here._fetch_all(
                "create", project_id=project_id, project=project_name(name)
            ):
                raise Conflict("A project with this name already exists.")
            await here._audit.record(actor, "project.create", str(project_id), project_id)
        return project_id

    async def list(self) -> list[Project]:
        return [Project(**row) for row in await self._fetch_all("list")]

    async def find(self, name: str) -> ProjectId:
        """Return the project that is named, by its project's name or by itself (mode `open`)."""
        if _UUID.fullmatch(name):
            return ProjectId(UUID(name))
        rows = await self._fetch_all("find", project=name)
        if not rows:
            raise NotFound("No project has this name.")
        return ProjectId(rows[0]["project_id"])

    async def rename(self, project_id: ProjectId, name: str, *, actor: Actor) -> None:
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            await here._fetch_one("rename", project_id=project_id, project=project_name(name))
            await here._audit.record(actor, "project.rename", str(project_id), project_id)

    async def retain(self, project_id: ProjectId, days: int | None, *, actor: Actor) -> None:
        """Keep messages for so many days, or for ever; `maintain` deletes what is older."""
        if days is not None and not 1 <= days <= MAX_RETENTION_DAYS:
            raise InvalidRequest(f"days: give 1 to {MAX_RETENTION_DAYS:,}")
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            await here._fetch_one("retain", project_id=project_id, days=days)
            await here._audit.record(actor, "project.retain", str(project_id), project_id)

    async def erase(
        self,
        project_id: ProjectId,
        *,
        actor: Actor,
        progress: Callable[[ErasedRows], None] | None = None,
    ) -> dict[str, int]:
        """Delete everything of a project; return how many rows of each kind are gone.

        Its keys go first, so that nobody adds to it; only the audit log keeps its id. Rows are
        deleted in batches, each committed by itself, and `progress` is called after each batch. An
        erasure that was interrupted can be started again.
        """
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            await here._fetch_all("delete_project", project_id=project_id)
            await here._audit.record(actor, "project.erase", str(project_id), project_id)
        erased: Counter[str] = Counter()
        await self._erase_rows(project_id, erased, progress)
        await asyncio.sleep(ERASE_GRACE_SECONDS)
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            # Receipts are made for longer than that; the next one finds nothing to certify.
            while not (await here._fetch_one("try_receipt_lock", project_id=project_id))["locked"]:  # noqa: ASYNC110, the lock is PostgreSQL's
                await asyncio.sleep(LOCK_POLL_SECONDS)
            await here._erase_rows(project_id, erased, progress)
        return dict(erased)

    async def _erase_rows(
        self,
        project_id: ProjectId,
        erased: Counter[str],
        progress: Callable[[ErasedRows], None] | None,
    ) -> None:
        """Delete all rows of a project, batch by batch, and count them in `erased`."""
        for service in self.services:
            bound = service.with_database(self._database)
            for table in service.tables:
                if table.erase is None:
                    continue
                while rows := await bound.delete_batch(
                    table.erase, project_id=project_id, limit=BATCH_SIZE
                ):
                    erased[table.rows] += rows
                    if progress:
                        progress(ErasedRows(table.rows, rows))
