"""Who is calling: turns a request's credential into a caller, or refuses."""

import inspect
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from starlette.types import Scope

from llmring_server.access import trusted_proxy
from llmring_server.access.key_format import key_id
from llmring_server.core.identity import (
    MODE_SCOPES,
    Caller,
    ProjectId,
    digest_of_key,
    project_of_digest,
)
from llmring_server.core.identity import ApiScope as Needed
from llmring_server.errors import BadRequest, Unauthenticated
from llmring_server.web.request import client_network

if TYPE_CHECKING:
    from llmring_server.web.rate_limits import RateLimits
    from llmring_server.web.request import Request


# How a parent says who calls: a project, who is no admin, or a caller in full.
Authenticate = Callable[[Scope], Any]


BEARER = b"bearer "


_KEY = re.compile(rb"[!-~]{1,255}")


UNKNOWN = (
    "This API key is not known here. Issue one with `llmring-server keys issue`, or run your own"
    " server with LLMRING_AUTH=open, where any key names its own project."
)


def credential(request: "Request") -> str:
    """Return the one API key of a request."""
    given = request.headers.get(b"x-api-key", b"").strip()
    authorization = request.headers.get(b"authorization", b"")
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


async def _by_key(request: "Request") -> Caller:
    limits: RateLimits = request.scope["app"].limits
    return await _issued(request, lambda: limits.guess(client_network(request.scope)))


async def _issued(request: "Request", before_lookup: Callable[[], None] | None = None) -> Caller:
    found = await request.ring.keys.caller(credential(request), before_lookup)
    if found is None:
        raise Unauthenticated(UNKNOWN)
    return found


async def _by_any_key(request: "Request") -> Caller:
    key = credential(request)
    if key_id(key):
        # It was issued here or elsewhere, or is no more: it names no project of its own.
        return await _by_key(request)
    return _self_named(digest_of_key(key))


@lru_cache(1024)
def _self_named(digest: bytes) -> Caller:
    project_id = project_of_digest(digest)
    return Caller(project_id, MODE_SCOPES["open"], str(project_id))


async def _by_parent(request: "Request") -> Caller:
    found = request.scope["app"].state.authenticate(request.scope)
    if inspect.isawaitable(found):
        found = await found
    if isinstance(found, UUID):
        return Caller(ProjectId(found), MODE_SCOPES["parent"], "parent")
    if not isinstance(found, Caller):
        raise Unauthenticated("The application does not know who you are.")
    return found


_MODES: dict[str, Callable[["Request"], Awaitable[Caller]]] = {
    "keys": _by_key,
    "open": _by_any_key,
    "proxy": trusted_proxy.caller,
    "parent": _by_parent,
}


async def authenticate(request: "Request", needs: Needed) -> Caller:
    """Return who is calling, if they may: often enough, but not too often."""
    limits: RateLimits = request.scope["app"].limits
    try:
        caller = await _MODES[request.ring.settings.auth](request)
    except Unauthenticated:
        limits.failure(client_network(request.scope))
        raise
    caller.require(needs)
    limits.call((caller.project_id, caller.name))
    return caller


async def admit_again(request: "Request", needs: Needed) -> Caller:
    """Return who is calling, if they still may, at the end of a body that was slow to come.

    Only a key that was issued can expire or be revoked meanwhile. It is one request all the same:
    no limit counts it again, and no parent is asked twice.
    """
    if request.ring.settings.auth not in {"keys", "open"} or not key_id(credential(request)):
        return request.caller
    caller = await _issued(request)
    caller.require(needs)
    return caller
