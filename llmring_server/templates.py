"""Templates: how conversations of a kind begin, in every version; some shared by all tenants."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from llmring_server.bounded import dumped
from llmring_server.caller import Actor, Auditing
from llmring_server.database import Database
from llmring_server.errors import Forbidden, NotFound
from llmring_server.filling import fill
from llmring_server.ids import moment_of, new_id
from llmring_server.pages import PAGE_BYTES
from llmring_server.repository import Repository
from llmring_server.template import (
    CONTENT,
    Change,
    New,
    Page,
    Rendered,
    Template,
    Used,
    Version,
    Versions,
)
from llmring_server.tenant import Tenant

SHARING = "Sharing a template, or changing a shared one, requires the scope admin."


class Templates(Repository):
    """The templates of every tenant.

    Only a caller that `may_share` can share a template, or change a shared one. `actor` is recorded
    in the audit log when a shared template changes.
    """

    noun = "templates"

    def __init__(self, database: Database, audit: Auditing) -> None:
        super().__init__(database)
        self._audit = audit

    async def create(
        self, tenant: Tenant, new: New, *, actor: Actor, may_share: bool = False
    ) -> Template:
        """Create a template; Forbidden if it is shared and the caller may not share."""
        if new.shared and not may_share:
            raise Forbidden(SHARING)
        id = new_id()
        given = dumped(new.model_dump(), "tool_config").decode()
        async with self._database.transaction() as inside:
            here = self.on(inside)
            row = await here._one(
                "create", tenant=tenant, id=id, created_at=moment_of(id), given=given
            )
            if new.shared:
                await here._audit.record(actor, "template.create", str(id), tenant)
        return Template.of(tenant, row)

    async def change(
        self, tenant: Tenant, id: UUID, change: Change, *, actor: Actor, may_share: bool = False
    ) -> Template:
        """Change what is said and not null; a new version, if it is of what the template says."""
        return await self._change(
            tenant, id, change.given(clears=False), actor=actor, may_share=may_share
        )

    async def amend(
        self, tenant: Tenant, id: UUID, change: Change, *, actor: Actor, may_share: bool = False
    ) -> Template:
        """Change what is said; null clears what can be nothing."""
        return await self._change(
            tenant, id, change.given(clears=True), actor=actor, may_share=may_share
        )

    async def delete(
        self, tenant: Tenant, id: UUID, *, actor: Actor, may_share: bool = False
    ) -> None:
        """Take a template out of sight. It is kept: `is_active` brings it back."""
        await self._change(tenant, id, {"is_active": False}, actor=actor, may_share=may_share)

    async def get(self, tenant: Tenant, id: UUID) -> Template:
        return Template.of(tenant, await self._one("get", tenant=tenant, id=id))

    async def use(self, tenant: Tenant, id: UUID) -> Template:
        """Count a use, and return the template."""
        return Template.of(tenant, await self._one("use", tenant=tenant, id=id))

    async def stats(self, tenant: Tenant, limit: int = 20) -> list[Used]:
        """Return which of one's own are used most."""
        return [Used(**row) for row in await self._all("stats", tenant=tenant, limit=limit)]

    async def versions(
        self, tenant: Tenant, id: UUID, page: Versions | None = None
    ) -> list[Version]:
        """Return versions of a template of one's own, the newest first."""
        page = page or Versions()
        wanted = page.place(tenant, id) | {"limit": page.limit, "offset": page.offset}
        most = {"most": PAGE_BYTES, "version": None}
        rows = await self._all("versions", tenant=tenant, id=id, **wanted, **most)
        if not rows and not page.offset and not page.cursor:
            raise NotFound
        return [Version.of(row) for row in rows]

    async def version(self, tenant: Tenant, id: UUID, version: int) -> Version:
        page = {"limit": 1, "offset": 0, "last_version": None, "most": PAGE_BYTES}
        return Version.of(
            await self._one("versions", tenant=tenant, id=id, version=version, **page)
        )

    async def render(
        self, tenant: Tenant, id: UUID, variables: Mapping[str, Any], version: int | None = None
    ) -> Rendered:
        """Fill a template in; of another's, only what it says now."""
        found = await (self.version(tenant, id, version) if version else self.get(tenant, id))
        prompt = found.system_prompt and fill(found.system_prompt, variables)
        asked = found.model, found.temperature, found.max_tokens, found.tool_config
        return Rendered(id, found.version, prompt, *asked)

    async def list(self, tenant: Tenant, page: Page | None = None) -> list[Template]:
        """Return one's own and the shared, the newest first; fewer where they are large."""
        page = page or Page()
        wanted = page.model_dump(include={"created_by", "limit", "offset"})
        wanted |= {"last_id": page.after(tenant).last_id, "most": PAGE_BYTES}
        rows = await self._all("list", tenant=tenant, **wanted)
        return [Template.of(tenant, row) for row in rows]

    async def _change(
        self, tenant: Tenant, id: UUID, given: Mapping[str, Any], *, actor: Actor, may_share: bool
    ) -> Template:
        if given.get("shared") and not may_share:
            raise Forbidden(SHARING)
        async with self._database.transaction() as inside:
            here = self.on(inside)
            rows = await here._all(
                "change",
                tenant=tenant,
                id=id,
                given=dumped(given, "tool_config").decode(),
                edits=int(bool(CONTENT & given.keys())),
                revives=bool(given.get("is_active")),
                may_share=may_share,
            )
            if not rows:
                # The project itself learns that it may not change its shared template; to others,
                # what they may not change is not there.
                if not may_share and (await here.get(tenant, id)).project_id == tenant:
                    raise Forbidden(SHARING)
                raise NotFound
            [row] = rows
            if may_share and (row["shared"] or "shared" in given):
                await here._audit.record(actor, "template.change", str(id), tenant)
        return Template.of(tenant, row)
