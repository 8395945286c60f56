"""What aliases mean."""

from typing import Any

from pydantic import BaseModel

from llmring_server.aliases import DEFAULT, Bind, Binding, Binds, Model, Name, Profile, Wanted
from llmring_server.bounded import Json
from llmring_server.web.call import Call, blaming_the_client


class In(BaseModel):
    """Which profile is meant."""

    profile: Profile = DEFAULT


class Sought(In):
    alias: Name


class Meaning(In, strict=True):
    """What an alias, which the path names, is to mean."""

    model: Model
    metadata: Json | None = None


async def list_aliases(call: Call) -> list[Binding]:
    return await call.ring.aliases.list(call.tenant, call.query(Wanted))


async def bind_alias(call: Call) -> Binding:
    return await call.ring.aliases.bind(call.tenant, await call.read(Bind))


async def bind_aliases(call: Call) -> dict[str, int]:
    """Bind many in the profile that the query names; their own profiles do not count."""
    profile = call.query(In).profile
    binds = (await call.read(Binds)).root if await call.body() else []
    found = [bind.model_copy(update={"profile": profile}) for bind in binds]
    return {"updated": len(await call.ring.aliases.bind_many(call.tenant, found))}


async def resolve_alias(call: Call) -> dict[str, Any]:
    sought = call.query(Sought)
    model = await call.ring.aliases.resolve(call.tenant, sought.alias, sought.profile)
    return {"alias": sought.alias, "model": model}


async def get_alias(call: Call) -> Binding:
    return await call.ring.aliases.get(call.tenant, call.path("alias"), call.query(In).profile)


async def rebind_alias(call: Call) -> Binding:
    meaning = await call.read(Meaning)
    with blaming_the_client():
        bind = Bind(alias=call.path("alias"), **meaning.model_dump())
    return await call.ring.aliases.bind(call.tenant, bind)


async def delete_alias(call: Call) -> dict[str, bool]:
    """Also what was not there is deleted, as it always was."""
    await call.ring.aliases.delete(call.tenant, call.path("alias"), call.query(In).profile)
    return {"deleted": True}
