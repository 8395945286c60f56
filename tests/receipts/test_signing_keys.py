"""The keys of receipts: what is refused, how they turn over, how they are published."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pgdbm import AsyncDatabaseManager
from pydantic import ValidationError

from llmring_server import Ring, Settings
from llmring_server.conversations.exchange import Exchange
from llmring_server.core.identity import ProjectId
from llmring_server.receipts import signing_keys
from llmring_server.receipts.models import ReceiptRequest
from llmring_server.receipts.signing_keys import (
    KeyDocument,
    Keyring,
    SigningKey,
    SigningKeyError,
    stored_key,
)
from llmring_verify.receipt import base64url
from tests.receipts.test_exchange_receipts import CHAT
from tests.receipts.test_generate import ring, settings
from tests.support.signing import KID, SEED, called, keyring

__all__ = ["ring", "settings"]

SMALL = [base64url(bytes([1]) + bytes(31)), base64url(bytes(32)), base64url(b"\xec" + b"\xff" * 31)]


def document(**change: Any) -> str:
    key = stored_key(signing_keys.decode_private_key(SEED), "active").model_dump(mode="json")
    return json.dumps({"keys": [key | change]})


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", '{"keys":[]}', '{"keys":[{}]}',
        document(kid="00000000"), document(x=base64url(bytes(31))), document(x=SMALL[0]),
        document(x=SMALL[1]), document(x="!" * 43), document(d="AA"), document(state="next"),
        document(state="compromised"), document(d=None), document(d=base64url(bytes(32))),
        document(alg="none"), document(unknown=1), document(not_before="2999-01-01T00:00:00Z"),
        json.dumps({"keys": json.loads(document())["keys"] * 2}),
    ],
)  # fmt: skip
async def test_a_key_that_proves_nothing_stops_the_start(
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


@pytest.mark.parametrize("x", SMALL)
def test_a_key_of_small_order_is_refused_wherever_it_comes_from(x: str) -> None:
    async def sign(_: bytes) -> bytes:
        return bytes(64)

    with pytest.raises(SigningKeyError):
        signing_keys.decode_public_key(x)
    with pytest.raises(SigningKeyError):
        Keyring([SigningKey(signing_keys.decode_key_bytes(x), "active")], sign)


async def test_a_file_that_others_can_read_or_that_is_not_there_is_refused(
    db: AsyncDatabaseManager, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(SigningKeyError):
        Ring(db, Settings(receipt_key_file=path))
    path.write_text(document())
    path.chmod(0o644)
    with pytest.raises(SigningKeyError, match="open to other users"):
        Ring(db, Settings(receipt_key_file=path))


def test_keys_come_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Settings(receipt_key_file=tmp_path, receipts_private_key_b64=SEED)
    public = base64url(keyring().active.public)
    old = {
        "LLMRING_RECEIPTS_PRIVATE_KEY_B64": SEED + "=",
        "LLMRING_RECEIPTS_PUBLIC_KEY_B64": public,
    }
    settings = Settings.from_env(old)
    found = signing_keys.keyring_source(settings)()
    assert found is not None
    assert found.active.kid == KID
    assert SEED not in repr(settings)
    with pytest.raises(SigningKeyError):
        signing_keys.keyring_source(settings.model_copy(update={"receipts_public_key_b64": SEED}))
    given = Settings.from_env({"LLMRING_RECEIPT_KEYS": document()})
    assert signing_keys.keyring_source(given)() is not None


async def test_what_signs_with_another_key_is_found_out(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    async def sign(data: bytes) -> bytes:
        return signing_keys.new_private_key().sign(data)

    ring = Ring(db, keyring=Keyring(list(keyring().keys.values()), sign))
    await called(ring, project_id, {})
    with pytest.raises(SigningKeyError):
        await ring.receipts.generate(project_id, ReceiptRequest(since_last_receipt=True))
    assert (await ring.receipts.list(project_id))["total"] == 0
    assert (await ring.receipts.uncertified(project_id))["total"] == 1


async def test_after_five_rotations_all_receipts_verify(
    db: AsyncDatabaseManager, project_id: ProjectId, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    signing_keys.create_key_file(path)
    ring = Ring(db, Settings(receipt_key_file=path))
    receipts = []
    for step in range(6):
        await called(ring, project_id, {}, {})
        made = await ring.receipts.generate(project_id, ReceiptRequest(since_last_receipt=True))
        receipts.append(made["receipt"])
        turn_over(path, ring)
        assert len(signing_keys.read_key_file(path).keys) == step + 2
    envelopes = [each["envelope"] for each in receipts]
    assert len({each["signature"]["kid"] for each in envelopes if each}) == 6
    assert all(ring.receipts.verify(each)["valid"] for each in [*receipts, *envelopes])
    assert "d" not in json.loads(path.read_text())["keys"][0]
    # What the key that signs now has signed is in doubt, if it is known to others.
    await called(ring, project_id, {})
    last = (await ring.receipts.generate(project_id, ReceiptRequest(since_last_receipt=True)))[
        "receipt"
    ]
    log_id = (await ring.usage.logs(project_id))[0].id
    one = await ring.receipts.issue(project_id, log_id)
    signing_keys.compromise_key_file(path)
    assert await ring.receipts.issue(project_id, log_id) != one
    assert not ring.receipts.verify(last)["valid"]
    assert all(ring.receipts.verify(each)["valid"] for each in receipts)


def turn_over(path: Path, ring: Ring) -> None:
    announced = signing_keys.rotate_key_file(path)
    known = ring.receipts.keyring
    assert known is not None
    assert known.keys[announced.kid].state == "next"
    assert known.active.kid != announced.kid
    with pytest.raises(SigningKeyError, match="may sign from"):
        signing_keys.rotate_key_file(path)
    assert announced.not_before
    assert announced.not_before - datetime.now(UTC) > timedelta(hours=23, minutes=59)
    let_a_day_pass(path)
    assert signing_keys.rotate_key_file(path).state == "active"


def let_a_day_pass(path: Path) -> None:
    keys = KeyDocument.parse(path.read_bytes())
    for each in keys.keys:
        each.not_before = each.not_before and each.not_before - timedelta(days=1)
    path.write_text(keys.model_dump_json())


async def test_a_file_that_breaks_stops_signing_and_nothing_else(
    db: AsyncDatabaseManager, project_id: ProjectId, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    signing_keys.create_key_file(path)
    ring = Ring(db, Settings(receipt_key_file=path))
    path.write_text("{")
    await called(ring, project_id, {})
    chat = await ring.conversations.log(project_id, Exchange.model_validate(CHAT))
    assert chat.receipt is None
    assert (await ring.receipts.uncertified(project_id))["total"] == 2
    with pytest.raises(SigningKeyError):
        await ring.receipts.generate(project_id, ReceiptRequest(since_last_receipt=True))
