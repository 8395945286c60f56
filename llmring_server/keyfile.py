"""The keys of receipts in a file: made, rotated, and read again when they change."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile

from llmring_server import signing
from llmring_server.keyring import Held, Keyring, Keys, held, ring_of
from llmring_server.settings import Settings
from llmring_server.signing import BadKey

# Who keeps our public keys has a day to see a new one before it signs.
NOTICE = timedelta(hours=24)
_OTHERS = 0o007

Source = Callable[[], Keyring | None]


def source(settings: Settings, given: Keyring | None = None) -> Source:
    """Return where keys come from, unless they are given; BadKey if they cannot be used."""
    if settings.receipt_key_file and not given:
        return Reader(settings.receipt_key_file)
    ring = given or _given(settings)
    return lambda: ring


def _given(settings: Settings) -> Keyring | None:
    if settings.receipt_keys:
        return ring_of(Keys.read(settings.receipt_keys.get_secret_value()).keys)
    if not settings.receipts_private_key_b64:
        return None
    private = signing.private(settings.receipts_private_key_b64.get_secret_value())
    told = settings.receipts_public_key_b64
    if told and signing.public(told) != signing.public_of(private):
        raise BadKey("receipts_public_key_b64 is not the key of receipts_private_key_b64")
    return ring_of([held(private, "active")])


class Reader:
    """The keyring of a file, which is read again when the file is another."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, self._mark(path)
        self._ring = ring_of(read(path).keys)

    def __call__(self) -> Keyring:
        seen = self._mark(self._path)
        if seen != self._seen:
            self._ring = ring_of(read(self._path).keys)
            self._seen = seen
        return self._ring

    @staticmethod
    def _mark(path: Path) -> tuple[int, int, int]:
        try:
            found = path.stat()
        except OSError as exc:
            raise BadKey(f"the file of receipts' keys cannot be read: {exc.strerror}") from None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: Path) -> Keys:
    """Read the keys of a file; BadKey if there is none, or if others may read it."""
    try:
        others = path.stat().st_mode & _OTHERS
        text = path.read_bytes()
    except OSError as exc:
        raise BadKey(f"the file of receipts' keys cannot be read: {exc.strerror}") from None
    if others:
        raise BadKey("the file of receipts' keys is open to others: chmod 600")
    return Keys.read(text)


def create(path: Path) -> Held:
    """Make a file with a first key, which signs at once: nobody knows another."""
    first = held(signing.make(), "active", not_before=datetime.now(UTC))
    with _written(path, Keys(keys=[first])) as file:
        try:
            os.link(file, path)
        except FileExistsError:
            raise BadKey("there is such a file: rotate its keys") from None
    return first


def rotate(path: Path) -> Held:
    """Take one step of a rotation, and return the new key: announce it, or a day later use it."""
    with _changing(path) as keys:
        return _rotated(keys, datetime.now(UTC))


def _rotated(keys: Keys, now: datetime) -> Held:
    waiting = keys.of("next")
    if waiting is None:
        waiting = held(signing.make(), "next", not_before=now + NOTICE)
        keys.keys.append(waiting)
    elif waiting.not_before and waiting.not_before > now:
        raise BadKey(f"the next key may sign from {waiting.not_before:%Y-%m-%d %H:%M} UTC on")
    else:
        if used := keys.of("active"):
            used.state, used.retired_at, used.d = "retired", now, None
        waiting.state = "active"
    return waiting


def compromise(path: Path) -> Held:
    """Give up every key that signs with this file, and return a new one, which does so at once."""
    now = datetime.now(UTC)
    fresh = held(signing.make(), "active", not_before=now)
    with _changing(path) as keys:
        for each in keys.keys:
            if each.d:
                each.state, each.compromised_at, each.d = "compromised", now, None
        keys.keys.append(fresh)
    return fresh


@contextmanager
def _changing(path: Path) -> Iterator[Keys]:
    """Yield the keys of a file, and replace it in one step; who comes second waits.

    Its owner, its group and what they may do stay as they are.
    """
    with _folder(path) as folder:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = read(path)
        before = path.stat()
        yield keys
        with _written(path, keys) as file:
            os.chown(file, before.st_uid, before.st_gid)
            file.chmod(before.st_mode & 0o770)
            file.replace(path)


@contextmanager
def _written(path: Path, keys: Keys) -> Iterator[Path]:
    """Yield a file with these keys, which is to be named; nothing of it stays elsewhere."""
    ring_of(keys.keys)
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
