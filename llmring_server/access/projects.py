"""Projects: what owns data, and how all of it goes."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId, project_name
from llmring_server.core.ids import new_id
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.errors import Conflict, InvalidRequest, NotFound

MAX_RETENTION_DAYS = 36_500
# The statements that erase a project, in their order, and what each deletes, as people are told.
ERASE = {
    "erase_logs": "calls",
    "erase_adjustments": "cost adjustments",
    "erase_keys_of_calls": "idempotency keys",
    "erase_recent": "recent totals",
    "erase_rollups": "totals",
    "erase_messages": "messages",
    "erase_conversations": "conversations",
    "erase_executions": "MCP executions",
    "erase_capabilities": "MCP capabilities",
    "erase_servers": "MCP servers",
    "erase_template_versions": "template versions",
    "erase_templates": "templates",
    "erase_aliases": "aliases",
    "erase_receipt_calls": "receipt calls",
    "erase_receipt_days": "receipt days",
    "erase_receipts": "receipts",
}
# So few at a time that no one waits for the locks.
BATCH_SIZE = 5000

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

# A key is believed for five seconds after it is gone, and a call that it let in may be tried again
# for five more.
ERASE_GRACE_SECONDS, PAUSE = 11.0, 0.2


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

    def __init__(self, database: Database, audit: AuditLog) -> None:
        super().__init__(database)
        self._audit = audit

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
            await here._fetch_all("shut", project_id=project_id)
            await here._audit.record(actor, "project.erase", str(project_id), project_id)
        gone: Counter[str] = Counter()
        await self._sweep(project_id, gone, progress)
        await asyncio.sleep(ERASE_GRACE_SECONDS)
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            # Receipts are made for longer than that; the next one finds nothing to certify.
            while not (await here._fetch_one("alone", project_id=project_id))["alone"]:  # noqa: ASYNC110, not ours
                await asyncio.sleep(PAUSE)
            await here._sweep(project_id, gone, progress)
        return dict(gone)

    async def _sweep(
        self,
        project_id: ProjectId,
        gone: Counter[str],
        progress: Callable[[ErasedRows], None] | None,
    ) -> None:
        """Delete all rows of a project, batch by batch, and count them in `gone`."""
        for statement, what in ERASE.items():
            while rows := (
                await self._fetch_one(statement, project_id=project_id, limit=BATCH_SIZE)
            )["gone"]:
                gone[what] += rows
                if progress:
                    progress(ErasedRows(what, rows))
