"""Projects: what owns data, and how all of it goes."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from llmring_server.caller import LIBRARY, Act, Auditing
from llmring_server.database import Database
from llmring_server.errors import Conflict, Invalid, NotFound
from llmring_server.ids import new_id
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant, named

LONGEST_RETENTION = 36_500
ERASE = (
    "erase_logs", "erase_adjustments", "erase_keys_of_calls", "erase_recent", "erase_rollups",
    "erase_messages", "erase_conversations",
    "erase_executions", "erase_capabilities", "erase_servers",
    "erase_template_versions", "erase_templates", "erase_aliases",
    "erase_receipt_calls", "erase_receipt_days", "erase_receipts",
)  # fmt: skip
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

    async def create(self, name: str, by: Act = LIBRARY) -> Tenant:
        """Make a project; Conflict if there is one of that name."""
        async with self._database.transaction() as inside:
            tenant = Tenant(new_id())
            if not await self.on(inside)._all("create", tenant=tenant, project=named(name)):
                raise Conflict("There is a project of that name already.")
            await self._audit.on(inside).record(by, "project.create", str(tenant), tenant)
        return tenant

    async def list(self) -> list[Project]:
        return [Project(**row) for row in await self._all("list")]

    async def find(self, name: str) -> Tenant:
        """Return the tenant that is named, by its project's name or by itself (mode `open`)."""
        if _UUID.fullmatch(name):
            return Tenant(UUID(name))
        for project in await self.list():
            if name == project.name:
                return project.tenant
        raise NotFound("There is no project of that name.")

    async def rename(self, tenant: Tenant, name: str, by: Act = LIBRARY) -> None:
        async with self._database.transaction() as inside:
            await self.on(inside)._one("rename", tenant=tenant, project=named(name))
            await self._audit.on(inside).record(by, "project.rename", str(tenant), tenant)

    async def retain(self, tenant: Tenant, days: int | None, by: Act = LIBRARY) -> None:
        """Keep messages for so many days, or for ever; `maintain` deletes what is older."""
        if days is not None and not 1 <= days <= LONGEST_RETENTION:
            raise Invalid(f"days: give 1 to {LONGEST_RETENTION:,}")
        async with self._database.transaction() as inside:
            await self.on(inside)._one("retain", tenant=tenant, days=days)
            await self._audit.on(inside).record(by, "project.retain", str(tenant), tenant)

    async def erase(self, tenant: Tenant, by: Act = LIBRARY) -> AsyncIterator[Erased]:
        """Delete everything of a tenant, and yield what is gone.

        Its keys go first, so that no one adds to it. Only the audit keeps its id. Stopped
        half-way, it can be begun again.
        """
        async with self._database.transaction() as inside:
            await self.on(inside)._all("shut", tenant=tenant)
            await self._audit.on(inside).record(by, "project.erase", str(tenant), tenant)
        async for erased in self._swept(tenant):
            yield erased
        await asyncio.sleep(LATECOMERS)
        async with self._database.transaction() as inside:
            last = self.on(inside)
            # Receipts are made for longer than that; the next one finds nothing to certify.
            while not (await last._one("alone", tenant=tenant))["alone"]:  # noqa: ASYNC110, not ours
                await asyncio.sleep(PAUSE)
            async for erased in last._swept(tenant):
                yield erased

    async def _swept(self, tenant: Tenant) -> AsyncIterator[Erased]:
        for name in ERASE:
            async for erased in self._erase(name, tenant):
                yield erased

    async def _erase(self, name: str, tenant: Tenant) -> AsyncIterator[Erased]:
        while rows := (await self._one(name, tenant=tenant, limit=AT_ONCE))["gone"]:
            yield Erased(name.removeprefix("erase_").replace("_", " "), rows)
