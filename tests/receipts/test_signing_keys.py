"""Signing keys: which are rejected, where they come from, the key file, and rotation."""

import errno
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pgdbm import AsyncDatabaseManager
from pydantic import ValidationError

from llmring_server import Ring, Settings
from llmring_server.conversations.exchange import Exchange
from llmring_server.core.identity import ProjectId
from llmring_server.receipts import Keyring, SigningKey, SigningKeyError, signing_keys
from llmring_server.receipts.signing_keys import KeyDocument, stored_key
from llmring_verify.receipt import base64url
from tests.support.receipts import EXCHANGE, UNCERTIFIED, log_calls
from tests.support.signing import KID, SEED, keyring

SMALL_ORDER = [
    base64url(bytes([1]) + bytes(31)),
    base64url(bytes(32)),
    base64url(b"\xec" + b"\xff" * 31),
]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    signing_keys.create_key_file(path)
    return path


def key_document(**changes: Any) -> str:
    """Return a document with one valid key, but for these changes."""
    key = stored_key(signing_keys.decode_private_key(SEED), "active").model_dump(mode="json")
    return json.dumps({"keys": [key | changes]})


# Keys that are rejected.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"keys":[]}',
        '{"keys":[{}]}',
        key_document(kid="00000000"),
        key_document(x=base64url(bytes(31))),
        key_document(x=SMALL_ORDER[0]),
        key_document(x=SMALL_ORDER[1]),
        key_document(x="!" * 43),
        key_document(d="AA"),
        key_document(state="next"),
        key_document(state="compromised"),
        key_document(d=None),
        key_document(d=base64url(bytes(32))),
        key_document(alg="none"),
        key_document(unknown=1),
        key_document(not_before="2999-01-01T00:00:00Z"),
        json.dumps({"keys": json.loads(key_document())["keys"] * 2}),
    ],
)
async def test_a_server_does_not_start_with_invalid_keys(
    text: str, db: AsyncDatabaseManager, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SigningKeyError) as caught:
        Ring(db, Settings(receipt_key_file=path))
    assert SEED not in str(caught.value)
    if text:
        with pytest.raises(SigningKeyError):
            Ring(db, Settings.model_validate({"receipt_keys": text}))


@pytest.mark.parametrize("x", SMALL_ORDER)
def test_keys_of_small_order_are_rejected_from_every_source(x: str) -> None:
    async def sign(_: bytes) -> bytes:
        return bytes(64)

    with pytest.raises(SigningKeyError):
        signing_keys.decode_public_key(x)
    with pytest.raises(SigningKeyError):
        Keyring([SigningKey(signing_keys.decode_key_bytes(x), "active")], sign)


async def test_a_signer_with_another_key_is_rejected(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    async def sign(data: bytes) -> bytes:
        return signing_keys.new_private_key().sign(data)

    ring = Ring(db, keyring=Keyring(list(keyring().keys.values()), sign))
    await log_calls(ring, project_id, {})
    with pytest.raises(SigningKeyError):
        await ring.receipts.generate(project_id, UNCERTIFIED)
    assert (await ring.receipts.list(project_id))["total"] == 0
    assert (await ring.receipts.uncertified(project_id))["total"] == 1


# Sources of keys.


def test_keys_come_from_one_setting(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Settings(receipt_key_file=tmp_path, receipts_private_key_b64=SEED)
    document = Settings.from_env({"LLMRING_RECEIPT_KEYS": key_document()})
    assert signing_keys.keyring_source(document)() is not None


def test_a_single_key_is_read_as_older_servers_read_it() -> None:
    environment = {
        "LLMRING_RECEIPTS_PRIVATE_KEY_B64": SEED + "=",
        "LLMRING_RECEIPTS_PUBLIC_KEY_B64": base64url(keyring().active.public),
    }
    settings = Settings.from_env(environment)
    single = signing_keys.keyring_source(settings)()
    assert single is not None
    assert single.active.kid == KID
    assert SEED not in repr(settings)
    with pytest.raises(SigningKeyError):
        signing_keys.keyring_source(settings.model_copy(update={"receipts_public_key_b64": SEED}))


# The key file.


async def test_a_key_file_that_is_missing_or_open_to_others_is_rejected(
    db: AsyncDatabaseManager, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(SigningKeyError, match="cannot be read"):
        Ring(db, Settings(receipt_key_file=path))
    path.write_text(key_document())
    path.chmod(0o644)
    with pytest.raises(SigningKeyError, match="open to other users"):
        Ring(db, Settings(receipt_key_file=path))


async def test_a_key_file_that_breaks_stops_signing_and_nothing_else(
    db: AsyncDatabaseManager, project_id: ProjectId, key_file: Path
) -> None:
    ring = Ring(db, Settings(receipt_key_file=key_file))
    break_file(key_file)
    await log_calls(ring, project_id, {})
    logged = await ring.conversations.log(project_id, Exchange.model_validate(EXCHANGE))
    assert logged.receipt is None
    assert (await ring.receipts.uncertified(project_id))["total"] == 2
    with pytest.raises(SigningKeyError):
        await ring.receipts.generate(project_id, UNCERTIFIED)


def break_file(path: Path) -> None:
    path.write_text("{")


def test_rotation_keeps_owner_group_and_mode_of_the_key_file(key_file: Path) -> None:
    owner = (12345, 23456) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(key_file, *owner)
    key_file.chmod(0o640)
    signing_keys.rotate_key_file(key_file)
    stat = key_file.stat()
    assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o777) == (*owner, 0o640)


def test_concurrent_rotations_announce_one_key(key_file: Path) -> None:
    def rotate(_: int) -> str | None:
        try:
            return signing_keys.rotate_key_file(key_file).kid
        except SigningKeyError:
            return None

    with ThreadPoolExecutor(8) as threads:
        announced = [kid for kid in threads.map(rotate, range(32)) if kid]
    keys = signing_keys.read_key_file(key_file).keys
    assert announced == [key.kid for key in keys if key.state == "next"]


def test_an_existing_key_file_is_not_replaced(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_file.read_bytes()
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(SigningKeyError, match="already exists"):
        signing_keys.create_key_file(key_file)
    assert key_file.read_bytes() == before


@pytest.mark.parametrize(
    "write",
    [
        signing_keys.create_key_file,
        signing_keys.rotate_key_file,
        signing_keys.compromise_key_file,
    ],
)
def test_a_key_file_that_cannot_be_written_is_an_error_with_the_reason(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(SigningKeyError, match="cannot be written: No such file or directory"):
        write(tmp_path / "missing" / "keys.json")


def test_a_failed_write_leaves_no_private_keys_behind(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = key_file.read_bytes()
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(SigningKeyError, match="cannot be written: No space left on device"):
        signing_keys.rotate_key_file(key_file)
    contents = [file.read_bytes() for file in key_file.parent.iterdir()]
    assert [content for content in contents if content] == [before]


# Rotation.


def test_a_stolen_key_file_contains_no_key_that_is_still_trusted(key_file: Path) -> None:
    signing_keys.rotate_key_file(key_file)
    stolen = {key.kid for key in signing_keys.read_key_file(key_file).keys}
    new = signing_keys.compromise_key_file(key_file)
    assert new.kid not in stolen
    keys = signing_keys.read_key_file(key_file).keys
    states = {key.kid: key.state for key in keys}
    assert states == dict.fromkeys(stolen, "compromised") | {new.kid: "active"}
    assert new.not_before
    assert new.not_before <= datetime.now(UTC)
    assert [key.kid for key in keys if key.d] == [new.kid]


async def test_all_receipts_verify_after_five_rotations(
    db: AsyncDatabaseManager, project_id: ProjectId, key_file: Path
) -> None:
    ring = Ring(db, Settings(receipt_key_file=key_file))
    receipts = []
    for rotations in range(6):
        await log_calls(ring, project_id, {}, {})
        result = await ring.receipts.generate(project_id, UNCERTIFIED)
        receipts.append(result["receipt"])
        rotate_completely(key_file, ring)
        assert len(signing_keys.read_key_file(key_file).keys) == rotations + 2
    envelopes = [receipt["envelope"] for receipt in receipts]
    assert len({envelope["signature"]["kid"] for envelope in envelopes if envelope}) == 6
    assert all(ring.receipts.verify(document)["valid"] for document in [*receipts, *envelopes])
    assert signing_keys.read_key_file(key_file).keys[0].d is None


async def test_receipts_of_a_compromised_key_are_replaced(
    db: AsyncDatabaseManager, project_id: ProjectId, key_file: Path
) -> None:
    ring = Ring(db, Settings(receipt_key_file=key_file))
    await log_calls(ring, project_id, {})
    retired = (await ring.receipts.generate(project_id, UNCERTIFIED))["receipt"]
    rotate_completely(key_file, ring)
    await log_calls(ring, project_id, {})
    compromised = (await ring.receipts.generate(project_id, UNCERTIFIED))["receipt"]
    log_id = (await ring.usage.logs(project_id))[0].id
    assert await ring.receipts.issue(project_id, log_id) == compromised
    signing_keys.compromise_key_file(key_file)
    assert await ring.receipts.issue(project_id, log_id) != compromised
    assert not ring.receipts.verify(compromised)["valid"]
    assert ring.receipts.verify(retired)["valid"]


def rotate_completely(path: Path, ring: Ring) -> None:
    """Announce a key, let a day pass, and activate it."""
    announced = signing_keys.rotate_key_file(path)
    published = ring.receipts.keyring
    assert published is not None
    assert published.keys[announced.kid].state == "next"
    assert published.active.kid != announced.kid
    with pytest.raises(SigningKeyError, match="may sign from"):
        signing_keys.rotate_key_file(path)
    assert announced.not_before
    assert announced.not_before - datetime.now(UTC) > timedelta(hours=23, minutes=59)
    let_a_day_pass(path)
    assert signing_keys.rotate_key_file(path).state == "active"


def let_a_day_pass(path: Path) -> None:
    document = KeyDocument.parse(path.read_bytes())
    for key in document.keys:
        if key.not_before:
            key.not_before -= timedelta(days=1)
    path.write_text(document.model_dump_json())
