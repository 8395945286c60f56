"""Identity that a proxy in front of us vouches for, request by request, with an HMAC.

`X-Proxy-Signature: v1,t=<unix time>,n=<32 hex digits>,s=<64 hex digits>`, where s is the
HMAC-SHA-256 of the lines v1, method, raw path, query, user, project, SHA-256 of the body, t, n.
"""

import hmac
import re
import time
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID

from llmring_server.core.identity import MODE_SCOPES, Caller, ProjectId
from llmring_server.db.repository import Repository
from llmring_server.errors import BadRequest, Unauthenticated

if TYPE_CHECKING:
    from llmring_server.web.request import Request


USER, PROJECT, SIGNATURE = b"x-user-id", b"x-project-id", b"x-proxy-signature"


WINDOW = 60


SAFE = {"GET", "HEAD"}


_SIGNATURE = re.compile(rb"v1,t=(\d{1,12}),n=([0-9a-f]{32}),s=([0-9a-f]{64})")


_UUID = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


async def caller(request: "Request") -> Caller:
    """Return whom the proxy names, if it is the proxy who says so, now, about this request."""
    user, project = _id(request, USER), _id(request, PROJECT)
    proof = _SIGNATURE.fullmatch(request.headers.get(SIGNATURE, b""))
    if not proof:
        raise Unauthenticated("X-Proxy-Signature: this is no proof of a proxy.")
    moment, nonce, signature = proof.groups()
    told = await _told(request, user, project, moment, nonce)
    secrets = request.ring.settings.proxy_secrets
    # Each is tried, so that the time taken does not tell which.
    good = [
        hmac.compare_digest(_sign(each.get_secret_value(), told), signature) for each in secrets
    ]
    if not any(good):
        raise Unauthenticated("X-Proxy-Signature: it does not sign this request.")
    if abs(time.time() - int(moment)) > WINDOW:
        raise Unauthenticated("X-Proxy-Signature: made over a minute ago; check both clocks.")
    if request.scope["method"] not in SAFE and not await request.ring.nonces.claim(nonce):
        raise Unauthenticated("X-Proxy-Signature: used before.")
    return Caller(
        ProjectId(UUID(project.decode())), MODE_SCOPES["proxy"], f"user {UUID(user.decode())}"
    )


def _id(request: "Request", name: bytes) -> bytes:
    given = request.headers.get(name, b"")
    if not given:
        raise Unauthenticated("Send X-User-ID, X-Project-ID and X-Proxy-Signature.")
    if not _UUID.fullmatch(given):
        raise BadRequest(f"{name.decode().title()}: must be a UUID.")
    return given


async def _told(
    request: "Request", user: bytes, project: bytes, moment: bytes, nonce: bytes
) -> bytes:
    scope = request.scope
    path = scope.get("raw_path") or scope["path"].encode()
    body = sha256(await request.body()).hexdigest().encode()
    method = scope["method"].encode()
    return b"\n".join(
        (b"v1", method, path, scope["query_string"], user, project, body, moment, nonce)
    )


def _sign(secret: str, told: bytes) -> bytes:
    return hmac.digest(secret.encode(), told, "sha256").hex().encode()


class Nonces(Repository):
    """The nonces of the last minutes."""

    sql = "access/nonces"

    async def claim(self, nonce: bytes) -> bool:
        """Return True the first time."""
        return bool(await self._fetch_all("claim", nonce=nonce))
