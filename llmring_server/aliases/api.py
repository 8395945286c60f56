"""What aliases mean."""

from typing import Annotated

from pydantic import BaseModel
from typing_extensions import TypedDict

from llmring_server.aliases.service import (
    DEFAULT,
    AliasBinding,
    AliasPage,
    BindAlias,
    BindAliases,
    Model,
    Name,
    Profile,
)
from llmring_server.core.strict_json import JsonObject
from llmring_server.web.request import Request, link


class ProfileQuery(BaseModel):
    """Which profile is meant."""

    profile: Profile = DEFAULT


class ResolveQuery(ProfileQuery):
    """Which alias is meant, in which profile."""

    alias: Name


class AliasUpdate(ProfileQuery, strict=True):
    """What an alias, which the path names, is to mean."""

    model: Model
    metadata: JsonObject | None = None


class ResolvedAlias(TypedDict):
    """The model that an alias means, or null."""

    alias: str
    model: str | None


class BulkResult(TypedDict):
    """How many aliases were bound."""

    updated: int


class DeletedAlias(TypedDict):
    """That an alias means nothing."""

    deleted: bool


async def list_aliases(request: Request, query: AliasPage) -> Annotated[list[AliasBinding], "Link"]:
    """List what aliases mean, in the order of their names, a page at a time; fewer where large."""
    found = await request.ring.aliases.list(request.project_id, query)
    if found:
        request.response_headers = link(query, query.next(request.project_id, found[-1]))
    return found


async def bind_alias(request: Request, body: BindAlias) -> AliasBinding:
    """Let an alias mean a model, whatever it meant before."""
    return await request.ring.aliases.bind(request.project_id, body)


async def bind_aliases(
    request: Request, query: ProfileQuery, body: BindAliases | None
) -> BulkResult:
    """Bind many in the profile that the query names; their own profiles do not count."""
    binds = body.root if body else []
    found = [bind.model_copy(update={"profile": query.profile}) for bind in binds]
    return {"updated": len(await request.ring.aliases.bind_many(request.project_id, found))}


async def resolve_alias(request: Request, query: ResolveQuery) -> ResolvedAlias:
    """Tell which model an alias means in a profile."""
    model = await request.ring.aliases.resolve(request.project_id, query.alias, query.profile)
    return {"alias": query.alias, "model": model}


async def get_alias(request: Request, alias: Name, query: ProfileQuery) -> AliasBinding:
    """Show what an alias means in a profile."""
    return await request.ring.aliases.get(request.project_id, alias, query.profile)


async def rebind_alias(request: Request, alias: Name, body: AliasUpdate) -> AliasBinding:
    """Let the alias that the path names mean a model."""
    bind = BindAlias(alias=alias, **body.model_dump())
    return await request.ring.aliases.bind(request.project_id, bind)


async def delete_alias(request: Request, alias: Name, query: ProfileQuery) -> DeletedAlias:
    """Let an alias mean nothing; also what was not there is deleted, as it always was."""
    await request.ring.aliases.delete(request.project_id, alias, query.profile)
    return {"deleted": True}
