"""Who is calling: turns a request's credential into a tenant, or refuses."""

import re
from collections.abc import Mapping

from llmring_server import tenant
from llmring_server.errors import BadRequest, Unauthenticated
from llmring_server.ring import Ring

BEARER = b"bearer "

_KEY = re.compile(rb"[!-~]{1,255}")

UNKNOWN = (
    "This API key is not known here. Issue one with `llmring-server keys issue`, or run your own"
    " server with LLMRING_AUTH=open, where any key names its own project."
)


def credential(headers: Mapping[bytes, bytes]) -> str:
    """Return the one API key of a request."""
    given = headers.get(b"x-api-key", b"").strip()
    authorization = headers.get(b"authorization", b"")
    if authorization[: len(BEARER)].lower() == BEARER:
        bearer = authorization[len(BEARER) :].strip()
        if given and bearer != given:
            raise BadRequest("X-API-Key and Authorization name different keys; send one.")
        given = bearer
    if not given:
        raise Unauthenticated
    if not _KEY.fullmatch(given):
        raise Unauthenticated("An API key is up to 255 ASCII characters without spaces.")
    return given.decode()


async def authenticate(headers: Mapping[bytes, bytes], ring: Ring) -> tenant.Tenant:
    key = credential(headers)
    found = await ring.keys.tenant_of(key)
    if found is not None:
        return found
    if ring.settings.auth == "open":
        return tenant.of_key(key)
    raise Unauthenticated(UNKNOWN)
