"""The keys that sign receipts: which there are, since when, and which of them signs now."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from llmring_server import signing
from llmring_server.signing import BadKey
from llmring_verify.keys import TrustedKey, is_valid_signature, key_id
from llmring_verify.receipt import base64url

State = Literal["next", "active", "retired", "compromised"]
Sign = Callable[[bytes], Awaitable[bytes]]

# A chat waits for its receipt, twice so many seconds, on a connection.
PATIENCE = 3.0


def text_of(moment: datetime) -> str:
    """Write a time as what is signed has it: in UTC, to the microsecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Held(BaseModel, extra="forbid", hide_input_in_errors=True):
    """A key as a document has it: `x` is the public key, `d` the private one, in base64url."""

    kid: str
    alg: Literal["Ed25519"] = "Ed25519"
    x: str
    d: Annotated[str | None, Field(repr=False)] = None
    state: State
    not_before: AwareDatetime | None = None
    retired_at: AwareDatetime | None = None
    compromised_at: AwareDatetime | None = None

    @property
    def public(self) -> bytes:
        """Return the public key; BadKey if it is not the one of its id and its private key."""
        key = signing.public(self.x)
        if key_id(key) != self.kid:
            raise BadKey(f"the key {self.kid[:8]} does not belong to its kid")
        if self.d and signing.public_of(signing.private(self.d)) != key:
            raise BadKey(f"the private key of {self.kid} is another key's")
        return key


class Keys(BaseModel, extra="forbid", hide_input_in_errors=True):
    """A document of keys: the one that signs, those that did, and the one that will."""

    keys: Annotated[list[Held], Field(min_length=1, max_length=1000)]

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        try:
            return cls.model_validate_json(text)
        except ValidationError as exc:
            [first, *_] = exc.errors(include_url=False, include_input=False, include_context=False)
            at = ".".join(map(str, first["loc"]))
            raise BadKey(f"the keys of receipts: {at}: {first['msg']}") from None

    def of(self, state: State) -> Held | None:
        return next((key for key in self.keys if key.state == state), None)


@dataclass(frozen=True)
class Key:
    """A public key, and for what it is good: `next` is shown to everyone before it signs."""

    public: bytes
    state: State
    not_before: datetime | None = None
    retired_at: datetime | None = None
    compromised_at: datetime | None = None

    @cached_property
    def kid(self) -> str:
        return key_id(self.public)

    @cached_property
    def pem(self) -> str:
        return signing.pem(self.public)

    @property
    def jwk(self) -> dict[str, str]:
        """Return the key as RFC 8037 writes it."""
        return {"kid": self.kid, "kty": "OKP", "crv": "Ed25519", "x": base64url(self.public)}

    @property
    def times(self) -> dict[str, str | None]:
        moments = {
            "not_before": self.not_before,
            "retired_at": self.retired_at,
            "compromised_at": self.compromised_at,
        }
        return {name: text_of(at) if at else None for name, at in moments.items()}

    @cached_property
    def opened(self) -> Ed25519PublicKey:
        return signing.opened(self.public)

    def signed(self, data: bytes, signature: bytes) -> bool:
        return is_valid_signature(self.opened, data, signature)


class Keyring:
    """Public keys, and a way to sign with the one that is active.

    `sign` is given bytes and returns an Ed25519 signature of 64 bytes, wherever the private key
    is kept. BadKey unless exactly one key is active, and its time has come.
    """

    def __init__(self, keys: Sequence[Key], sign: Sign) -> None:
        self.keys = {key.kid: key for key in keys}
        active = [key for key in keys if key.state == "active"]
        if len(self.keys) != len(keys) or len(active) != 1:
            raise BadKey("of the keys of receipts, each must be there once, and one be active")
        [self.active] = active
        opened = [TrustedKey(key.kid, key.opened, key.state) for key in keys]
        # Nobody knows what a compromised key has signed.
        self.trusted = {key.kid: key for key in opened if key.state != "compromised"}
        if self.active.not_before and self.active.not_before > datetime.now(UTC):
            raise BadKey(f"the key {self.active.kid} must not sign yet: see its not_before")
        self._sign = sign

    async def sign(self, data: bytes) -> bytes:
        """Return a signature that fits; BadKey if there is none in time."""
        try:
            async with asyncio.timeout(PATIENCE):
                signature = await self._sign(data)
            fits = self.active.signed(data, signature)
        except Exception as exc:  # what signs may be anyone's code
            raise BadKey(f"what signs for the key {self.active.kid} does not answer") from exc
        if not fits:
            raise BadKey(f"what signs for the key {self.active.kid} has another key")
        return signature


def ring_of(held: Sequence[Held]) -> Keyring:
    """Return the keyring of a document, whose active key must come with its private one."""
    keys = [Key(each.public, **each.model_dump(exclude={"kid", "alg", "x", "d"})) for each in held]
    [seed, *_] = [each.d for each in held if each.state == "active"] or [None]
    if not seed:
        raise BadKey("no key of receipts is active and comes with its private key")
    private = signing.private(seed)

    async def sign(data: bytes) -> bytes:
        return private.sign(data)

    return Keyring(keys, sign)


def held(private: Any, state: State, **times: datetime) -> Held:
    """Return a private key as a document has it."""
    key = signing.public_of(private)
    x, d = base64url(key), signing.written(private)
    return Held(kid=key_id(key), x=x, d=d, state=state, **times)
