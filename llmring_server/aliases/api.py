"""Aliases API: handlers of `/api/v1/aliases`."""

from typing import Annotated

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.aliases.models import (
    DEFAULT_PROFILE,
    AliasBinding,
    AliasPage,
    BindAlias,
    BindAliases,
    Model,
    Name,
    Profile,
)
from llmring_server.core.strict_json import SmallJsonObject
from llmring_server.errors import QuotaExceeded
from llmring_server.web.request import IdOf, Request, link

AliasInPath = Annotated[Name, IdOf("Alias")]


class ProfileQuery(BaseModel):
    """`profile` is the profile that the alias is bound in."""

    profile: Profile = Field(DEFAULT_PROFILE, description="The profile of the alias.")


class ResolveQuery(ProfileQuery):
    """`alias` is the name to resolve in `profile`."""

    alias: Name = Field(description="The alias to resolve.")


class AliasUpdate(ProfileQuery, strict=True):
    """The model or other alias to bind the alias in the path to."""

    model: Model
    metadata: SmallJsonObject | None = None


class ResolvedAlias(TypedDict):
    """The model that an alias is bound to, in the end; null if it is not bound."""

    alias: str
    model: str | None


class BoundAliases(TypedDict):
    """The number of aliases that were bound."""

    updated: int


class DeletedAlias(TypedDict):
    """Confirmation that an alias is no longer bound."""

    deleted: bool


async def list_aliases(request: Request, query: AliasPage) -> Annotated[list[AliasBinding], "Link"]:
    """List aliases, ordered by name. A page has at most about 8 MiB."""
    aliases = request.ring.aliases.with_unparsed_json()
    bindings = await aliases.list(request.project_id, query)
    if bindings:
        request.response_headers = link(query, query.next(request.project_id, bindings[-1]))
    return bindings


async def bind_alias(request: Request, body: BindAlias) -> Annotated[AliasBinding, QuotaExceeded]:
    """Bind an alias to a model; an existing binding is replaced."""
    return await request.ring.aliases.bind(request.project_id, body)


async def bind_aliases(
    request: Request, query: ProfileQuery, body: BindAliases | None
) -> Annotated[BoundAliases, QuotaExceeded]:
    """Bind aliases in the profile of the query; profiles in the body are ignored."""
    requested = body.root if body else []
    bindings = [binding.model_copy(update={"profile": query.profile}) for binding in requested]
    bound = await request.ring.aliases.bind_many(request.project_id, bindings)
    return {"updated": len(bound)}


async def resolve_alias(request: Request, query: ResolveQuery) -> ResolvedAlias:
    """Resolve an alias to its model in a profile, also through other aliases."""
    model = await request.ring.aliases.resolve(request.project_id, query.alias, query.profile)
    return {"alias": query.alias, "model": model}


async def get_alias(request: Request, alias: AliasInPath, query: ProfileQuery) -> AliasBinding:
    """Get the binding of an alias in a profile."""
    return await request.ring.aliases.get(request.project_id, alias, query.profile)


async def put_alias(
    request: Request, alias: AliasInPath, body: AliasUpdate
) -> Annotated[AliasBinding, QuotaExceeded]:
    """Bind the alias in the path to a model."""
    binding = BindAlias(alias=alias, **body.model_dump())
    return await request.ring.aliases.bind(request.project_id, binding)


async def delete_alias(request: Request, alias: AliasInPath, query: ProfileQuery) -> DeletedAlias:
    """Delete an alias; succeeds even if it does not exist."""
    await request.ring.aliases.delete(request.project_id, alias, query.profile)
    return {"deleted": True}
