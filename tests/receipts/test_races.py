"""What ends while a receipt is made: its project, what signs, its snapshot."""

import asyncio

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.conversations.exchange import Exchange
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import InvalidRequest
from llmring_server.receipts import signing_keys
from llmring_server.receipts.signing_keys import Keyring, Sign, SigningKeyError
from tests.receipts.test_exchange_receipts import CHAT, REST
from tests.support.signing import SEED, called, keyring


def signed_by(db: AsyncDatabaseManager, sign: Sign) -> Ring:
    full = Settings(conversation_content="full")
    return Ring(db, full, Keyring([*keyring().keys.values()], sign))


async def test_a_receipt_that_is_made_while_its_project_is_erased_is_erased(
    owner: AsyncDatabaseManager, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.access.projects.ERASE_GRACE_SECONDS", 0)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def sign(data: bytes) -> bytes:
        asked.set()
        await go_on.wait()
        return signing_keys.decode_private_key(SEED).sign(data)

    ring = signed_by(owner, sign)
    await called(ring, project_id, {}, {})
    making = asyncio.create_task(ring.receipts.generate(project_id, REST))
    await asked.wait()
    erasing = asyncio.create_task(drained(ring, project_id))
    await asyncio.wait({erasing}, timeout=0.3)
    go_on.set()
    await making
    await erasing
    assert (await ring.receipts.list(project_id))["total"] == 0
    count = "SELECT count(*) FROM {{tables.receipt_calls}} WHERE project_id = $1"
    assert await owner.fetch_value(count, project_id) == 0


async def drained(ring: Ring, project_id: ProjectId) -> None:
    await ring.projects.erase(project_id, actor=LIBRARY)


async def down(_: bytes) -> bytes:
    raise RuntimeError


async def silent(_: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


async def lost(_: bytes) -> bytes:
    raise ConnectionResetError


async def confused(_: bytes) -> bytes:
    return None  # type: ignore[return-value]  # as anyone's code may


@pytest.mark.parametrize("sign", [down, silent, lost, confused])
async def test_what_signs_may_fail_and_no_chat_is_lost(
    db: AsyncDatabaseManager, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch, sign: Sign
) -> None:
    monkeypatch.setattr("llmring_server.receipts.signing_keys.SIGN_TIMEOUT_SECONDS", 0.05)
    ring = signed_by(db, sign)
    assert (await ring.conversations.log(project_id, Exchange.model_validate(CHAT))).receipt is None
    assert len(await ring.usage.logs(project_id)) == 1
    with pytest.raises(SigningKeyError):
        await ring.receipts.generate(project_id, REST)


async def test_a_snapshot_of_before_the_lock_makes_no_receipt(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, keyring=keyring())
    await called(ring, project_id, {})
    async with db.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        with pytest.raises(InvalidRequest, match="READ COMMITTED"):
            await ring.within(connection).receipts.generate(project_id, REST)


async def test_who_waits_for_the_lock_certifies_what_is_left_then(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, keyring=keyring())
    await called(ring, project_id, {}, {})
    async with db.transaction() as transaction:
        await ring.within(transaction).receipts.generate(project_id, REST)
        waiting = asyncio.create_task(ring.receipts.generate(project_id, REST))
        locked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not (waiting.done() or await db.fetch_value(locked)):  # noqa: ASYNC110, no event tells
            await asyncio.sleep(0.01)
        [late] = await called(ring, project_id, {})
    told = (await waiting)["receipt"]
    assert told["envelope"]
    assert told["envelope"]["receipt"]["log_id"] == late
