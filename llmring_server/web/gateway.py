"""Identity that a gateway in front of us vouches for, request by request, with an HMAC.

`X-Gateway-Signature: v1,t=<unix time>,n=<32 hex digits>,s=<64 hex digits>`, where s is the
HMAC-SHA-256 of the lines v1, method, raw path, query, user, project, SHA-256 of the body, t, n.
"""

import hmac
import re
import time
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID

from llmring_server.caller import MODE_SCOPES, Caller
from llmring_server.errors import BadRequest, Unauthenticated
from llmring_server.tenant import Tenant

if TYPE_CHECKING:
    from llmring_server.web.call import Call

USER, PROJECT, SIGNATURE = b"x-user-id", b"x-project-id", b"x-gateway-signature"
WINDOW = 60
SAFE = {"GET", "HEAD"}

_SIGNATURE = re.compile(rb"v1,t=(\d{1,12}),n=([0-9a-f]{32}),s=([0-9a-f]{64})")
_UUID = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


async def caller(call: "Call") -> Caller:
    """Return whom the gateway names, if it is the gateway who says so, now, about this request."""
    user, project = _id(call, USER), _id(call, PROJECT)
    proof = _SIGNATURE.fullmatch(call.headers.get(SIGNATURE, b""))
    if not proof:
        raise Unauthenticated("X-Gateway-Signature: this is no proof of a gateway.")
    moment, nonce, signature = proof.groups()
    told = await _told(call, user, project, moment, nonce)
    secrets = call.ring.settings.gateway_secrets
    # Each is tried, so that the time taken does not tell which.
    good = [
        hmac.compare_digest(_sign(each.get_secret_value(), told), signature) for each in secrets
    ]
    if not any(good):
        raise Unauthenticated("X-Gateway-Signature: it does not sign this request.")
    if abs(time.time() - int(moment)) > WINDOW:
        raise Unauthenticated("X-Gateway-Signature: made over a minute ago; check both clocks.")
    if call.scope["method"] not in SAFE and not await call.ring.nonces.claim(nonce):
        raise Unauthenticated("X-Gateway-Signature: used before.")
    return Caller(
        Tenant(UUID(project.decode())), MODE_SCOPES["gateway"], f"user {UUID(user.decode())}"
    )


def _id(call: "Call", name: bytes) -> bytes:
    given = call.headers.get(name, b"")
    if not given:
        raise Unauthenticated("Send X-User-ID, X-Project-ID and X-Gateway-Signature.")
    if not _UUID.fullmatch(given):
        raise BadRequest(f"{name.decode().title()}: must be a UUID.")
    return given


async def _told(call: "Call", user: bytes, project: bytes, moment: bytes, nonce: bytes) -> bytes:
    scope = call.scope
    path = scope.get("raw_path") or scope["path"].encode()
    body = sha256(await call.body()).hexdigest().encode()
    method = scope["method"].encode()
    return b"\n".join(
        (b"v1", method, path, scope["query_string"], user, project, body, moment, nonce)
    )


def _sign(secret: str, told: bytes) -> bytes:
    return hmac.digest(secret.encode(), told, "sha256").hex().encode()
