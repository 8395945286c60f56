"""Templates service: creates, changes, shares, counts and renders templates, in every version."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.core.ids import new_id_and_time
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.strict_json import dump_json
from llmring_server.db.database import Database
from llmring_server.db.quotas import Quota
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import Forbidden, NotFound, QuotaExceeded
from llmring_server.settings import Settings
from llmring_server.templates.models import (
    VERSIONED_FIELDS,
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

SHARING_FORBIDDEN = (
    "Sharing a template, or changing a shared one, requires the scope templates:share."
)


class Templates(Repository):
    """The templates of every project.

    Only a caller with `may_share` can share a template or change a shared one. The audit log
    records changes of shared templates with their `actor`.
    """

    row_kind = "Template"
    sql = "templates/templates"
    replica_reads = frozenset({"list", "version", "versions", "stats"})
    tables = (
        Table("template_versions", "template versions", "erase_template_versions"),
        Table("templates", "templates", "erase_templates", ("UPDATE", "DELETE")),
    )

    def __init__(self, database: Database, audit: AuditLog, settings: Settings) -> None:
        super().__init__(database)
        self._audit = audit
        self._quota = Quota(
            database,
            settings.max_templates,
            setting="LLMRING_MAX_TEMPLATES",
            kind="templates",
            remedy="delete some",
        )
        self._max_versions = settings.max_template_versions

    def configure(self, settings: Settings) -> None:
        self._quota.limit = settings.max_templates
        self._max_versions = settings.max_template_versions

    async def create(
        self, project_id: ProjectId, new: NewTemplate, *, actor: Actor, may_share: bool = False
    ) -> Template:
        """Create a template; raise Forbidden if it is shared and the caller may not share.

        If the quota is reached, deleted templates make room.
        """
        if new.shared and not may_share:
            raise Forbidden(SHARING_FORBIDDEN)
        id, created_at = new_id_and_time()
        quota = {"project_id": project_id, "quota": self._quota.limit}
        template = {
            "id": id,
            "created_at": created_at,
            "template": dump_json(new.model_dump(), "tool_config").decode(),
        }
        slot = self._quota.slot(project_id)
        async with slot, self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            row = await inside._quota.add(
                project_id,
                lambda: inside._fetch_all("create", **quota, **template),
                lambda: inside._fetch_all("delete_inactive", **quota),
            )
            if new.shared:
                await inside._audit.record(actor, "template.create", str(id), project_id)
        return Template.from_row(project_id, row, self._read_json)

    async def get(self, project_id: ProjectId, id: UUID) -> Template:
        """Return a template that is the project's own or shared."""
        row = await self._fetch_one("get", project_id=project_id, id=id)
        return Template.from_row(project_id, row, self._read_json)

    async def update(
        self,
        project_id: ProjectId,
        id: UUID,
        update: TemplateUpdate,
        *,
        actor: Actor,
        may_share: bool = False,
    ) -> Template:
        """Change the fields that are set and not null.

        A change of the content creates a version; one of `is_active` or `shared` alone does not.
        """
        return await self._update(
            project_id, id, update.changes(clears=False), actor=actor, may_share=may_share
        )

    async def patch(
        self,
        project_id: ProjectId,
        id: UUID,
        update: TemplateUpdate,
        *,
        actor: Actor,
        may_share: bool = False,
    ) -> Template:
        """Change the fields that are set; null clears a field that can be null."""
        return await self._update(
            project_id, id, update.changes(clears=True), actor=actor, may_share=may_share
        )

    async def delete(
        self, project_id: ProjectId, id: UUID, *, actor: Actor, may_share: bool = False
    ) -> None:
        """Deactivate a template. It stays stored until its room is needed.

        Until then, `is_active=True` restores it.
        """
        await self._update(project_id, id, {"is_active": False}, actor=actor, may_share=may_share)

    async def use(self, project_id: ProjectId, id: UUID) -> Template:
        """Count one use of a template and return it."""
        row = await self._fetch_one("use", project_id=project_id, id=id)
        return Template.from_row(project_id, row, self._read_json)

    async def render(
        self,
        project_id: ProjectId,
        id: UUID,
        variables: Mapping[str, Any],
        version: int | None = None,
    ) -> RenderedTemplate:
        """Render a template; of another project's shared template, only the current version."""
        template: Template | TemplateVersion
        if version is None:
            template = await self.get(project_id, id)
        else:
            template = await self.version(project_id, id, version)
        system_prompt = template.system_prompt
        if system_prompt is not None:
            system_prompt = render_template(system_prompt, variables)
        return RenderedTemplate(
            template_id=id,
            version=template.version,
            system_prompt=system_prompt,
            model=template.model,
            temperature=template.temperature,
            max_tokens=template.max_tokens,
            tool_config=template.tool_config,
        )

    async def version(self, project_id: ProjectId, id: UUID, version: int) -> TemplateVersion:
        """Return one version of a template of the project's own."""
        row = await self._fetch_one(
            "version", "Template version", project_id=project_id, id=id, version=version
        )
        return TemplateVersion.from_row(row, self._read_json)

    async def versions(
        self, project_id: ProjectId, id: UUID, page: VersionPage | None = None
    ) -> list[TemplateVersion]:
        """Return a page of the versions of a template of the project's own, newest first.

        It is shorter than its limit if the versions are large.
        """
        page = page or VersionPage()
        async with self._database.long_statement(project_id):
            rows = await self._fetch_all(
                "versions",
                project_id=project_id,
                id=id,
                last_version=page.last_version(project_id, id),
                limit=page.limit,
                offset=page.offset,
                max_bytes=MAX_PAGE_BYTES,
            )
        # Every template has a version, so an empty first page means that the template is missing.
        if not rows and not page.offset and not page.cursor:
            if self._database.replica is not None:
                return await self._on_primary().versions(project_id, id, page)
            raise NotFound.of(self.row_kind)
        return [TemplateVersion.from_row(row, self._read_json) for row in rows]

    async def stats(self, project_id: ProjectId, limit: int = 20) -> list[TemplateUsage]:
        """Return the usage of the project's own templates, most used first."""
        rows = await self._fetch_all("stats", project_id=project_id, limit=limit)
        return [TemplateUsage(**row) for row in rows]

    async def list(self, project_id: ProjectId, page: TemplatePage | None = None) -> list[Template]:
        """Return a page of the project's own templates, then of those that others share.

        Both are in the order of their creation, newest first. A page is shorter than its limit if
        the templates are large.
        """
        page = page or TemplatePage()
        # To measure a hundred large prompts may take a second.
        async with self._database.long_statement(project_id):
            rows = await self._fetch_all(
                "list",
                project_id=project_id,
                created_by=page.created_by,
                **page.position(project_id),
                limit=page.limit,
                offset=page.offset,
                max_bytes=MAX_PAGE_BYTES,
            )
        return [Template.from_row(project_id, row, self._read_json) for row in rows]

    async def _update(
        self,
        project_id: ProjectId,
        id: UUID,
        changes: Mapping[str, Any],
        *,
        actor: Actor,
        may_share: bool,
    ) -> Template:
        if changes.get("shared") and not may_share:
            raise Forbidden(SHARING_FORBIDDEN)
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            creates_version = not VERSIONED_FIELDS.isdisjoint(changes)
            rows = await inside._fetch_all(
                "update",
                project_id=project_id,
                id=id,
                changes=dump_json(changes, "tool_config").decode(),
                creates_version=creates_version,
                activates=changes.get("is_active") is True,
                may_share=may_share,
                max_versions=self._max_versions,
            )
            if not rows:
                raise await inside._update_error(
                    project_id, id, may_share=may_share, creates_version=creates_version
                )
            [row] = rows
            if may_share and (row["shared"] or "shared" in changes):
                await inside._audit.record(actor, "template.change", str(id), project_id)
        return Template.from_row(project_id, row, self._read_json)

    async def _update_error(
        self, project_id: ProjectId, id: UUID, *, may_share: bool, creates_version: bool
    ) -> Forbidden | QuotaExceeded | NotFound:
        """Return why a template cannot be changed.

        Its own project learns that changing a shared template requires a scope; to other projects,
        a template that they cannot change does not exist.
        """
        template = await self._on_primary().get(project_id, id)
        if template.project_id != project_id:
            return NotFound.of(self.row_kind)
        if template.shared and not may_share:
            return Forbidden(SHARING_FORBIDDEN)
        if creates_version and 0 < self._max_versions <= template.version:
            return QuotaExceeded(
                f"A template may have at most {self._max_versions:,} versions: create another"
                " template, or let the operator raise LLMRING_MAX_TEMPLATE_VERSIONS."
            )
        return NotFound.of(self.row_kind)
