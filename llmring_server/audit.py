"""The audit: who did what that only few may do, kept with the act itself."""

from dataclasses import dataclass
from datetime import datetime

from llmring_server.caller import Action, Actor
from llmring_server.ids import new_id
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant


@dataclass(slots=True)
class Event:
    """Something that was done; the act's values are not in it."""

    at: datetime
    actor: str
    action: str
    tenant: Tenant | None
    target: str
    remote: str | None
    request_id: str | None


class Audit(Repository):
    """The events of a deployment, which are added and never changed."""

    noun = "audit"

    async def record(
        self, actor: Actor, action: Action, target: str, tenant: Tenant | None = None
    ) -> None:
        """Record an action; call this in the transaction of the action."""
        await self._all(
            "record",
            id=new_id(),
            actor=actor.name,
            remote=actor.remote,
            request_id=actor.request_id,
            action=action,
            target=target,
            tenant=tenant,
        )

    async def events(
        self, since: datetime, tenant: Tenant | None = None, limit: int = 1000
    ) -> list[Event]:
        """Return what was done since then, the newest first."""
        rows = await self._all("events", since=since, tenant=tenant, limit=limit)
        return [Event(*row) for row in rows]
