"""Audit log: who performed which privileged action, recorded in the transaction of the action."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import Field

from llmring_server.core.identity import Action, Actor, ProjectId
from llmring_server.core.ids import new_id
from llmring_server.core.pagination import Limit, PageParams, Position
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table


@dataclass(slots=True)
class AuditEvent:
    """A privileged action. The values that it set are not recorded."""

    id: UUID
    at: datetime
    actor: str
    action: str
    project_id: ProjectId | None
    target: str
    remote: str | None
    request_id: str | None


class AuditPage(PageParams):
    """A page of events, newest first."""

    limit: Limit = Field(1000, ge=1, le=1000)

    def next(self, project_id: ProjectId | None, last: AuditEvent) -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(project_id, Position(last.at, last.id), b"audit")


class AuditLog(Repository):
    """The audit events of a deployment. They are added and never changed."""

    sql = "access/audit"
    replica_reads = frozenset({"events"})
    # The events of a project stay when it is erased.
    tables = (Table("audit_events"),)

    async def record(
        self, actor: Actor, action: Action, target: str, project_id: ProjectId | None = None
    ) -> None:
        """Record an action; call this in the transaction of the action."""
        await self._fetch_all(
            "insert_event",
            id=new_id(),
            actor=actor.name,
            remote=actor.remote,
            request_id=actor.request_id,
            action=action,
            target=target,
            project_id=project_id,
        )

    async def events(
        self,
        since: datetime,
        project_id: ProjectId | None = None,
        page: AuditPage | None = None,
    ) -> list[AuditEvent]:
        """Return a page of the events since then: of one project, or of the deployment."""
        page = page or AuditPage()
        last_at, last_id = page.after(project_id, b"audit")
        rows = await self._fetch_all(
            "events",
            since=since,
            project_id=project_id,
            last_at=last_at,
            last_id=last_id,
            limit=page.limit,
            offset=page.offset,
        )
        return [AuditEvent(*row) for row in rows]
