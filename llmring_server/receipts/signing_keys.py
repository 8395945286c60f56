"""Signing keys of receipts: Ed25519, the keys and their states, the keyring, and the key file.

Read from top to bottom: a key in memory; the keyring, which signs with the active key; the document
that stores keys; the key file and its rotation; where the keys of a server come from.
"""

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
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from llmring_server.core.validation import lines_of
from llmring_server.errors import Code, RingError
from llmring_server.settings import Settings
from llmring_verify.canonical_json import NotVerified
from llmring_verify.keys import (
    KEY_BYTES,
    KeyState,
    TrustedKey,
    is_valid_signature,
    key_id,
    load_public_key,
)
from llmring_verify.receipt import base64url, from_base64url

# A logged exchange waits for its two signatures while it holds a connection: twice this long.
SIGN_TIMEOUT_SECONDS = 3.0
# How long a new key is published before it signs, so that saved public keys include it.
NOTICE = timedelta(hours=24)

_ACCESS_OF_OTHERS = 0o007
_ACCESS_OF_OWNER_AND_GROUP = 0o770


class SigningKeyError(RingError):
    """The keys of receipts cannot be used."""

    status = 503
    code: Code = "signing_key_error"
    detail = "The keys that sign receipts cannot be used."


# Ed25519 keys as bytes and as base64url.


def new_private_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def encode_private_key(key: Ed25519PrivateKey) -> str:
    """Return the seed of a private key as base64url."""
    return base64url(key.private_bytes_raw())


def decode_private_key(seed: str) -> Ed25519PrivateKey:
    """Load a private key from its seed in base64url; raise SigningKeyError if it is malformed."""
    return Ed25519PrivateKey.from_private_bytes(decode_key_bytes(seed))


def decode_public_key(x: str) -> bytes:
    """Return the bytes of a public key in base64url.

    Raise SigningKeyError if it is malformed, or if its signatures would prove nothing.
    """
    public = decode_key_bytes(x)
    _load_public_key(public)
    return public


def decode_key_bytes(text: str) -> bytes:
    try:
        # Older servers accepted padding, so it is tolerated.
        return from_base64url(text.rstrip("="), KEY_BYTES, "a key")
    except NotVerified as exc:
        raise SigningKeyError(str(exc)) from None


def public_bytes_of(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _load_public_key(public: bytes) -> Ed25519PublicKey:
    try:
        return load_public_key(public)
    except NotVerified as exc:
        raise SigningKeyError(str(exc)) from None


def format_timestamp(moment: datetime) -> str:
    """Format a time as it is signed: in UTC, with six fractional digits."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# Keys in memory.


@dataclass(frozen=True)
class SigningKey:
    """A public key and its state. A key in state `next` is published, but does not sign yet."""

    public: bytes
    state: KeyState
    not_before: datetime | None = None
    retired_at: datetime | None = None
    compromised_at: datetime | None = None

    @cached_property
    def kid(self) -> str:
        return key_id(self.public)

    @cached_property
    def public_key(self) -> Ed25519PublicKey:
        """The key, loaded; raise SigningKeyError if its signatures would prove nothing."""
        return _load_public_key(self.public)

    @cached_property
    def pem(self) -> str:
        """The key as a SubjectPublicKeyInfo in PEM, the format of openssl."""
        pem = self.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem.decode()

    @property
    def jwk(self) -> dict[str, str]:
        """The key as a JWK (RFC 8037)."""
        return {"kid": self.kid, "kty": "OKP", "crv": "Ed25519", "x": base64url(self.public)}

    @property
    def timestamps(self) -> dict[str, str | None]:
        moments = {
            "not_before": self.not_before,
            "retired_at": self.retired_at,
            "compromised_at": self.compromised_at,
        }
        return {
            name: format_timestamp(moment) if moment else None for name, moment in moments.items()
        }

    def is_valid_signature(self, data: bytes, signature: bytes) -> bool:
        return is_valid_signature(self.public_key, data, signature)


Sign = Callable[[bytes], Awaitable[bytes]]


class Keyring:
    """Public keys, and a function that signs with the active one.

    `sign` takes bytes and returns an Ed25519 signature of 64 bytes, wherever the private key is
    stored. Raise SigningKeyError unless exactly one key is active and may sign by now.
    """

    def __init__(self, keys: Sequence[SigningKey], sign: Sign) -> None:
        self.keys = {key.kid: key for key in keys}
        if len(self.keys) != len(keys):
            raise SigningKeyError("the keys of receipts contain a duplicate key")
        active_keys = [key for key in keys if key.state == "active"]
        if len(active_keys) != 1:
            raise SigningKeyError("exactly one of the keys of receipts must be active")
        self.active = active_keys[0]
        # All keys are loaded at once, so an invalid key is rejected in every state.
        loaded = [TrustedKey(key.kid, key.public_key, key.state) for key in keys]
        # Signatures of a compromised key may be forged.
        self.trusted = {key.kid: key for key in loaded if key.state != "compromised"}
        if self.active.not_before and self.active.not_before > datetime.now(UTC):
            raise SigningKeyError(f"the key {self.active.kid} must not sign before its not_before")
        self._sign = sign

    async def sign(self, data: bytes) -> bytes:
        """Return a valid signature; raise SigningKeyError if there is none in time."""
        try:
            async with asyncio.timeout(SIGN_TIMEOUT_SECONDS):
                signature = await self._sign(data)
            is_valid = self.active.is_valid_signature(data, signature)
        except Exception as exc:  # the signing service may be anyone's code
            raise SigningKeyError(
                f"signing with the key {self.active.kid} failed or timed out"
            ) from exc
        if not is_valid:
            raise SigningKeyError(f"the signature was not made with the key {self.active.kid}")
        return signature


# Keys in a document.


class StoredKey(BaseModel, extra="forbid", hide_input_in_errors=True):
    """A key in a key document: `x` is the public key, `d` the private key, both in base64url."""

    kid: str
    alg: Literal["Ed25519"] = "Ed25519"
    x: str
    d: Annotated[str | None, Field(repr=False)] = None
    state: KeyState
    not_before: AwareDatetime | None = None
    retired_at: AwareDatetime | None = None
    compromised_at: AwareDatetime | None = None

    def signing_key(self) -> SigningKey:
        """Return the key; raise SigningKeyError if `kid`, `x` and `d` do not belong together."""
        public = decode_public_key(self.x)
        if key_id(public) != self.kid:
            raise SigningKeyError(f"the key {self.kid[:8]} does not match its kid")
        if self.d and public_bytes_of(decode_private_key(self.d)) != public:
            raise SigningKeyError(f"the private key of {self.kid} belongs to another key")
        return SigningKey(public, self.state, self.not_before, self.retired_at, self.compromised_at)


class KeyDocument(BaseModel, extra="forbid", hide_input_in_errors=True):
    """The keys of receipts: the one that signs, those that did, and the one that will."""

    keys: Annotated[list[StoredKey], Field(min_length=1, max_length=1000)]

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Parse a document; raise SigningKeyError, which quotes none of it, if it is invalid."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as exc:
            raise SigningKeyError(f"the keys of receipts: {lines_of(exc, 'document')[0]}") from None

    def key_in_state(self, state: KeyState) -> StoredKey | None:
        return next((key for key in self.keys if key.state == state), None)


def stored_key(private: Ed25519PrivateKey, state: KeyState, **timestamps: datetime) -> StoredKey:
    """Return a private key in the form of a key document."""
    public = public_bytes_of(private)
    return StoredKey.model_validate(
        {
            "kid": key_id(public),
            "x": base64url(public),
            "d": encode_private_key(private),
            "state": state,
            **timestamps,
        }
    )


def keyring_from(keys: Sequence[StoredKey]) -> Keyring:
    """Return the keyring of these keys; raise SigningKeyError if they cannot sign."""
    signing_keys = [key.signing_key() for key in keys]
    seeds = [key.d for key in keys if key.state == "active" and key.d]
    if not seeds:
        raise SigningKeyError("none of the keys of receipts is active and has its private key")
    private = decode_private_key(seeds[0])

    async def sign(data: bytes) -> bytes:
        return private.sign(data)

    return Keyring(signing_keys, sign)


# The key file.


def read_key_file(path: Path) -> KeyDocument:
    """Read a key file; raise SigningKeyError if it is missing, invalid, or open to other users."""
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()
    except OSError as exc:
        raise _unreadable(exc) from None
    if mode & _ACCESS_OF_OTHERS:
        raise SigningKeyError("the key file of receipts is open to other users: chmod 600")
    return KeyDocument.parse(text)


def create_key_file(path: Path) -> StoredKey:
    """Create a key file with one active key, since no older key has to sign until it is known."""
    key = stored_key(new_private_key(), "active", not_before=datetime.now(UTC))
    with _reporting_os_errors(), _temporary_file(path, KeyDocument(keys=[key])) as file:
        try:
            os.link(file, path)
        except FileExistsError:
            raise SigningKeyError(
                "the key file already exists: use `receipts rotate` for a new key"
            ) from None
    return key


def rotate_key_file(path: Path) -> StoredKey:
    """Announce a new key, or a day later let it sign; return the new key."""
    with _exclusive_changes(path) as document:
        return _rotate(document, datetime.now(UTC))


def _rotate(document: KeyDocument, now: datetime) -> StoredKey:
    announced = document.key_in_state("next")
    if announced is None:
        new = stored_key(new_private_key(), "next", not_before=now + NOTICE)
        document.keys.append(new)
        return new
    if announced.not_before and announced.not_before > now:
        raise SigningKeyError(
            f"the next key may sign from {announced.not_before:%Y-%m-%d %H:%M} UTC on"
        )
    if active := document.key_in_state("active"):
        active.state, active.retired_at, active.d = "retired", now, None
    announced.state = "active"
    return announced


def compromise_key_file(path: Path) -> StoredKey:
    """Mark all keys that can sign as compromised, and return a new key, which signs at once.

    The announced key is compromised, too, because its private key is in the same file.
    """
    now = datetime.now(UTC)
    new = stored_key(new_private_key(), "active", not_before=now)
    with _exclusive_changes(path) as document:
        for key in document.keys:
            if key.d:
                key.state, key.compromised_at, key.d = "compromised", now, None
        document.keys.append(new)
    return new


@contextmanager
def _exclusive_changes(path: Path) -> Iterator[KeyDocument]:
    """Yield the keys of a file for changes, then replace the file atomically.

    A second process waits. Owner, group and mode of the file stay as they are.
    """
    with _reporting_os_errors(), _open_directory(path) as directory:
        fcntl.flock(directory, fcntl.LOCK_EX)
        document = read_key_file(path)
        before = path.stat()
        yield document
        with _temporary_file(path, document) as file:
            os.chown(file, before.st_uid, before.st_gid)
            file.chmod(before.st_mode & _ACCESS_OF_OWNER_AND_GROUP)
            file.replace(path)


@contextmanager
def _temporary_file(path: Path, document: KeyDocument) -> Iterator[Path]:
    """Yield a file beside `path` with these keys, to be renamed; no copy of them is left behind."""
    keyring_from(document.keys)  # a file that no server can use is not written
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(document.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            yield Path(file.name)
        finally:
            Path(file.name).unlink(missing_ok=True)
    with _open_directory(path) as directory:
        os.fsync(directory)


@contextmanager
def _reporting_os_errors() -> Iterator[None]:
    """Raise SigningKeyError if the system refuses to write the key file."""
    try:
        yield
    except OSError as exc:
        raise SigningKeyError(
            f"the key file of receipts cannot be written: {exc.strerror}"
        ) from None


@contextmanager
def _open_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unreadable(exc: OSError) -> SigningKeyError:
    return SigningKeyError(
        f"the key file of receipts, LLMRING_RECEIPT_KEY_FILE, cannot be read: {exc.strerror}"
    )


# The sources of a server's keys.

KeyringSource = Callable[[], Keyring | None]


class KeyFile:
    """A source of keys that reads the key file again after each change of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stat = self._current_stat()
        self._keyring = keyring_from(read_key_file(path).keys)

    def __call__(self) -> Keyring:
        current = self._current_stat()
        if current != self._stat:
            self._keyring = keyring_from(read_key_file(self._path).keys)
            self._stat = current
        return self._keyring

    def _current_stat(self) -> tuple[int, int, int]:
        try:
            stat = self._path.stat()
        except OSError as exc:
            raise _unreadable(exc) from None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def keyring_source(settings: Settings, keyring: Keyring | None = None) -> KeyringSource:
    """Return the source of keys: `keyring`, or what the settings name.

    Raise SigningKeyError if the keys cannot be used.
    """
    if settings.receipt_key_file and not keyring:
        return KeyFile(settings.receipt_key_file)
    fixed = keyring or _from_settings(settings)
    return lambda: fixed


def _from_settings(settings: Settings) -> Keyring | None:
    if settings.receipt_keys:
        return keyring_from(KeyDocument.parse(settings.receipt_keys.get_secret_value()).keys)
    if not settings.receipts_private_key_b64:
        return None
    private = decode_private_key(settings.receipts_private_key_b64.get_secret_value())
    x = settings.receipts_public_key_b64
    if x and decode_public_key(x) != public_bytes_of(private):
        raise SigningKeyError("receipts_public_key_b64 is not the key of receipts_private_key_b64")
    return keyring_from([stored_key(private, "active")])
