"""What aliases mean."""

from typing import Annotated

from pydantic import BaseModel
from typing_extensions import TypedDict

from llmring_server.aliases import DEFAULT, Bind, Binding, Binds, Model, Name, Profile, Wanted
from llmring_server.bounded import Json
from llmring_server.web.call import Call
from llmring_server.web.paging import link


class In(BaseModel):
    """Which profile is meant."""

    profile: Profile = DEFAULT


class Sought(In):
    """Which alias is meant, in which profile."""

    alias: Name


class Meaning(In, strict=True):
    """What an alias, which the path names, is to mean."""

    model: Model
    metadata: Json | None = None


class Resolved(TypedDict):
    """The model that an alias means, or null."""

    alias: str
    model: str | None


class Updated(TypedDict):
    """How many aliases were bound."""

    updated: int


class Unbound(TypedDict):
    """That an alias means nothing."""

    deleted: bool


async def list_aliases(call: Call, query: Wanted) -> Annotated[list[Binding], "Link"]:
    """List what aliases mean, in the order of their names, a page at a time; fewer where large."""
    found = await call.ring.aliases.list(call.tenant, query)
    if found:
        call.says = link(query, query.next(call.tenant, found[-1]))
    return found


async def bind_alias(call: Call, body: Bind) -> Binding:
    """Let an alias mean a model, whatever it meant before."""
    return await call.ring.aliases.bind(call.tenant, body)


async def bind_aliases(call: Call, query: In, body: Binds | None) -> Updated:
    """Bind many in the profile that the query names; their own profiles do not count."""
    binds = body.root if body else []
    found = [bind.model_copy(update={"profile": query.profile}) for bind in binds]
    return {"updated": len(await call.ring.aliases.bind_many(call.tenant, found))}


async def resolve_alias(call: Call, query: Sought) -> Resolved:
    """Tell which model an alias means in a profile."""
    model = await call.ring.aliases.resolve(call.tenant, query.alias, query.profile)
    return {"alias": query.alias, "model": model}


async def get_alias(call: Call, alias: Name, query: In) -> Binding:
    """Show what an alias means in a profile."""
    return await call.ring.aliases.get(call.tenant, alias, query.profile)


async def rebind_alias(call: Call, alias: Name, body: Meaning) -> Binding:
    """Let the alias that the path names mean a model."""
    bind = Bind(alias=alias, **body.model_dump())
    return await call.ring.aliases.bind(call.tenant, bind)


async def delete_alias(call: Call, alias: Name, query: In) -> Unbound:
    """Let an alias mean nothing; also what was not there is deleted, as it always was."""
    await call.ring.aliases.delete(call.tenant, alias, query.profile)
    return {"deleted": True}
