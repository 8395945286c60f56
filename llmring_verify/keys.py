"""Public keys, and which of them to trust: from a file that the reader keeps, and nowhere else."""

from hashlib import sha256
from typing import Any, Literal, NamedTuple, cast, get_args

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from llmring_verify.receipt import from_base64url
from llmring_verify.canonical_json import Refused, Unchecked, parse

# RFC 9864's name, and that of RFC 8037 before it.
_ALGORITHMS = ("Ed25519", "EdDSA")

BYTES = 32

State = Literal["next", "active", "retired", "compromised"]

_SPKI = bytes.fromhex("302a300506032b6570032100")
_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME) % _PRIME
# The y of the eight points that a multiple of themselves brings to nothing: with such a key, one
# signature fits every message. https://eprint.iacr.org/2020/1244 (table 1)
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL = {0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8}


def spki(public: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of RFC 8410, in DER."""
    return _SPKI + public


def kid_of(public: bytes) -> str:
    return sha256(spki(public)).hexdigest()[:8]


def load_public(public: bytes) -> Ed25519PublicKey:
    """Open a key; Refused: it is not a canonical point of the curve, or of small order."""
    if len(public) != BYTES:
        raise Refused(f"a key must be of {BYTES} bytes")
    y = int.from_bytes(public, "little") % 2**255
    if y >= _PRIME:
        raise Refused("a key is not spelled canonically")
    if y in _SMALL:
        raise Refused("a key is of small order: its signatures prove nothing")
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _PRIME)
    if pow(square, (_PRIME - 1) // 2, _PRIME) != 1:
        raise Refused("a key is not a point of the curve")
    return Ed25519PublicKey.from_public_bytes(public)


def signed(public: Ed25519PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        public.verify(signature, data)
    except InvalidSignature:
        return False
    return True


class Key(NamedTuple):
    """One key that the reader pinned."""

    kid: str
    public: Ed25519PublicKey
    state: State


def _key(told: Any) -> Key:
    if type(told) is not dict or "x" not in told:
        raise Unchecked("the keys' document holds something that is no key")
    if told.get("crv", "Ed25519") != "Ed25519" or told.get("alg", "Ed25519") not in _ALGORITHMS:
        raise Unchecked("the keys' document holds a key that is not of Ed25519")
    public = from_base64url(told["x"], BYTES, "a key")
    opened = load_public(public)
    found = kid_of(public)
    if told.get("kid", found) != found:
        raise Unchecked("the keys' document holds a key under another key's id")
    return Key(found, opened, _state(told))


def _state(told: dict[str, Any]) -> State:
    # A JWKS marks the members that no standard knows.
    if any(told.get(name) is not None for name in ("compromised_at", "x-compromised-at")):
        return "compromised"
    state = told.get("state", told.get("x-state", "active"))
    if state not in get_args(State):
        raise Unchecked("the keys' document holds a key in an unknown state")
    return cast("State", state)


def read(data: bytes) -> dict[str, Key]:
    """Read the keys to trust, by id: our document, a JWKS or its bare list; Unchecked."""
    try:
        return _pinned(parse(data))
    except Refused as exc:
        raise Unchecked(f"the keys' document: {exc}") from None


def _pinned(document: Any) -> dict[str, Key]:
    told = document.get("keys") if type(document) is dict else document
    if type(told) is not list:
        raise Unchecked("the keys' document holds no list of keys")
    keys = [_key(each) for each in told]
    found = {each.kid: each for each in keys}
    if len(found) != len(keys) or not keys:
        raise Unchecked("the keys' document holds no key, or one twice")
    return found
