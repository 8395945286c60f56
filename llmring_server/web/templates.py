"""Templates: how conversations of a kind begin."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.bounded import Json
from llmring_server.template import Change, New, Page, Rendered, Template, Used, Version, Versions
from llmring_server.web.call import Call
from llmring_server.web.paging import link

Number = Annotated[int, Field(gt=0, lt=2**31)]


class Top(BaseModel):
    """How many."""

    limit: int = Field(20, ge=1, le=50)


class Filling(BaseModel, strict=True):
    """What to put into a template, and into which version of it."""

    variables: Json = {}
    version: Number | None = None


class Gone(TypedDict):
    """That a template is out of sight."""

    message: str


def _may_share(call: Call) -> bool:
    return "admin" in call.caller.scopes


async def create_template(call: Call, body: New) -> Template:
    """Make a template: how conversations of a kind begin."""
    return await call.ring.templates.create(
        call.tenant, body, actor=call.actor, may_share=_may_share(call)
    )


async def list_templates(call: Call, query: Page) -> Annotated[list[Template], "Link"]:
    """List yours and the shared ones, newest first, a page at a time; fewer where large."""
    found = await call.ring.templates.list(call.tenant, query)
    if found:
        call.says = link(query, query.next(call.tenant, found[-1]))
    return found


async def template_stats(call: Call, query: Top) -> list[Used]:
    """Tell which of your templates are used most."""
    return await call.ring.templates.stats(call.tenant, query.limit)


async def get_template(call: Call, id: UUID) -> Template:
    """Show a template."""
    return await call.ring.templates.get(call.tenant, id)


async def change_template(call: Call, id: UUID, body: Change) -> Template:
    """Change what is given and not null; a new version, if it is of what the template says."""
    return await call.ring.templates.change(
        call.tenant, id, body, actor=call.actor, may_share=_may_share(call)
    )


async def amend_template(call: Call, id: UUID, body: Change) -> Template:
    """Change what is given; null clears what can be nothing."""
    return await call.ring.templates.amend(
        call.tenant, id, body, actor=call.actor, may_share=_may_share(call)
    )


async def delete_template(call: Call, id: UUID) -> Gone:
    """Take a template out of sight; it is kept, and `is_active` brings it back."""
    await call.ring.templates.delete(call.tenant, id, actor=call.actor, may_share=_may_share(call))
    return {"message": "Template deleted successfully"}


async def use_template(call: Call, id: UUID) -> Template:
    """Count a use of a template, and show it."""
    return await call.ring.templates.use(call.tenant, id)


async def render_template(call: Call, id: UUID, body: Filling) -> Rendered:
    """Put variables into a template's prompt."""
    return await call.ring.templates.render(call.tenant, id, body.variables, body.version)


async def list_versions(call: Call, id: UUID, query: Versions) -> Annotated[list[Version], "Link"]:
    """List what a template said, the newest first, a page at a time; fewer where it is large."""
    found = await call.ring.templates.versions(call.tenant, id, query)
    if found:
        call.says = link(query, query.next(call.tenant, found[-1], id))
    return found


async def get_version(call: Call, id: UUID, version: Number) -> Version:
    """Show what a template said in a version."""
    return await call.ring.templates.version(call.tenant, id, version)
