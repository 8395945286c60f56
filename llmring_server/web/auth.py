"""Who is calling: turns a request's credential into a caller, or refuses."""

import inspect
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any
from uuid import UUID

from starlette.types import Scope

from llmring_server.caller import MODE_SCOPES, Caller
from llmring_server.caller import Scope as Needed
from llmring_server.errors import BadRequest, Unauthenticated
from llmring_server.secret import id_of
from llmring_server.tenant import Tenant, digest_of_key, of_digest
from llmring_server.web import gateway

if TYPE_CHECKING:
    from llmring_server.web.call import Call
    from llmring_server.web.limits import Limits

# How a parent says who calls: a tenant, who is no admin, or a caller in full.
Authenticate = Callable[[Scope], Any]

BEARER = b"bearer "

# Bits of an address, by the version of IP, that name a network and no person.
NETWORK = {4: 24, 6: 48}

_KEY = re.compile(rb"[!-~]{1,255}")

UNKNOWN = (
    "This API key is not known here. Issue one with `llmring-server keys issue`, or run your own"
    " server with LLMRING_AUTH=open, where any key names its own project."
)


def credential(call: "Call") -> str:
    """Return the one API key of a request."""
    given = call.headers.get(b"x-api-key", b"").strip()
    authorization = call.headers.get(b"authorization", b"")
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


async def _by_key(call: "Call") -> Caller:
    limits: Limits = call.scope["app"].limits
    return await _issued(call, lambda: limits.guess(address(call.scope)))


async def _issued(call: "Call", before_lookup: Callable[[], None] | None = None) -> Caller:
    found = await call.ring.keys.caller(credential(call), before_lookup)
    if found is None:
        raise Unauthenticated(UNKNOWN)
    return found


async def _by_any_key(call: "Call") -> Caller:
    key = credential(call)
    if id_of(key):
        # It was issued here or elsewhere, or is no more: it names no project of its own.
        return await _by_key(call)
    return _self_named(digest_of_key(key))


@lru_cache(1024)
def _self_named(digest: bytes) -> Caller:
    tenant = of_digest(digest)
    return Caller(tenant, MODE_SCOPES["open"], str(tenant))


async def _by_parent(call: "Call") -> Caller:
    found = call.scope["app"].state.authenticate(call.scope)
    if inspect.isawaitable(found):
        found = await found
    if isinstance(found, UUID):
        return Caller(Tenant(found), MODE_SCOPES["parent"], "parent")
    if not isinstance(found, Caller):
        raise Unauthenticated("The application does not know who you are.")
    return found


_MODES: dict[str, Callable[["Call"], Awaitable[Caller]]] = {
    "keys": _by_key,
    "open": _by_any_key,
    "gateway": gateway.caller,
    "parent": _by_parent,
}


async def admit(call: "Call", needs: Needed) -> Caller:
    """Return who is calling, if they may: often enough, but not too often."""
    limits: Limits = call.scope["app"].limits
    try:
        caller = await _MODES[call.ring.settings.auth](call)
    except Unauthenticated:
        limits.failure(address(call.scope))
        raise
    caller.must(needs)
    limits.call((caller.tenant, caller.name))
    return caller


async def admit_again(call: "Call", needs: Needed) -> Caller:
    """Return who is calling, if they still may, at the end of a body that was slow to come.

    Only a key that was issued can expire or be revoked meanwhile. It is one request all the same:
    no limit counts it again, and no parent is asked twice.
    """
    if call.ring.settings.auth not in {"keys", "open"} or not id_of(credential(call)):
        return call.caller
    caller = await _issued(call)
    caller.must(needs)
    return caller


def address(scope: Scope) -> str:
    """Return the network that a request comes from."""
    client = scope.get("client")
    try:
        found = ip_address(client[0]) if client else None
    except ValueError:
        found = None
    if not found:
        return "unknown"
    return str(ip_network((found, NETWORK[found.version]), strict=False))
