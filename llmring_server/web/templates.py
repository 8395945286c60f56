"""Templates: how conversations of a kind begin."""

import re
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, Field
from starlette.responses import Response

from llmring_server.bounded import Json
from llmring_server.caller import Act
from llmring_server.errors import NotFound
from llmring_server.template import Change, New, Page, Rendered, Template, Used, Version, Versions
from llmring_server.web.call import Call, render

Number = Annotated[int, Field(gt=0, lt=2**31)]


class Top(BaseModel):
    """How many."""

    limit: int = Field(20, ge=1, le=50)


class Filling(BaseModel, strict=True):
    """What to put into a template, and into which version of it."""

    variables: Json = {}
    version: Number | None = None


def _id(call: Call) -> UUID:
    try:
        return UUID(call.path("id"))
    except ValueError as exc:
        raise NotFound from exc


def _number(call: Call) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", call.path("version")):
        raise NotFound
    return int(call.path("version"))


def _sharer(call: Call) -> Act | None:
    return call.act if "admin" in call.caller.scopes else None


async def create_template(call: Call) -> Template:
    return await call.ring.templates.create(call.tenant, await call.read(New), _sharer(call))


async def list_templates(call: Call) -> Response:
    page = call.query(Page)
    found = await call.ring.templates.list(call.tenant, page)
    headers = {}
    if len(found) == page.limit:
        rest = page.model_dump(mode="json", include={"created_by", "limit"}, exclude_unset=True)
        query = urlencode(rest | {"cursor": page.next(call.tenant, found[-1])})
        headers["Link"] = f'<?{query}>; rel="next"'
    return Response(render(found), headers=headers, media_type="application/json")


async def template_stats(call: Call) -> list[Used]:
    return await call.ring.templates.stats(call.tenant, call.query(Top).limit)


async def get_template(call: Call) -> Template:
    return await call.ring.templates.get(call.tenant, _id(call))


async def change_template(call: Call) -> Template:
    change = await call.read(Change)
    return await call.ring.templates.change(call.tenant, _id(call), change, _sharer(call))


async def amend_template(call: Call) -> Template:
    change = await call.read(Change)
    return await call.ring.templates.amend(call.tenant, _id(call), change, _sharer(call))


async def delete_template(call: Call) -> dict[str, Any]:
    await call.ring.templates.delete(call.tenant, _id(call), _sharer(call))
    return {"message": "Template deleted successfully"}


async def use_template(call: Call) -> Template:
    return await call.ring.templates.use(call.tenant, _id(call))


async def render_template(call: Call) -> Rendered:
    filling = await call.read(Filling)
    wanted = _id(call), filling.variables, filling.version
    return await call.ring.templates.render(call.tenant, *wanted)


async def list_versions(call: Call) -> list[Version]:
    return await call.ring.templates.versions(call.tenant, _id(call), call.query(Versions))


async def get_version(call: Call) -> Version:
    return await call.ring.templates.version(call.tenant, _id(call), _number(call))
