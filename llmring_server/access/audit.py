"""Audit log: who performed which privileged action, recorded in the transaction of the action."""

from dataclasses import dataclass
from datetime import datetime

from llmring_server.core.identity import Action, Actor, ProjectId
from llmring_server.core.ids import new_id
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table


@dataclass(slots=True)
class AuditEvent:
    """A privileged action. The values that it set are not recorded."""

    at: datetime
    actor: str
    action: str
    project_id: ProjectId | None
    target: str
    remote: str | None
    request_id: str | None


class AuditLog(Repository):
    """The audit events of a deployment. They are added and never changed."""

    sql = "access/audit"
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
        self, since: datetime, project_id: ProjectId | None = None, limit: int = 1000
    ) -> list[AuditEvent]:
        """Return the events since then, newest first: of one project, or of the deployment."""
        rows = await self._fetch_all("events", since=since, project_id=project_id, limit=limit)
        return [AuditEvent(*row) for row in rows]
