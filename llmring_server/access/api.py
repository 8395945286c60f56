"""Keys of one's own project, for keys with the scope `admin`."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.access.keys import ApiKey, IssuedKey, KeyOptions
from llmring_server.core.identity import DEFAULT_SCOPES, ApiScope
from llmring_server.errors import Forbidden
from llmring_server.web.request import Request


class NewKey(BaseModel, strict=True):
    """A key to issue: what it is called, what it may do, until when."""

    label: Annotated[str, Field(max_length=128)] = ""
    scopes: list[ApiScope] = list(DEFAULT_SCOPES)
    expires_at: Annotated[AwareDatetime, Field(strict=False)] | None = None


class KeyRotation(BaseModel, strict=True):
    """How many seconds the old key stays good: a day, unless it says otherwise."""

    overlap: Annotated[int, Field(ge=0, le=30 * 86_400)] = 86_400


class IssuedKeyResponse(TypedDict):
    """A key, shown once and never again."""

    id: str
    project_id: UUID
    key: str


class RevokedKey(TypedDict):
    """Since when a key is refused."""

    id: str
    revoked_at: datetime


def _shown_once(issued: IssuedKey) -> IssuedKeyResponse:
    return {"id": issued.id, "project_id": issued.project_id, "key": issued.secret}


def _must_have(request: Request, scopes: Iterable[str]) -> None:
    if more := set(scopes) - request.caller.scopes:
        raise Forbidden(
            f"Your key cannot grant scopes it does not have: {', '.join(sorted(more))}."
        )


async def list_keys(request: Request) -> list[ApiKey]:
    """List the keys of your project."""
    return await request.ring.keys.list(request.project_id)


async def get_key(request: Request, id: str) -> ApiKey:
    """Show a key, without its secret."""
    return await request.ring.keys.get(id, request.project_id)


async def issue_key(request: Request, body: NewKey) -> IssuedKeyResponse:
    """Issue a key for your project; its secret is shown now and never again."""
    _must_have(request, body.scopes)
    wanted = KeyOptions(body.label, body.scopes, body.expires_at)
    return _shown_once(
        await request.ring.keys.issue_for(request.project_id, wanted, actor=request.actor)
    )


async def rotate_key(request: Request, id: str, body: KeyRotation) -> IssuedKeyResponse:
    """Issue a key like this one, which stays good for a while."""
    _must_have(request, (await request.ring.keys.get(id, request.project_id)).scopes)
    overlap, has = timedelta(seconds=body.overlap), request.caller.scopes
    return _shown_once(
        await request.ring.keys.rotate(id, overlap, request.project_id, has, actor=request.actor)
    )


async def revoke_key(request: Request, id: str) -> RevokedKey:
    """Refuse a key from now on, for ever."""
    return {
        "id": id,
        "revoked_at": await request.ring.keys.revoke(id, request.project_id, actor=request.actor),
    }


Name = Annotated[str, Field(max_length=320)]


CLOSED = (
    "Keys are issued here by whoever runs this server: ask them for one, made with"
    " `llmring-server keys issue`."
)


class RegistrationRequest(BaseModel, strict=True):
    """Who asks for a key. Nothing of it is kept."""

    email: Annotated[Name, Field(min_length=1)]
    organization: Name | None = None
    project_name: Name | None = None
    accept_terms: Literal[True]


class RegistrationResponse(TypedDict):
    """A key, which names a project of its own; `dashboard_url` is what clients print."""

    api_key: str
    api_key_active: bool
    dashboard_url: str


async def register(
    request: Request, body: RegistrationRequest
) -> Annotated[RegistrationResponse, Forbidden]:
    """Make up a key for mode `open`; in the others, keys are not to be had for the asking."""
    if request.ring.settings.auth != "open":
        raise Forbidden(CLOSED)
    return {
        "api_key": f"llmr_pk_{token_hex(16)}",
        "api_key_active": True,
        "dashboard_url": "this server has none",
    }
