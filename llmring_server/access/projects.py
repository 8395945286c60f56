"""Projects: the owners of data. They are created, listed, renamed and erased."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from pydantic import Field

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId, project_name, project_of_key
from llmring_server.core.ids import new_id
from llmring_server.core.pagination import Limit, PageParams, Position
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import Conflict, InvalidRequest, NotFound

MAX_RETENTION_DAYS = 36_500
# Rows are deleted in small batches, so that their locks are held only briefly.
BATCH_SIZE = 5000
# A cached key is accepted for five seconds after it was deleted, and a call that was accepted with
# it may be retried for five more.
ERASE_GRACE_SECONDS = 11.0
LOCK_POLL_SECONDS = 0.2

# The Max UUID of RFC 9562, which is no project's id.
LARGEST_ID = UUID(int=2**128 - 1)

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(slots=True)
class Project:
    """A project, the number of its valid keys, and how many days it keeps messages.

    A project of another mode than `keys` has no name until the operator gives it one, and no time
    of creation until then. `last_call` is the UTC day of its latest call.
    """

    project_id: ProjectId
    name: str | None
    created_at: datetime | None
    retain_days: int | None
    keys: int
    last_call: date | None


class ProjectPage(PageParams):
    """A page of projects, the one with the largest id first."""

    limit: Limit = Field(1000, ge=1, le=1000)

    def next(self, project_id: ProjectId | None, last: Project) -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(project_id, Position(None, last.project_id), b"projects")


class ErasedRows(NamedTuple):
    """The kind and number of rows in a batch that was deleted."""

    kind: str
    rows: int


class Projects(Repository):
    """The projects of a deployment."""

    row_kind = "Project"
    sql = "access/projects"
    tables = (Table("projects", grants=("UPDATE",)),)

    def __init__(self, database: Database, audit: AuditLog) -> None:
        super().__init__(database)
        self._audit = audit
        # The services of all domains: `erase` empties their tables. `Ring` sets this.
        self.services: Sequence[Repository] = ()

    async def create(self, name: str, *, actor: Actor) -> ProjectId:
        """Create a project; Conflict if the name is taken, or is a key of mode `open` with data."""
        project_id = ProjectId(new_id())
        name = project_name(name)
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._check_no_data_of_key(name, project_id)
            if not await inside._fetch_all("create", project_id=project_id, project=name):
                raise Conflict("A project with this name already exists.")
            await inside._audit.record(actor, "project.create", str(project_id), project_id)
        return project_id

    async def list(self, page: ProjectPage | None = None) -> list[Project]:
        """Return a page of projects: of those that were created, and those that only have data."""
        page = page or ProjectPage()
        rows = await self._fetch_all(
            "list",
            last_id=page.after(None, b"projects").last_id or LARGEST_ID,
            limit=page.limit,
            offset=page.offset,
        )
        return [Project(**row) for row in rows]

    async def get(self, project_id: ProjectId) -> Project:
        """Return one project; NotFound if it was not created and has no data."""
        await self._require_known(project_id)
        return Project(**await self._fetch_one("get", project_id=project_id))

    async def count_calls(self, project_id: ProjectId) -> int:
        """Return how many calls of a project were logged."""
        calls: int = (await self._fetch_one("count_calls", project_id=project_id))["calls"]
        return calls

    async def find(self, name: str) -> ProjectId:
        """Return the project with this name or id, or with data under this key of mode `open`.

        Conflict if one project has the name and another one has data under the key. An unknown id
        is returned as it is: a project of mode `parent` or `proxy` may have no data yet.
        """
        of_key = project_of_key(name)
        if _UUID.fullmatch(name):
            of_id = ProjectId(UUID(name))
            if not await self._is_known(of_id) and await self._is_known(of_key):
                return of_key
            return of_id
        rows = await self._fetch_all("project_by_name", project=name)
        found = {ProjectId(row["project_id"]) for row in rows}
        if await self._is_known(of_key):
            found.add(of_key)
        if len(found) > 1:
            [named] = found - {of_key}
            raise Conflict(
                f"Two projects match: {named} has this name, and {of_key} has the data of this key"
                " of mode open. Give the id of one of them."
            )
        if not found:
            raise NotFound(
                "No project has this name, and nothing was stored under it as a key of mode open."
            )
        return found.pop()

    async def register(self, project_id: ProjectId, *, actor: Actor) -> None:
        """Let keys be issued for a project that only has data; NotFound if it has none."""
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._require_known(project_id)
            if await inside._fetch_all("register", project_id=project_id):
                await inside._audit.record(actor, "project.create", str(project_id), project_id)

    async def rename(self, project_id: ProjectId, name: str, *, actor: Actor) -> None:
        """Give a project a name; Conflict if the name is taken, or is the key of another one."""
        name = project_name(name)
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._require_known(project_id)
            await inside._check_no_data_of_key(name, project_id)
            await inside._fetch_one("rename", project_id=project_id, project=name)
            await inside._audit.record(actor, "project.rename", str(project_id), project_id)

    async def retain(self, project_id: ProjectId, days: int | None, *, actor: Actor) -> None:
        """Set the retention: `maintain` deletes messages and tool executions older than `days`."""
        if days is not None and not 1 <= days <= MAX_RETENTION_DAYS:
            raise InvalidRequest(f"days: must be between 1 and {MAX_RETENTION_DAYS:,}")
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._require_known(project_id)
            await inside._fetch_one("set_retention", project_id=project_id, days=days)
            await inside._audit.record(actor, "project.retain", str(project_id), project_id)

    async def _check_no_data_of_key(self, name: str, project_id: ProjectId) -> None:
        """Raise Conflict if the name, as a key of mode `open`, has data of another project.

        Nobody could say afterwards by this name which of both is meant.
        """
        of_key = project_of_key(name)
        if of_key != project_id and await self._is_known(of_key):
            raise Conflict(
                "Data was stored under this name as a key of mode open: it is the project"
                f" {of_key}. To use that project, issue a key for it or rename it; for a separate"
                " project, choose another name."
            )

    async def _is_known(self, project_id: ProjectId) -> bool:
        """Tell if a project was created or has data."""
        known: bool = (await self._fetch_one("is_known", project_id=project_id))["known"]
        return known

    async def _require_known(self, project_id: ProjectId) -> None:
        if not await self._is_known(project_id):
            raise NotFound("No project has this id, and nothing was stored for it.")

    async def erase(
        self,
        project_id: ProjectId,
        *,
        actor: Actor,
        progress: Callable[[ErasedRows], None] | None = None,
    ) -> dict[str, int]:
        """Delete all data of a project; return the number of deleted rows by kind.

        Its keys are deleted first, so that nobody adds data. Only its events in the audit log stay.
        Rows are deleted in batches that commit on their own, and `progress` is called after each.
        An erasure that was interrupted can be started again.
        """
        erased: Counter[str] = Counter()
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._fetch_all("delete_project", project_id=project_id)
            await inside._audit.record(actor, "project.erase", str(project_id), project_id)
        await self._erase_rows(project_id, erased, progress)
        await asyncio.sleep(ERASE_GRACE_SECONDS)
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            # Making a receipt may take longer than that. The next one finds no calls to certify.
            while not await inside._try_receipt_lock(project_id):  # noqa: ASYNC110, the lock is PostgreSQL's
                await asyncio.sleep(LOCK_POLL_SECONDS)
            await inside._erase_rows(project_id, erased, progress)
        return dict(erased)

    async def _try_receipt_lock(self, project_id: ProjectId) -> bool:
        locked: bool = (await self._fetch_one("try_receipt_lock", project_id=project_id))["locked"]
        return locked

    async def _erase_rows(
        self,
        project_id: ProjectId,
        erased: Counter[str],
        progress: Callable[[ErasedRows], None] | None,
    ) -> None:
        """Delete all rows of a project in batches, and count them in `erased`."""
        for service in self.services:
            inside = service.with_database(self._database)
            for table in service.tables:
                if table.erase is None:
                    continue
                while rows := await inside.delete_batch(
                    table.erase, project_id=project_id, limit=BATCH_SIZE
                ):
                    erased[table.rows] += rows
                    if progress:
                        progress(ErasedRows(table.rows, rows))
