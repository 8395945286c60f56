"""Templates: how conversations of a kind begin, in every version; some shared by all tenants."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from llmring_server.bounded import dumped
from llmring_server.caller import LIBRARY, Act, Auditing
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

SHARING = "Sharing a template, or changing one that is shared, needs the scope admin."


class Templates(Repository):
    """The templates of every tenant.

    `by` is who does it, for the audit, if they may share; None: what is shared is not theirs to
    change.
    """

    noun = "templates"

    def __init__(self, database: Database, audit: Auditing) -> None:
        super().__init__(database)
        self._audit = audit

    async def create(self, tenant: Tenant, new: New, by: Act | None = LIBRARY) -> Template:
        """Make a template, whose id tells when."""
        id = new_id()
        noted = by if new.shared else None
        return await self._write(
            "create", tenant, new.model_dump(), noted, id=id, created_at=moment_of(id)
        )

    async def change(
        self, tenant: Tenant, id: UUID, change: Change, by: Act | None = LIBRARY
    ) -> Template:
        """Change what is said and not null; a new version, if it is of what the template says."""
        return await self._change(tenant, id, change.given(clears=False), by)

    async def amend(
        self, tenant: Tenant, id: UUID, change: Change, by: Act | None = LIBRARY
    ) -> Template:
        """Change what is said; null clears what can be nothing."""
        return await self._change(tenant, id, change.given(clears=True), by)

    async def delete(self, tenant: Tenant, id: UUID, by: Act | None = LIBRARY) -> None:
        """Take a template out of sight. It is kept: `is_active` brings it back."""
        await self._change(tenant, id, {"is_active": False}, by)

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
        self, tenant: Tenant, id: UUID, given: Mapping[str, Any], by: Act | None
    ) -> Template:
        params = {
            "id": id,
            "edits": int(bool(CONTENT & given.keys())),
            "revives": bool(given.get("is_active")),
            "admin": by is not None,
        }
        try:
            return await self._write("change", tenant, given, by, **params)
        except NotFound:
            # Refused, or not there? To others it is not there.
            if not by and (await self.get(tenant, id)).project_id == tenant:
                raise Forbidden(SHARING) from None
            raise

    async def _write(
        self,
        statement: str,
        tenant: Tenant,
        given: Mapping[str, Any],
        by: Act | None,
        **params: Any,
    ) -> Template:
        if given.get("shared") and not by:
            raise Forbidden(SHARING)
        async with self._database.transaction() as inside:
            row = await self.on(inside)._one(
                statement, tenant=tenant, given=dumped(given, "tool_config").decode(), **params
            )
            if by and (row["shared"] or "shared" in given):
                act = f"template.{statement}", str(row["id"]), tenant
                await self._audit.on(inside).record(by, *act)
        return Template.of(tenant, row)
