"""Trusted proxy: identity headers that a proxy in front signs for each request, with an HMAC.

`X-Proxy-Signature: v1,t=<unix time>,n=<32 hex digits>,s=<64 hex digits>`, where s is the
HMAC-SHA-256 of these lines: v1, method, raw path, query, user, project, SHA-256 of the body, t, n.
"""

import hmac
import re
import time
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID

from llmring_server.core.identity import MODE_SCOPES, Caller, ProjectId
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import BadRequest, Unauthenticated

if TYPE_CHECKING:  # Nonces are part of Ring, which needs no web framework
    from llmring_server.web.request import Request

USER_HEADER = b"x-user-id"
PROJECT_HEADER = b"x-project-id"
SIGNATURE_HEADER = b"x-proxy-signature"

# How far the clocks of the proxy and this server may be apart.
MAX_CLOCK_SKEW_SECONDS = 60

# Methods that change nothing, so that a replay is harmless and needs no nonce.
SAFE_METHODS = {"GET", "HEAD"}

_SIGNATURE = re.compile(rb"v1,t=(\d{1,12}),n=([0-9a-f]{32}),s=([0-9a-f]{64})")
_UUID = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


async def identify(request: "Request") -> Caller:
    """Return the caller that the proxy names, if its signature is valid, recent and unused."""
    user, project = _id(request, USER_HEADER), _id(request, PROJECT_HEADER)
    match = _SIGNATURE.fullmatch(request.headers.get(SIGNATURE_HEADER, b""))
    if not match:
        raise Unauthenticated("X-Proxy-Signature is malformed.")
    timestamp, nonce, signature = match.groups()
    message = await _signed_message(request, user, project, timestamp, nonce)
    secrets = request.ring.settings.proxy_secrets
    # All secrets are tried, so that the time taken does not reveal which one matches.
    matches = [
        hmac.compare_digest(_sign(secret.get_secret_value(), message), signature)
        for secret in secrets
    ]
    if not any(matches):
        raise Unauthenticated("X-Proxy-Signature does not match this request.")
    if abs(time.time() - int(timestamp)) > MAX_CLOCK_SKEW_SECONDS:
        raise Unauthenticated(
            f"X-Proxy-Signature differs from this server's clock by more than"
            f" {MAX_CLOCK_SKEW_SECONDS} seconds; check both clocks."
        )
    if request.scope["method"] not in SAFE_METHODS and not await request.ring.nonces.claim(nonce):
        raise Unauthenticated("X-Proxy-Signature has been used before.")
    return Caller(
        ProjectId(UUID(project.decode())), MODE_SCOPES["proxy"], f"user {UUID(user.decode())}"
    )


def _id(request: "Request", name: bytes) -> bytes:
    value = request.headers.get(name, b"")
    if not value:
        raise Unauthenticated("Send X-User-ID, X-Project-ID and X-Proxy-Signature.")
    if not _UUID.fullmatch(value):
        raise BadRequest(f"{name.decode().title()}: must be a UUID.")
    return value


async def _signed_message(
    request: "Request", user: bytes, project: bytes, timestamp: bytes, nonce: bytes
) -> bytes:
    scope = request.scope
    method = scope["method"].encode()
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope["query_string"]
    request.claimed_project_id = ProjectId(UUID(project.decode()))
    body_hash = sha256(await request.body()).hexdigest().encode()
    return b"\n".join((b"v1", method, path, query, user, project, body_hash, timestamp, nonce))


def _sign(secret: str, message: bytes) -> bytes:
    return hmac.digest(secret.encode(), message, "sha256").hex().encode()


class Nonces(Repository):
    """The nonces that were used recently: each is accepted for one request that changes data."""

    sql = "access/nonces"
    tables = (Table("proxy_nonces", grants=("UPDATE", "DELETE")),)

    async def claim(self, nonce: bytes) -> bool:
        """Return True the first time that a nonce is used."""
        return bool(await self._fetch_all("claim", nonce=nonce))
