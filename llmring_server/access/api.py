"""HTTP API of access: a project's API keys, and the registration of the `llmring` client."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.access.keys import ApiKey, IssuedKey, KeyOptions, KeyPage
from llmring_server.core.identity import DEFAULT_SCOPES, ApiScope
from llmring_server.core.numbers import WHOLE
from llmring_server.errors import Forbidden, QuotaExceeded
from llmring_server.web.request import IdOf, Request, link

KeyId = Annotated[str, Field(pattern="^[0-9A-Za-z]{8}$"), IdOf("API key")]

DAY_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 30 * DAY_SECONDS

REGISTRATION_CLOSED = (
    "The operator of this server issues its keys, with `llmring-server keys issue`: ask them for"
    " one."
)


class NewKey(BaseModel, strict=True):
    """Label, scopes and expiry of a new API key."""

    label: Annotated[str, Field(max_length=128)] = ""
    scopes: list[ApiScope] = list(DEFAULT_SCOPES)
    expires_at: Annotated[AwareDatetime, Field(strict=False)] | None = None


class KeyRotation(BaseModel, strict=True):
    """How many seconds the old key stays valid; a day by default."""

    overlap: Annotated[int, Field(ge=0, le=MAX_OVERLAP_SECONDS), WHOLE] = DAY_SECONDS


class IssuedKeyResponse(TypedDict):
    """A new API key. It cannot be shown again."""

    id: str
    project_id: UUID
    key: str


class RevokedKey(TypedDict):
    """A revoked API key, and when it was revoked."""

    id: str
    revoked_at: datetime


async def list_keys(request: Request, query: KeyPage) -> Annotated[list[ApiKey], "Link"]:
    """List the API keys of your project, oldest first."""
    keys = await request.ring.keys.list(request.project_id, query)
    if keys:
        request.response_headers = link(query, query.next(request.project_id, keys[-1]))
    return keys


async def get_key(request: Request, id: KeyId) -> ApiKey:
    """Get an API key, without its secret."""
    return await request.ring.keys.get(id, request.project_id)


async def issue_key(request: Request, body: NewKey) -> Annotated[IssuedKeyResponse, QuotaExceeded]:
    """Issue an API key for your project. The response is the only place that shows it."""
    _require_all(request, body.scopes)
    options = KeyOptions(body.label, body.scopes, body.expires_at)
    issued = await request.ring.keys.issue_for(request.project_id, options, actor=request.actor)
    return _issued_key_response(issued)


async def rotate_key(
    request: Request, id: KeyId, body: KeyRotation
) -> Annotated[IssuedKeyResponse, QuotaExceeded]:
    """Issue a replacement for an API key, which stays valid for `overlap` seconds."""
    key = await request.ring.keys.get(id, request.project_id)
    _require_all(request, key.scopes)
    issued = await request.ring.keys.rotate(
        id,
        timedelta(seconds=body.overlap),
        request.project_id,
        request.caller.scopes,
        actor=request.actor,
    )
    return _issued_key_response(issued)


async def revoke_key(request: Request, id: KeyId) -> RevokedKey:
    """Revoke an API key, permanently."""
    revoked_at = await request.ring.keys.revoke(id, request.project_id, actor=request.actor)
    return {"id": id, "revoked_at": revoked_at}


def _require_all(request: Request, scopes: Iterable[str]) -> None:
    """Raise Forbidden unless the caller has all of these scopes."""
    if missing := set(scopes) - request.caller.scopes:
        raise Forbidden(
            f"Your key cannot grant scopes it does not have: {', '.join(sorted(missing))}."
        )


def _issued_key_response(issued: IssuedKey) -> IssuedKeyResponse:
    return {"id": issued.id, "project_id": issued.project_id, "key": issued.secret}


Text = Annotated[str, Field(max_length=320)]


class RegistrationRequest(BaseModel, strict=True):
    """A request for an API key. None of this is stored."""

    email: Annotated[Text, Field(min_length=1)]
    organization: Text | None = None
    project_name: Text | None = None
    accept_terms: Literal[True]


class RegistrationResponse(TypedDict):
    """An API key of a new project. Clients print `dashboard_url`."""

    api_key: str
    api_key_active: bool
    dashboard_url: str


async def register_key(
    request: Request,
    body: RegistrationRequest,  # noqa: ARG001, it is validated
) -> Annotated[RegistrationResponse, Forbidden]:
    """Get an API key in mode `open`. In other modes, the operator issues keys: 403."""
    if request.ring.settings.auth != "open":
        raise Forbidden(REGISTRATION_CLOSED)
    return {
        "api_key": f"llmr_pk_{token_hex(16)}",
        "api_key_active": True,
        "dashboard_url": "this server has none",
    }
