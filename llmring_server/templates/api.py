"""Templates: how conversations of a kind begin."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.core.strict_json import JsonObject
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
from llmring_server.web.request import Request, link

Number = Annotated[int, Field(gt=0, lt=2**31)]


class LimitQuery(BaseModel):
    """How many."""

    limit: int = Field(20, ge=1, le=50)


class RenderRequest(BaseModel, strict=True):
    """What to put into a template, and into which version of it."""

    variables: JsonObject = {}
    version: Number | None = None


class DeletedTemplate(TypedDict):
    """That a template is out of sight."""

    message: str


def _may_share(request: Request) -> bool:
    return "admin" in request.caller.scopes


async def create_template(request: Request, body: NewTemplate) -> Template:
    """Make a template: how conversations of a kind begin."""
    return await request.ring.templates.create(
        request.project_id, body, actor=request.actor, may_share=_may_share(request)
    )


async def list_templates(
    request: Request, query: TemplatePage
) -> Annotated[list[Template], "Link"]:
    """List yours and the shared ones, newest first, a page at a time; fewer where large."""
    found = await request.ring.templates.list(request.project_id, query)
    if found:
        request.response_headers = link(query, query.next(request.project_id, found[-1]))
    return found


async def template_stats(request: Request, query: LimitQuery) -> list[TemplateUsage]:
    """Tell which of your templates are used most."""
    return await request.ring.templates.stats(request.project_id, query.limit)


async def get_template(request: Request, id: UUID) -> Template:
    """Show a template."""
    return await request.ring.templates.get(request.project_id, id)


async def replace_template(request: Request, id: UUID, body: TemplateUpdate) -> Template:
    """Change what is given and not null; a new version, if it is of what the template says."""
    return await request.ring.templates.change(
        request.project_id, id, body, actor=request.actor, may_share=_may_share(request)
    )


async def update_template(request: Request, id: UUID, body: TemplateUpdate) -> Template:
    """Change what is given; null clears what can be nothing."""
    return await request.ring.templates.amend(
        request.project_id, id, body, actor=request.actor, may_share=_may_share(request)
    )


async def delete_template(request: Request, id: UUID) -> DeletedTemplate:
    """Take a template out of sight; it is kept, and `is_active` brings it back."""
    await request.ring.templates.delete(
        request.project_id, id, actor=request.actor, may_share=_may_share(request)
    )
    return {"message": "Template deleted successfully"}


async def use_template(request: Request, id: UUID) -> Template:
    """Count a use of a template, and show it."""
    return await request.ring.templates.use(request.project_id, id)


async def render_template(request: Request, id: UUID, body: RenderRequest) -> RenderedTemplate:
    """Put variables into a template's prompt."""
    return await request.ring.templates.render(request.project_id, id, body.variables, body.version)


async def list_versions(
    request: Request, id: UUID, query: VersionPage
) -> Annotated[list[TemplateVersion], "Link"]:
    """List what a template said, the newest first, a page at a time; fewer where it is large."""
    found = await request.ring.templates.versions(request.project_id, id, query)
    if found:
        request.response_headers = link(query, query.next(request.project_id, found[-1], id))
    return found


async def get_version(request: Request, id: UUID, version: Number) -> TemplateVersion:
    """Show what a template said in a version."""
    return await request.ring.templates.version(request.project_id, id, version)
