"""Templates API: handlers of `/api/v1/templates`."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.core.numbers import WHOLE
from llmring_server.core.pagination import Limit
from llmring_server.core.strict_json import JsonObject
from llmring_server.errors import QuotaExceeded
from llmring_server.templates.models import (
    NewTemplate,
    RenderedTemplate,
    Template,
    TemplatePage,
    TemplateUpdate,
    TemplateUsage,
    TemplateVersion,
    VersionPage,
)
from llmring_server.templates.service import Templates
from llmring_server.web.request import IdOf, Request, link

TemplateId = Annotated[UUID, IdOf("Template")]
VersionNumber = Annotated[int, Field(gt=0, lt=2**31), IdOf("Template version")]


class LimitQuery(BaseModel):
    """At most `limit` templates are returned."""

    limit: Limit = Field(20, ge=1, le=50)


class RenderRequest(BaseModel, strict=True):
    """The variables to fill in, and the version to render: by default, the current one."""

    variables: JsonObject = {}
    version: Annotated[VersionNumber, WHOLE] | None = None


class DeletedTemplate(TypedDict):
    """Confirmation that a template was deactivated."""

    message: str


def _templates(request: Request) -> Templates:
    return request.ring.templates.with_unparsed_json()


def _may_share(request: Request) -> bool:
    return "templates:share" in request.caller.scopes


async def create_template(
    request: Request, body: NewTemplate
) -> Annotated[Template, QuotaExceeded]:
    """Create a template."""
    return await _templates(request).create(
        request.project_id, body, actor=request.actor, may_share=_may_share(request)
    )


async def list_templates(
    request: Request, query: TemplatePage
) -> Annotated[list[Template], "Link"]:
    """List the project's own templates, then those that other projects share; newest first."""
    templates = await _templates(request).list(request.project_id, query)
    if templates:
        request.response_headers = link(query, query.next(request.project_id, templates[-1]))
    return templates


async def get_template_stats(request: Request, query: LimitQuery) -> list[TemplateUsage]:
    """List the project's own templates by number of uses, most used first."""
    return await _templates(request).stats(request.project_id, query.limit)


async def get_template(request: Request, id: TemplateId) -> Template:
    """Get a template."""
    return await _templates(request).get(request.project_id, id)


async def update_template(
    request: Request, id: TemplateId, body: TemplateUpdate
) -> Annotated[Template, QuotaExceeded]:
    """Change the fields that are set and not null; a change of the content creates a version."""
    return await _templates(request).update(
        request.project_id, id, body, actor=request.actor, may_share=_may_share(request)
    )


async def patch_template(
    request: Request, id: TemplateId, body: TemplateUpdate
) -> Annotated[Template, QuotaExceeded]:
    """Change the fields that are set; null clears `description`, `system_prompt`, `max_tokens`."""
    return await _templates(request).patch(
        request.project_id, id, body, actor=request.actor, may_share=_may_share(request)
    )


async def delete_template(request: Request, id: TemplateId) -> DeletedTemplate:
    """Deactivate a template.

    `is_active: true` restores it until it is deleted to stay within the quota.
    """
    await _templates(request).delete(
        request.project_id, id, actor=request.actor, may_share=_may_share(request)
    )
    return {"message": "Template deleted successfully"}


async def use_template(request: Request, id: TemplateId) -> Template:
    """Count one use of a template and return it."""
    return await _templates(request).use(request.project_id, id)


async def render_template(
    request: Request, id: TemplateId, body: RenderRequest
) -> RenderedTemplate:
    """Render a template's system prompt with variables."""
    return await _templates(request).render(request.project_id, id, body.variables, body.version)


async def list_template_versions(
    request: Request, id: TemplateId, query: VersionPage
) -> Annotated[list[TemplateVersion], "Link"]:
    """List the versions of a template, newest first."""
    versions = await _templates(request).versions(request.project_id, id, query)
    if versions:
        request.response_headers = link(query, query.next(request.project_id, versions[-1], id))
    return versions


async def get_template_version(
    request: Request, id: TemplateId, version: VersionNumber
) -> TemplateVersion:
    """Get one version of a template."""
    return await _templates(request).version(request.project_id, id, version)
