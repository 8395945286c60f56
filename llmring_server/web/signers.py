"""The public keys of receipts, for anyone to keep: who has kept one can verify without us."""

from typing import Annotated, Any, NotRequired

from starlette.responses import Response
from typing_extensions import TypedDict

from llmring_server.errors import NotFound
from llmring_server.keyring import Key, Keyring, State
from llmring_server.web.body import JSON
from llmring_server.web.call import Call, render

# A key is shown for a day before it signs.
KEPT = {"Cache-Control": "public, max-age=3600"}
TEXT, PEM = "text/plain; charset=utf-8", "application/x-pem-file"

# RFC 8037, and when a key was retired.
WebKey = TypedDict(
    "WebKey",
    {
        "kid": str,
        "kty": str,
        "crv": str,
        "x": str,
        "use": str,
        "alg": str,
        "nbf": NotRequired[int],
        "x-retired-at": str | None,
    },
)


class Jwk(TypedDict):
    """A public key as RFC 8037 writes it."""

    kid: str
    kty: str
    crv: str
    x: str


class Published(Jwk):
    """A public key, and for what it is good."""

    alg: str
    state: State
    not_before: str | None
    retired_at: str | None
    compromised_at: str | None


class Told(Published):
    """A public key, in the words of old clients too."""

    key_id: str
    public_key: str
    algorithm: str
    format: str


class Document(TypedDict):
    """The keys that `llmring-verify` takes."""

    issuer: str
    keys: list[Told]
    current_key_id: str


class WebKeys(TypedDict):
    """A JWKS (RFC 7517)."""

    keys: list[WebKey]


async def key_pem(call: Call) -> Annotated[Response, {TEXT: str}, NotFound]:
    """Give the public key that signs now, as openssl reads it."""
    return Response(_keyring(call).active.pem, headers=KEPT, media_type=TEXT)


async def old_key_pem(call: Call) -> Annotated[Response, {PEM: str}, NotFound]:
    """Give the public key that signs now, as openssl reads it."""
    return Response(_keyring(call).active.pem, headers=KEPT, media_type=PEM)


async def key_jwk(call: Call) -> Annotated[Response, {JSON: Jwk}, NotFound]:
    """Give the public key that signs now as a JWK."""
    return _kept(_keyring(call).active.jwk)


async def public_keys(call: Call) -> Annotated[Response, {JSON: list[Published]}, NotFound]:
    """List the public keys: those that signed, that sign, and that will."""
    return _kept([_published(key) for key in _keyring(call).keys.values()])


async def old_public_keys(call: Call) -> Annotated[Response, {JSON: Document}, NotFound]:
    """Give the public keys as a document to keep, and to verify with."""
    keyring = _keyring(call)
    document = {
        "issuer": call.ring.settings.receipt_issuer,
        "keys": [_told(key) for key in keyring.keys.values()],
        "current_key_id": keyring.active.kid,
    }
    return _kept(document)


async def jwks(call: Call) -> Annotated[Response, {JSON: WebKeys}, NotFound]:
    """Give the public keys that are to be trusted as a JWKS, which has no word for others."""
    keyring = _keyring(call)
    return _kept({"keys": [_web_key(keyring.keys[kid]) for kid in keyring.trusted]})


def _keyring(call: Call) -> Keyring:
    keyring = call.ring.receipts.keys()
    if keyring is None:
        raise NotFound("Public key not configured")
    return keyring


def _kept(told: Any) -> Response:
    return Response(render(told), headers=KEPT, media_type=JSON)


def _published(key: Key) -> dict[str, Any]:
    return {**key.jwk, "alg": "Ed25519", "state": key.state, **key.times}


def _told(key: Key) -> dict[str, Any]:
    old = {"algorithm": "Ed25519", "format": "base64url"}
    return _published(key) | {"key_id": key.kid, "public_key": key.jwk["x"], **old}


def _web_key(key: Key) -> dict[str, Any]:
    return {
        **key.jwk,
        "use": "sig",
        "alg": "EdDSA",
        **({"nbf": int(key.not_before.timestamp())} if key.not_before else {}),
        "x-retired-at": key.times["retired_at"],
    }
