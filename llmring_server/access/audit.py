"""The audit: who did what that only few may do, kept with the act itself."""

from dataclasses import dataclass
from datetime import datetime

from llmring_server.core.identity import Action, Actor, ProjectId
from llmring_server.core.ids import new_id
from llmring_server.db.repository import Repository


@dataclass(slots=True)
class AuditEvent:
    """Something that was done; the act's values are not in it."""

    at: datetime
    actor: str
    action: str
    project_id: ProjectId | None
    target: str
    remote: str | None
    request_id: str | None


class AuditLog(Repository):
    """The events of a deployment, which are added and never changed."""

    sql = "access/audit"

    async def record(
        self, actor: Actor, action: Action, target: str, project_id: ProjectId | None = None
    ) -> None:
        """Record an action; call this in the transaction of the action."""
        await self._fetch_all(
            "record",
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
        """Return what was done since then, the newest first."""
        rows = await self._fetch_all("events", since=since, project_id=project_id, limit=limit)
        return [AuditEvent(*row) for row in rows]
