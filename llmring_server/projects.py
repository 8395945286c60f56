"""Projects: what owns data, and how all of it goes."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from llmring_server.caller import Actor, Auditing
from llmring_server.database import Database
from llmring_server.errors import Conflict, Invalid, NotFound
from llmring_server.ids import new_id
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant, named

LONGEST_RETENTION = 36_500
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
AT_ONCE = 5000

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

# A key is believed for five seconds after it is gone, and a call that it let in may be tried again
# for five more.
LATECOMERS, PAUSE = 11.0, 0.2


@dataclass(slots=True)
class Project:
    """A project, how many of its keys are good, and for how long it keeps messages."""

    tenant: Tenant
    name: str
    created_at: datetime
    retain_days: int | None
    keys: int


class Erased(NamedTuple):
    """How many rows of a kind are gone."""

    what: str
    rows: int


class Projects(Repository):
    """The projects of a deployment."""

    noun = "projects"

    def __init__(self, database: Database, audit: Auditing) -> None:
        super().__init__(database)
        self._audit = audit

    async def create(self, name: str, *, actor: Actor) -> Tenant:
        """Make a project; Conflict if there is one of that name."""
        async with self._database.transaction() as inside:
            tenant = Tenant(new_id())
            here = self.on(inside)
            if not await here._all("create", tenant=tenant, project=named(name)):
                raise Conflict("A project with this name already exists.")
            await here._audit.record(actor, "project.create", str(tenant), tenant)
        return tenant

    async def list(self) -> list[Project]:
        return [Project(**row) for row in await self._all("list")]

    async def find(self, name: str) -> Tenant:
        """Return the tenant that is named, by its project's name or by itself (mode `open`)."""
        if _UUID.fullmatch(name):
            return Tenant(UUID(name))
        rows = await self._all("find", project=name)
        if not rows:
            raise NotFound("No project has this name.")
        return Tenant(rows[0]["tenant"])

    async def rename(self, tenant: Tenant, name: str, *, actor: Actor) -> None:
        async with self._database.transaction() as inside:
            here = self.on(inside)
            await here._one("rename", tenant=tenant, project=named(name))
            await here._audit.record(actor, "project.rename", str(tenant), tenant)

    async def retain(self, tenant: Tenant, days: int | None, *, actor: Actor) -> None:
        """Keep messages for so many days, or for ever; `maintain` deletes what is older."""
        if days is not None and not 1 <= days <= LONGEST_RETENTION:
            raise Invalid(f"days: give 1 to {LONGEST_RETENTION:,}")
        async with self._database.transaction() as inside:
            here = self.on(inside)
            await here._one("retain", tenant=tenant, days=days)
            await here._audit.record(actor, "project.retain", str(tenant), tenant)

    async def erase(
        self,
        tenant: Tenant,
        *,
        actor: Actor,
        progress: Callable[[Erased], None] | None = None,
    ) -> dict[str, int]:
        """Delete everything of a project; return how many rows of each kind are gone.

        Its keys go first, so that nobody adds to it; only the audit log keeps its id. Rows are
        deleted in batches, each committed by itself, and `progress` is called after each batch. An
        erasure that was interrupted can be started again.
        """
        async with self._database.transaction() as inside:
            here = self.on(inside)
            await here._all("shut", tenant=tenant)
            await here._audit.record(actor, "project.erase", str(tenant), tenant)
        gone: Counter[str] = Counter()
        await self._sweep(tenant, gone, progress)
        await asyncio.sleep(LATECOMERS)
        async with self._database.transaction() as inside:
            here = self.on(inside)
            # Receipts are made for longer than that; the next one finds nothing to certify.
            while not (await here._one("alone", tenant=tenant))["alone"]:  # noqa: ASYNC110, not ours
                await asyncio.sleep(PAUSE)
            await here._sweep(tenant, gone, progress)
        return dict(gone)

    async def _sweep(
        self,
        tenant: Tenant,
        gone: Counter[str],
        progress: Callable[[Erased], None] | None,
    ) -> None:
        """Delete all rows of a tenant, batch by batch, and count them in `gone`."""
        for statement, what in ERASE.items():
            while rows := (await self._one(statement, tenant=tenant, limit=AT_ONCE))["gone"]:
                gone[what] += rows
                if progress:
                    progress(Erased(what, rows))
