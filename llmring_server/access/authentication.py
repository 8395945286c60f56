"""Authentication: turns the credentials of a request into a caller, in the configured mode.

- `keys`: an API key that was issued here.
- `open`: any API key; each key that was not issued here names its own project.
- `proxy`: headers signed by a proxy in front (see `trusted_proxy`).
- `parent`: the application that mounts this one decides.

The expiry of keys is checked in SQL (`sql/access/keys.sql`).
"""

import inspect
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn
from uuid import UUID

from starlette.types import Scope

from llmring_server.access import trusted_proxy
from llmring_server.access.key_format import key_id
from llmring_server.core.identity import (
    MODE_SCOPES,
    ApiScope,
    Caller,
    ProjectId,
    digest_of_key,
    project_of_digest,
)
from llmring_server.errors import BadRequest, Unauthenticated
from llmring_server.settings import Settings
from llmring_server.web.rate_limits import RateLimits
from llmring_server.web.request import Request, client_network

# Identifies the caller in mode `parent`: the id of a project, or a Caller with its own scopes;
# the request is rejected for any other result. It may be a coroutine function.
Authenticate = Callable[[Scope], Any]

BEARER = b"bearer "

MAX_KEY_LENGTH = 255
_KEY = re.compile(rb"[!-~]{1,%d}" % MAX_KEY_LENGTH)
_WHITE_SPACE = re.compile(rb"[\t\n\v\f\r \x85\xa0]")

UNKNOWN_KEY = (
    "This API key is unknown. Issue one with `llmring-server keys issue`, or run your own server"
    " with LLMRING_AUTH=open, where any key names its own project."
)


class Authentication:
    """Authenticates the requests of one app."""

    def __init__(
        self, settings: Settings, limits: RateLimits, parent: Authenticate | None = None
    ) -> None:
        self._mode = settings.auth
        self._limits = limits
        self._parent = parent
        self._identify = {
            "keys": self._by_issued_key,
            "open": self._by_any_key,
            "proxy": trusted_proxy.identify,
            "parent": self._by_parent,
        }[settings.auth]

    async def authenticate(self, request: Request, scopes: tuple[ApiScope, ...]) -> Caller:
        """Return the caller; raise unless it has all `scopes` and is within its rate limit."""
        try:
            caller = await self._identify(request)
        except Unauthenticated:
            self._limits.count_auth_failure(client_network(request.scope))
            raise
        caller.require(*scopes)
        self._limits.count_request((caller.project_id, caller.name))
        return caller

    async def reauthenticate(self, request: Request, scopes: tuple[ApiScope, ...]) -> Caller:
        """Return the caller of an authenticated request; raise if it has lost its access.

        Only an issued key can expire or be revoked while a body arrives. This is still the same
        request: it is not counted again, and a parent is not called again.
        """
        if self._mode not in {"keys", "open"}:
            return request.caller
        key = credential(request)
        if not key_id(key):
            return request.caller
        caller = await _caller_of_key(request, key)
        caller.require(*scopes)
        return caller

    async def _by_issued_key(self, request: Request) -> Caller:
        key = credential(request)
        # Nearly every key was used a moment ago: it needs no coroutine.
        return request.ring.keys.cached_caller(key) or await self._issued_key_caller(request, key)

    async def _issued_key_caller(self, request: Request, key: str) -> Caller:
        # The network is computed only if the key is looked up: it costs a tenth of a request.
        return await _caller_of_key(
            request, key, lambda: self._limits.check_auth_failures(client_network(request.scope))
        )

    async def _by_any_key(self, request: Request) -> Caller:
        key = credential(request)
        if key_id(key):
            # A key in the format of issued keys never names its own project, even if it was issued
            # elsewhere or has been revoked.
            return await self._issued_key_caller(request, key)
        return _open_mode_caller(digest_of_key(key))

    async def _by_parent(self, request: Request) -> Caller:
        if self._parent is None:
            raise Unauthenticated
        identity = self._parent(request.scope)
        if inspect.isawaitable(identity):
            identity = await identity
        if isinstance(identity, UUID):
            return Caller(ProjectId(identity), MODE_SCOPES["parent"], "parent")
        if not isinstance(identity, Caller):
            raise Unauthenticated("The application did not authenticate this request.")
        return identity


def credential(request: Request) -> str:
    """Return the one API key of a request."""
    headers = request.headers
    key = headers.get(b"x-api-key", b"").strip()
    # The name of the header in the first servers.
    former = headers.get(b"x-project-key", b"").strip()
    authorization = headers.get(b"authorization", b"")
    token = b""
    if authorization[: len(BEARER)].lower() == BEARER:
        token = authorization[len(BEARER) :].strip()
    key = key or former or token
    if not key:
        raise Unauthenticated
    if (former and former != key) or (token and token != key):
        raise BadRequest(
            "X-API-Key, X-Project-Key and Authorization contain different keys; send one."
        )
    if not _KEY.fullmatch(key):
        _reject_malformed(key)
    return key.decode()


def _reject_malformed(key: bytes) -> NoReturn:
    """Raise the error for a text that cannot be a key.

    What is too long or has white space in it is a mistake in a configuration and not a guess: it
    is no failed authentication, which would be counted.
    """
    if len(key) > MAX_KEY_LENGTH:
        raise BadRequest(f"X-API-Key too long: a key has at most {MAX_KEY_LENGTH} characters.")
    if _WHITE_SPACE.search(key):
        raise BadRequest("X-API-Key must not contain whitespace.")
    raise Unauthenticated("An API key consists of printable ASCII characters.")


async def _caller_of_key(
    request: Request, key: str, before_lookup: Callable[[], None] | None = None
) -> Caller:
    caller = await request.ring.keys.caller(key, before_lookup)
    if caller is None:
        raise Unauthenticated(UNKNOWN_KEY)
    return caller


@lru_cache(1024)
def _open_mode_caller(key_digest: bytes) -> Caller:
    project_id = project_of_digest(key_digest)
    return Caller(project_id, MODE_SCOPES["open"], str(project_id))
