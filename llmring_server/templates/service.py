"""Templates: how conversations of a kind begin, in every version; some shared by all projects."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from llmring_server.core.identity import Actor, Auditing, ProjectId
from llmring_server.core.ids import moment_of, new_id
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.strict_json import dump_json
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import Forbidden, NotFound
from llmring_server.templates.models import (
    CONTENT,
    NewTemplate,
    RenderedTemplate,
    Template,
    TemplatePage,
    TemplateUpdate,
    TemplateUsage,
    TemplateVersion,
    VersionPage,
)
from llmring_server.templates.rendering import render_template

SHARING = "Sharing a template, or changing a shared one, requires the scope admin."


class Templates(Repository):
    """The templates of every project.

    Only a caller that `may_share` can share a template, or change a shared one. `actor` is recorded
    in the audit log when a shared template changes.
    """

    sql = "templates/templates"
    tables = (
        Table("template_versions", "template versions", "erase_template_versions"),
        Table("templates", "templates", "erase_templates", ("UPDATE",)),
    )

    def __init__(self, database: Database, audit: Auditing) -> None:
        super().__init__(database)
        self._audit = audit

    async def create(
        self, project_id: ProjectId, new: NewTemplate, *, actor: Actor, may_share: bool = False
    ) -> Template:
        """Create a template; Forbidden if it is shared and the caller may not share."""
        if new.shared and not may_share:
            raise Forbidden(SHARING)
        id = new_id()
        given = dump_json(new.model_dump(), "tool_config").decode()
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            row = await here._fetch_one(
                "create", project_id=project_id, id=id, created_at=moment_of(id), given=given
            )
            if new.shared:
                await here._audit.record(actor, "template.create", str(id), project_id)
        return Template.of(project_id, row)

    async def change(
        self,
        project_id: ProjectId,
        id: UUID,
        change: TemplateUpdate,
        *,
        actor: Actor,
        may_share: bool = False,
    ) -> Template:
        """Change what is said and not null; a new version, if it is of what the template says."""
        return await self._change(
            project_id, id, change.given(clears=False), actor=actor, may_share=may_share
        )

    async def amend(
        self,
        project_id: ProjectId,
        id: UUID,
        change: TemplateUpdate,
        *,
        actor: Actor,
        may_share: bool = False,
    ) -> Template:
        """Change what is said; null clears what can be nothing."""
        return await self._change(
            project_id, id, change.given(clears=True), actor=actor, may_share=may_share
        )

    async def delete(
        self, project_id: ProjectId, id: UUID, *, actor: Actor, may_share: bool = False
    ) -> None:
        """Take a template out of sight. It is kept: `is_active` brings it back."""
        await self._change(project_id, id, {"is_active": False}, actor=actor, may_share=may_share)

    async def get(self, project_id: ProjectId, id: UUID) -> Template:
        return Template.of(project_id, await self._fetch_one("get", project_id=project_id, id=id))

    async def use(self, project_id: ProjectId, id: UUID) -> Template:
        """Count a use, and return the template."""
        return Template.of(project_id, await self._fetch_one("use", project_id=project_id, id=id))

    async def stats(self, project_id: ProjectId, limit: int = 20) -> list[TemplateUsage]:
        """Return which of one's own are used most."""
        return [
            TemplateUsage(**row)
            for row in await self._fetch_all("stats", project_id=project_id, limit=limit)
        ]

    async def versions(
        self, project_id: ProjectId, id: UUID, page: VersionPage | None = None
    ) -> list[TemplateVersion]:
        """Return versions of a template of one's own, the newest first."""
        page = page or VersionPage()
        wanted = page.place(project_id, id) | {"limit": page.limit, "offset": page.offset}
        most = {"most": MAX_PAGE_BYTES, "version": None}
        rows = await self._fetch_all("versions", project_id=project_id, id=id, **wanted, **most)
        if not rows and not page.offset and not page.cursor:
            raise NotFound
        return [TemplateVersion.of(row) for row in rows]

    async def version(self, project_id: ProjectId, id: UUID, version: int) -> TemplateVersion:
        page = {"limit": 1, "offset": 0, "last_version": None, "most": MAX_PAGE_BYTES}
        return TemplateVersion.of(
            await self._fetch_one("versions", project_id=project_id, id=id, version=version, **page)
        )

    async def render(
        self,
        project_id: ProjectId,
        id: UUID,
        variables: Mapping[str, Any],
        version: int | None = None,
    ) -> RenderedTemplate:
        """Fill a template in; of another's, only what it says now."""
        found = await (
            self.version(project_id, id, version) if version else self.get(project_id, id)
        )
        prompt = found.system_prompt and render_template(found.system_prompt, variables)
        asked = found.model, found.temperature, found.max_tokens, found.tool_config
        return RenderedTemplate(id, found.version, prompt, *asked)

    async def list(self, project_id: ProjectId, page: TemplatePage | None = None) -> list[Template]:
        """Return one's own and the shared, the newest first; fewer where they are large."""
        page = page or TemplatePage()
        wanted = page.model_dump(include={"created_by", "limit", "offset"})
        wanted |= {"last_id": page.after(project_id).last_id, "most": MAX_PAGE_BYTES}
        rows = await self._fetch_all("list", project_id=project_id, **wanted)
        return [Template.of(project_id, row) for row in rows]

    async def _change(
        self,
        project_id: ProjectId,
        id: UUID,
        given: Mapping[str, Any],
        *,
        actor: Actor,
        may_share: bool,
    ) -> Template:
        if given.get("shared") and not may_share:
            raise Forbidden(SHARING)
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            rows = await here._fetch_all(
                "change",
                project_id=project_id,
                id=id,
                given=dump_json(given, "tool_config").decode(),
                edits=int(bool(CONTENT & given.keys())),
                revives=bool(given.get("is_active")),
                may_share=may_share,
            )
            if not rows:
                # The project itself learns that it may not change its shared template; to others,
                # what they may not change is not there.
                if not may_share and (await here.get(project_id, id)).project_id == project_id:
                    raise Forbidden(SHARING)
                raise NotFound
            [row] = rows
            if may_share and (row["shared"] or "shared" in given):
                await here._audit.record(actor, "template.change", str(id), project_id)
        return Template.of(project_id, row)
