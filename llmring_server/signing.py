"""Ed25519 with keys that can be relied on: made, opened and written, and nothing kept."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from llmring_server.errors import Code, RingError
from llmring_verify.canonical_json import NotVerified
from llmring_verify.keys import load_public_key
from llmring_verify.receipt import base64url, from_base64url

_LENGTH = 32


class BadKey(RingError):
    """The keys of receipts cannot be used."""

    status = 503
    code: Code = "signing_key_error"
    detail = "The keys that sign receipts cannot be used."


def make() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def written(key: Ed25519PrivateKey) -> str:
    """Return the seed of a private key, as base64url."""
    return base64url(key.private_bytes_raw())


def private(seed: str) -> Ed25519PrivateKey:
    """Open a private key that is given as base64url; BadKey."""
    return Ed25519PrivateKey.from_private_bytes(_decoded(seed))


def public(x: str) -> bytes:
    """Return a public key that is given as base64url; BadKey, also where it would prove nothing."""
    return opened(_decoded(x)).public_bytes_raw()


def opened(public: bytes) -> Ed25519PublicKey:
    """Open a public key; BadKey."""
    try:
        return load_public_key(public)
    except NotVerified as exc:
        raise BadKey(str(exc)) from None


def public_of(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def pem(key: bytes) -> str:
    """Write a public key as a SubjectPublicKeyInfo, as openssl reads it."""
    spki = opened(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return spki.decode()


def _decoded(text: str) -> bytes:
    try:
        # Padding is tolerated, as it always was.
        return from_base64url(text.rstrip("="), _LENGTH, "a key")
    except NotVerified as exc:
        raise BadKey(str(exc)) from None
