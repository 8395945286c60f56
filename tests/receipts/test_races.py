"""Receipts and what can happen while one is issued: erasure, a failing signer, other receipts."""

import asyncio

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.conversations.exchange import Exchange
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import InvalidRequest
from llmring_server.receipts import Keyring, SigningKeyError, signing_keys
from llmring_server.receipts.signing_keys import Sign
from tests.support.receipts import EXCHANGE, UNCERTIFIED, log_calls
from tests.support.signing import SEED, keyring


def ring_with_signer(db: AsyncDatabaseManager, sign: Sign) -> Ring:
    keys = list(keyring().keys.values())
    return Ring(db, Settings(conversation_content="full"), Keyring(keys, sign))


async def test_a_receipt_that_is_issued_during_an_erasure_is_erased(
    owner: AsyncDatabaseManager, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.access.projects.ERASE_GRACE_SECONDS", 0)
    signing, may_sign = asyncio.Event(), asyncio.Event()

    async def sign(data: bytes) -> bytes:
        signing.set()
        await may_sign.wait()
        return signing_keys.decode_private_key(SEED).sign(data)

    async def erase() -> None:
        await ring.projects.erase(project_id, actor=LIBRARY)

    ring = ring_with_signer(owner, sign)
    await log_calls(ring, project_id, {}, {})
    generating = asyncio.create_task(ring.receipts.generate(project_id, UNCERTIFIED))
    await signing.wait()
    erasing = asyncio.create_task(erase())
    await asyncio.wait({erasing}, timeout=0.3)
    may_sign.set()
    await generating
    await erasing
    assert (await ring.receipts.list(project_id))["total"] == 0
    count = "SELECT count(*) FROM {{tables.receipt_calls}} WHERE project_id = $1"
    assert await owner.fetch_value(count, project_id) == 0


async def fails(_: bytes) -> bytes:
    raise RuntimeError


async def hangs(_: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


async def disconnects(_: bytes) -> bytes:
    raise ConnectionResetError


async def returns_none(_: bytes) -> bytes:
    return None  # type: ignore[return-value]  # as anyone's code may


@pytest.mark.parametrize("sign", [fails, hangs, disconnects, returns_none])
async def test_an_exchange_is_stored_although_signing_fails(
    db: AsyncDatabaseManager, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch, sign: Sign
) -> None:
    monkeypatch.setattr("llmring_server.receipts.signing_keys.SIGN_TIMEOUT_SECONDS", 0.05)
    ring = ring_with_signer(db, sign)
    logged = await ring.conversations.log(project_id, Exchange.model_validate(EXCHANGE))
    assert logged.receipt is None
    assert len(await ring.usage.logs(project_id)) == 1
    with pytest.raises(SigningKeyError):
        await ring.receipts.generate(project_id, UNCERTIFIED)


async def test_a_snapshot_from_before_the_lock_is_rejected(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, keyring=keyring())
    await log_calls(ring, project_id, {})
    async with db.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        with pytest.raises(InvalidRequest, match="READ COMMITTED"):
            await ring.within(connection).receipts.generate(project_id, UNCERTIFIED)


async def test_a_receipt_that_waits_for_the_lock_certifies_what_is_left_then(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, keyring=keyring())
    await log_calls(ring, project_id, {}, {})
    async with db.transaction() as transaction:
        await ring.within(transaction).receipts.generate(project_id, UNCERTIFIED)
        waiting = asyncio.create_task(ring.receipts.generate(project_id, UNCERTIFIED))
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not (waiting.done() or await db.fetch_value(waits)):  # noqa: ASYNC110, no event tells
            await asyncio.sleep(0.01)
        [late] = await log_calls(ring, project_id, {})
    envelope = (await waiting)["receipt"]["envelope"]
    assert envelope
    assert envelope["receipt"]["log_id"] == late
