"""Public keys: Ed25519 checks, and the file of keys that the verifier trusts."""

from hashlib import sha256
from typing import Any, Literal, NamedTuple, cast, get_args

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from llmring_verify.canonical_json import CannotVerify, NotVerified, parse
from llmring_verify.receipt import from_base64url

# The name in RFC 9864, and the older one in RFC 8037.
_ALGORITHMS = ("Ed25519", "EdDSA")

KEY_BYTES = 32

KeyState = Literal["next", "active", "retired", "compromised"]

_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME) % _PRIME
# The y coordinates of the eight points of small order. With such a key, one signature is valid for
# every message. https://eprint.iacr.org/2020/1244 (table 1)
_Y_OF_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = {0, 1, _PRIME - 1, _Y_OF_ORDER_8, _PRIME - _Y_OF_ORDER_8}


def spki(public: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of RFC 8410, in DER."""
    return _SPKI_PREFIX + public


def key_id(public: bytes) -> str:
    """Return the `kid`: the first 8 hex digits of the SHA-256 of the SubjectPublicKeyInfo."""
    return sha256(spki(public)).hexdigest()[:8]


def load_public_key(public: bytes) -> Ed25519PublicKey:
    """Load a public key; raise NotVerified unless it is a canonical point of large order."""
    if len(public) != KEY_BYTES:
        raise NotVerified(f"a public key must have {KEY_BYTES} bytes")
    y = int.from_bytes(public, "little") % 2**255
    if y >= _PRIME:
        raise NotVerified("the encoding of a public key is not canonical")
    if y in _SMALL_ORDER:
        raise NotVerified("a public key has small order: its signatures prove nothing")
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _PRIME)
    if pow(x_squared, (_PRIME - 1) // 2, _PRIME) != 1:
        raise NotVerified("a public key is not a point on the curve")
    return Ed25519PublicKey.from_public_bytes(public)


def is_valid_signature(public: Ed25519PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        public.verify(signature, data)
    except InvalidSignature:
        return False
    return True


class TrustedKey(NamedTuple):
    """A public key that the verifier trusts."""

    kid: str
    public: Ed25519PublicKey
    state: KeyState


def read_keys(data: bytes) -> dict[str, TrustedKey]:
    """Read trusted keys by id, or raise CannotVerify.

    The document is the server's `public-keys.json`, a JWKS, or a plain list of either's keys.
    """
    try:
        return _read_keys(parse(data))
    except NotVerified as exc:
        raise CannotVerify(f"key file: {exc}") from None


def _read_keys(document: Any) -> dict[str, TrustedKey]:
    entries = document.get("keys") if type(document) is dict else document
    if type(entries) is not list:
        raise CannotVerify("key file: it contains no list of keys")
    keys = [_read_key(entry) for entry in entries]
    keys_by_id = {key.kid: key for key in keys}
    if not keys or len(keys_by_id) != len(keys):
        raise CannotVerify("key file: it contains no keys or a duplicate key")
    return keys_by_id


def _read_key(entry: Any) -> TrustedKey:
    if type(entry) is not dict or "x" not in entry:
        raise CannotVerify("key file: an entry is not a key")
    if entry.get("crv", "Ed25519") != "Ed25519" or entry.get("alg", "Ed25519") not in _ALGORITHMS:
        raise CannotVerify("key file: a key is not an Ed25519 key")
    raw = from_base64url(entry["x"], KEY_BYTES, "a public key")
    public = load_public_key(raw)
    kid = key_id(raw)
    if entry.get("kid", kid) != kid:
        raise CannotVerify("key file: the kid of a key does not match the key")
    return TrustedKey(kid, public, _state(entry))


def _state(entry: dict[str, Any]) -> KeyState:
    # A JWKS prefixes members that no standard defines with "x-".
    if any(entry.get(name) is not None for name in ("compromised_at", "x-compromised-at")):
        return "compromised"
    state = entry.get("state", entry.get("x-state", "active"))
    if state not in get_args(KeyState):
        raise CannotVerify("key file: a key has an unknown state")
    return cast("KeyState", state)
