"""The keys that sign receipts: which there are, since when, and which of them signs now."""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from llmring_server.errors import Code, RingError
from llmring_server.settings import Settings
from llmring_verify.canonical_json import NotVerified
from llmring_verify.keys import TrustedKey, is_valid_signature, key_id, load_public_key
from llmring_verify.receipt import base64url, from_base64url

_LENGTH = 32


class SigningKeyError(RingError):
    """The keys of receipts cannot be used."""

    status = 503
    code: Code = "signing_key_error"
    detail = "The keys that sign receipts cannot be used."


def new_private_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def encode_private_key(key: Ed25519PrivateKey) -> str:
    """Return the seed of a private key, as base64url."""
    return base64url(key.private_bytes_raw())


def decode_private_key(seed: str) -> Ed25519PrivateKey:
    """Open a private key that is given as base64url; BadKey."""
    return Ed25519PrivateKey.from_private_bytes(_decoded(seed))


def decode_public_key(x: str) -> bytes:
    """Return a public key that is given as base64url; BadKey, also where it would prove nothing."""
    return load_private_key(_decoded(x)).public_bytes_raw()


def load_private_key(public: bytes) -> Ed25519PublicKey:
    """Open a public key; BadKey."""
    try:
        return load_public_key(public)
    except NotVerified as exc:
        raise SigningKeyError(str(exc)) from None


def public_of(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def pem(key: bytes) -> str:
    """Write a public key as a SubjectPublicKeyInfo, as openssl reads it."""
    spki = load_private_key(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return spki.decode()


def _decoded(text: str) -> bytes:
    try:
        # Padding is tolerated, as it always was.
        return from_base64url(text.rstrip("="), _LENGTH, "a key")
    except NotVerified as exc:
        raise SigningKeyError(str(exc)) from None


State = Literal["next", "active", "retired", "compromised"]


Sign = Callable[[bytes], Awaitable[bytes]]


# A chat waits for its receipt, twice so many seconds, on a connection.
SIGN_TIMEOUT = 3.0


def format_timestamp(moment: datetime) -> str:
    """Write a time as what is signed has it: in UTC, to the microsecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class StoredKey(BaseModel, extra="forbid", hide_input_in_errors=True):
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
        key = decode_public_key(self.x)
        if key_id(key) != self.kid:
            raise SigningKeyError(f"the key {self.kid[:8]} does not belong to its kid")
        if self.d and public_of(decode_private_key(self.d)) != key:
            raise SigningKeyError(f"the private key of {self.kid} is another key's")
        return key


class KeyDocument(BaseModel, extra="forbid", hide_input_in_errors=True):
    """A document of keys: the one that signs, those that did, and the one that will."""

    keys: Annotated[list[StoredKey], Field(min_length=1, max_length=1000)]

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        try:
            return cls.model_validate_json(text)
        except ValidationError as exc:
            [first, *_] = exc.errors(include_url=False, include_input=False, include_context=False)
            at = ".".join(map(str, first["loc"]))
            raise SigningKeyError(f"the keys of receipts: {at}: {first['msg']}") from None

    def of(self, state: State) -> StoredKey | None:
        return next((key for key in self.keys if key.state == state), None)


@dataclass(frozen=True)
class SigningKey:
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
        return pem(self.public)

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
        return {name: format_timestamp(at) if at else None for name, at in moments.items()}

    @cached_property
    def opened(self) -> Ed25519PublicKey:
        return load_private_key(self.public)

    def signed(self, data: bytes, signature: bytes) -> bool:
        return is_valid_signature(self.opened, data, signature)


class Keyring:
    """Public keys, and a way to sign with the one that is active.

    `sign` is given bytes and returns an Ed25519 signature of 64 bytes, wherever the private key
    is kept. BadKey unless exactly one key is active, and its time has come.
    """

    def __init__(self, keys: Sequence[SigningKey], sign: Sign) -> None:
        self.keys = {key.kid: key for key in keys}
        active = [key for key in keys if key.state == "active"]
        if len(self.keys) != len(keys) or len(active) != 1:
            raise SigningKeyError(
                "of the keys of receipts, each must be there once, and one be active"
            )
        [self.active] = active
        opened = [TrustedKey(key.kid, key.opened, key.state) for key in keys]
        # Nobody knows what a compromised key has signed.
        self.trusted = {key.kid: key for key in opened if key.state != "compromised"}
        if self.active.not_before and self.active.not_before > datetime.now(UTC):
            raise SigningKeyError(
                f"the key {self.active.kid} must not sign yet: see its not_before"
            )
        self._sign = sign

    async def sign(self, data: bytes) -> bytes:
        """Return a signature that fits; BadKey if there is none in time."""
        try:
            async with asyncio.timeout(SIGN_TIMEOUT):
                signature = await self._sign(data)
            fits = self.active.signed(data, signature)
        except Exception as exc:  # what signs may be anyone's code
            raise SigningKeyError(
                f"what signs for the key {self.active.kid} does not answer"
            ) from exc
        if not fits:
            raise SigningKeyError(f"what signs for the key {self.active.kid} has another key")
        return signature


def keyring_from(held: Sequence[StoredKey]) -> Keyring:
    """Return the keyring of a document, whose active key must come with its private one."""
    keys = [
        SigningKey(each.public, **each.model_dump(exclude={"kid", "alg", "x", "d"}))
        for each in held
    ]
    [seed, *_] = [each.d for each in held if each.state == "active"] or [None]
    if not seed:
        raise SigningKeyError("no key of receipts is active and comes with its private key")
    private = decode_private_key(seed)

    async def sign(data: bytes) -> bytes:
        return private.sign(data)

    return Keyring(keys, sign)


def stored_key(private: Any, state: State, **times: datetime) -> StoredKey:
    """Return a private key as a document has it."""
    key = public_of(private)
    x, d = base64url(key), encode_private_key(private)
    return StoredKey(kid=key_id(key), x=x, d=d, state=state, **times)


# Who keeps our public keys has a day to see a new one before it signs.
NOTICE = timedelta(hours=24)


_OTHERS = 0o007


KeyringSource = Callable[[], Keyring | None]


def keyring_source(settings: Settings, given: Keyring | None = None) -> KeyringSource:
    """Return where keys come from, unless they are given; BadKey if they cannot be used."""
    if settings.receipt_key_file and not given:
        return KeyFile(settings.receipt_key_file)
    ring = given or _given(settings)
    return lambda: ring


def _given(settings: Settings) -> Keyring | None:
    if settings.receipt_keys:
        return keyring_from(KeyDocument.read(settings.receipt_keys.get_secret_value()).keys)
    if not settings.receipts_private_key_b64:
        return None
    private = decode_private_key(settings.receipts_private_key_b64.get_secret_value())
    told = settings.receipts_public_key_b64
    if told and decode_public_key(told) != public_of(private):
        raise SigningKeyError("receipts_public_key_b64 is not the key of receipts_private_key_b64")
    return keyring_from([stored_key(private, "active")])


class KeyFile:
    """The keyring of a file, which is read again when the file is another."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, self._mark(path)
        self._ring = keyring_from(read_key_file(path).keys)

    def __call__(self) -> Keyring:
        seen = self._mark(self._path)
        if seen != self._seen:
            self._ring = keyring_from(read_key_file(self._path).keys)
            self._seen = seen
        return self._ring

    @staticmethod
    def _mark(path: Path) -> tuple[int, int, int]:
        try:
            found = path.stat()
        except OSError as exc:
            raise SigningKeyError(
                f"the file of receipts' keys cannot be read: {exc.strerror}"
            ) from None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_key_file(path: Path) -> KeyDocument:
    """Read the keys of a file; BadKey if there is none, or if others may read it."""
    try:
        others = path.stat().st_mode & _OTHERS
        text = path.read_bytes()
    except OSError as exc:
        raise SigningKeyError(
            f"the file of receipts' keys cannot be read: {exc.strerror}"
        ) from None
    if others:
        raise SigningKeyError("the file of receipts' keys is open to others: chmod 600")
    return KeyDocument.read(text)


def create_key_file(path: Path) -> StoredKey:
    """Make a file with a first key, which signs at once: nobody knows another."""
    first = stored_key(new_private_key(), "active", not_before=datetime.now(UTC))
    with _written(path, KeyDocument(keys=[first])) as file:
        try:
            os.link(file, path)
        except FileExistsError:
            raise SigningKeyError("there is such a file: rotate its keys") from None
    return first


def rotate_key_file(path: Path) -> StoredKey:
    """Take one step of a rotation, and return the new key: announce it, or a day later use it."""
    with _changing(path) as keys:
        return _rotated(keys, datetime.now(UTC))


def _rotated(keys: KeyDocument, now: datetime) -> StoredKey:
    waiting = keys.of("next")
    if waiting is None:
        waiting = stored_key(new_private_key(), "next", not_before=now + NOTICE)
        keys.keys.append(waiting)
    elif waiting.not_before and waiting.not_before > now:
        raise SigningKeyError(
            f"the next key may sign from {waiting.not_before:%Y-%m-%d %H:%M} UTC on"
        )
    else:
        if used := keys.of("active"):
            used.state, used.retired_at, used.d = "retired", now, None
        waiting.state = "active"
    return waiting


def compromise_key(path: Path) -> StoredKey:
    """Give up every key that signs with this file, and return a new one, which does so at once."""
    now = datetime.now(UTC)
    fresh = stored_key(new_private_key(), "active", not_before=now)
    with _changing(path) as keys:
        for each in keys.keys:
            if each.d:
                each.state, each.compromised_at, each.d = "compromised", now, None
        keys.keys.append(fresh)
    return fresh


@contextmanager
def _changing(path: Path) -> Iterator[KeyDocument]:
    """Yield the keys of a file, and replace it in one step; who comes second waits.

    Its owner, its group and what they may do stay as they are.
    """
    with _folder(path) as folder:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = read_key_file(path)
        before = path.stat()
        yield keys
        with _written(path, keys) as file:
            os.chown(file, before.st_uid, before.st_gid)
            file.chmod(before.st_mode & 0o770)
            file.replace(path)


@contextmanager
def _written(path: Path, keys: KeyDocument) -> Iterator[Path]:
    """Yield a file with these keys, which is to be named; nothing of it stays elsewhere."""
    keyring_from(keys.keys)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(keys.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            yield Path(file.name)
        finally:
            Path(file.name).unlink(missing_ok=True)
    with _folder(path) as folder:
        os.fsync(folder)


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    opened = os.open(path.parent, os.O_RDONLY)
    try:
        yield opened
    finally:
        os.close(opened)
