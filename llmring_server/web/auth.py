"""Who is calling: turns a request's credential into a tenant, or refuses."""

from typing import Any

from starlette.requests import Request

from llmring_server import tenant
from llmring_server.errors import BadRequest, Unauthenticated

LONGEST = 255
BEARER = "bearer "

UNKNOWN = (
    "This API key is not known here. Issue one with `llmring-server keys issue`, or run your own"
    " server with LLMRING_AUTH=open, where any key names its own project."
)


def credential(request: Request[Any]) -> str:
    """Return the one API key of a request."""
    keys = request.headers.getlist("x-api-key")
    authorization = request.headers.getlist("authorization")
    bearers = [each[len(BEARER) :] for each in authorization if each.lower().startswith(BEARER)]
    if len(keys) > 1 or len(authorization) > 1:
        raise BadRequest("Send X-API-Key and Authorization at most once each.")
    given = {key for each in keys + bearers if (key := each.strip())}
    if len(given) > 1:
        raise BadRequest("X-API-Key and Authorization name different keys; send one.")
    if not given:
        raise Unauthenticated
    return given.pop()


async def authenticate(request: Request[Any]) -> tenant.Tenant:
    key = credential(request)
    if len(key) > LONGEST or not key.isascii() or not key.isprintable() or " " in key:
        raise Unauthenticated("An API key is up to 255 ASCII characters without spaces.")
    if request.app.state.settings.auth == "open":
        return tenant.of_key(key)
    found: tenant.Tenant | None = await request.app.state.ring.keys.tenant_of(key)
    if found is None:
        raise Unauthenticated(UNKNOWN)
    return found
