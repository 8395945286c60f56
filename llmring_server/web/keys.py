"""Keys of one's own project, for keys with the scope `admin`."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.caller import DEFAULT_SCOPES, Scope
from llmring_server.errors import Forbidden
from llmring_server.keys import Issued, Key, Wanted
from llmring_server.web.call import Call


class NewKey(BaseModel, strict=True):
    """A key to issue: what it is called, what it may do, until when."""

    label: Annotated[str, Field(max_length=128)] = ""
    scopes: list[Scope] = list(DEFAULT_SCOPES)
    expires_at: Annotated[AwareDatetime, Field(strict=False)] | None = None


class Rotation(BaseModel, strict=True):
    """How many seconds the old key stays good: a day, unless it says otherwise."""

    overlap: Annotated[int, Field(ge=0, le=30 * 86_400)] = 86_400


class NewSecret(TypedDict):
    """A key, shown once and never again."""

    id: str
    project_id: UUID
    key: str


class Revoked(TypedDict):
    """Since when a key is refused."""

    id: str
    revoked_at: datetime


def _shown_once(issued: Issued) -> NewSecret:
    return {"id": issued.id, "project_id": issued.tenant, "key": issued.secret}


def _must_have(call: Call, scopes: Iterable[str]) -> None:
    if more := set(scopes) - call.caller.scopes:
        raise Forbidden(
            f"Your key cannot grant scopes it does not have: {', '.join(sorted(more))}."
        )


async def list_keys(call: Call) -> list[Key]:
    """List the keys of your project."""
    return await call.ring.keys.list(call.tenant)


async def get_key(call: Call, id: str) -> Key:
    """Show a key, without its secret."""
    return await call.ring.keys.get(id, call.tenant)


async def issue_key(call: Call, body: NewKey) -> NewSecret:
    """Issue a key for your project; its secret is shown now and never again."""
    _must_have(call, body.scopes)
    wanted = Wanted(body.label, body.scopes, body.expires_at)
    return _shown_once(await call.ring.keys.issue_for(call.tenant, wanted, actor=call.actor))


async def rotate_key(call: Call, id: str, body: Rotation) -> NewSecret:
    """Issue a key like this one, which stays good for a while."""
    _must_have(call, (await call.ring.keys.get(id, call.tenant)).scopes)
    overlap, has = timedelta(seconds=body.overlap), call.caller.scopes
    return _shown_once(await call.ring.keys.rotate(id, overlap, call.tenant, has, actor=call.actor))


async def revoke_key(call: Call, id: str) -> Revoked:
    """Refuse a key from now on, for ever."""
    return {"id": id, "revoked_at": await call.ring.keys.revoke(id, call.tenant, actor=call.actor)}
