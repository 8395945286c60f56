"""Keys of one's own project, for keys with the scope `admin`."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field

from llmring_server.caller import USUAL, Scope
from llmring_server.errors import Forbidden
from llmring_server.keys import Issued, Key, Wanted
from llmring_server.web.call import Call


class NewKey(BaseModel):
    """A key to issue: what it is called, what it may do, until when."""

    label: Annotated[str, Field(max_length=128)] = ""
    scopes: list[Scope] = list(USUAL)
    expires_at: AwareDatetime | None = None


class Rotation(BaseModel):
    """How many seconds the old key stays good: a day, unless it says otherwise."""

    overlap: Annotated[int, Field(ge=0, le=30 * 86_400)] = 86_400


def _shown_once(issued: Issued) -> dict[str, Any]:
    return {"id": issued.id, "project_id": issued.tenant, "key": issued.secret}


async def list_keys(call: Call) -> list[Key]:
    return await call.ring.keys.list(call.tenant)


async def get_key(call: Call) -> Key:
    return await call.ring.keys.get(call.path("id"), call.tenant)


async def issue_key(call: Call) -> dict[str, Any]:
    new = await call.read(NewKey)
    if more := set(new.scopes) - call.caller.scopes:
        raise Forbidden(f"A key cannot give what it has not: {', '.join(sorted(more))}.")
    wanted = Wanted(new.label, new.scopes, new.expires_at)
    return _shown_once(await call.ring.keys.issue_for(call.tenant, wanted, call.act))


async def rotate_key(call: Call) -> dict[str, Any]:
    overlap = timedelta(seconds=(await call.read(Rotation)).overlap)
    id = call.path("id")
    return _shown_once(await call.ring.keys.rotate(id, overlap, call.tenant, call.act))


async def revoke_key(call: Call) -> dict[str, Any]:
    id = call.path("id")
    return {"id": id, "revoked_at": await call.ring.keys.revoke(id, call.tenant, call.act)}
