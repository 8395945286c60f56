"""What ends while a receipt is made: its project, what signs, its snapshot."""

import asyncio

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, signing
from llmring_server.caller import LIBRARY
from llmring_server.errors import Invalid
from llmring_server.exchange import Exchange
from llmring_server.keyring import Keyring, Sign
from llmring_server.signing import BadKey
from llmring_server.tenant import Tenant
from tests.signers import SEED, called, keyring
from tests.test_certifying import CHAT, REST


def signed_by(db: AsyncDatabaseManager, sign: Sign) -> Ring:
    full = Settings(conversation_content="full")
    return Ring(db, full, Keyring([*keyring().keys.values()], sign))


async def test_a_receipt_that_is_made_while_its_project_is_erased_is_erased(
    owner: AsyncDatabaseManager, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.projects.LATECOMERS", 0)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def sign(data: bytes) -> bytes:
        asked.set()
        await go_on.wait()
        return signing.private(SEED).sign(data)

    ring = signed_by(owner, sign)
    await called(ring, tenant, {}, {})
    making = asyncio.create_task(ring.receipts.generate(tenant, REST))
    await asked.wait()
    erasing = asyncio.create_task(drained(ring, tenant))
    await asyncio.wait({erasing}, timeout=0.3)
    go_on.set()
    await making
    await erasing
    assert (await ring.receipts.list(tenant))["total"] == 0
    count = "SELECT count(*) FROM {{tables.receipt_calls}} WHERE tenant = $1"
    assert await owner.fetch_value(count, tenant) == 0


async def drained(ring: Ring, tenant: Tenant) -> None:
    await ring.projects.erase(tenant, actor=LIBRARY)


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
    db: AsyncDatabaseManager, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, sign: Sign
) -> None:
    monkeypatch.setattr("llmring_server.keyring.PATIENCE", 0.05)
    ring = signed_by(db, sign)
    assert (await ring.conversations.log(tenant, Exchange.model_validate(CHAT))).receipt is None
    assert len(await ring.usage.logs(tenant)) == 1
    with pytest.raises(BadKey):
        await ring.receipts.generate(tenant, REST)


async def test_a_snapshot_of_before_the_lock_makes_no_receipt(
    db: AsyncDatabaseManager, tenant: Tenant
) -> None:
    ring = Ring(db, keyring=keyring())
    await called(ring, tenant, {})
    async with db.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        with pytest.raises(Invalid, match="READ COMMITTED"):
            await ring.within(connection).receipts.generate(tenant, REST)


async def test_who_waits_for_the_lock_certifies_what_is_left_then(
    db: AsyncDatabaseManager, tenant: Tenant
) -> None:
    ring = Ring(db, keyring=keyring())
    await called(ring, tenant, {}, {})
    async with db.transaction() as transaction:
        await ring.within(transaction).receipts.generate(tenant, REST)
        waiting = asyncio.create_task(ring.receipts.generate(tenant, REST))
        locked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not (waiting.done() or await db.fetch_value(locked)):  # noqa: ASYNC110, no event tells
            await asyncio.sleep(0.01)
        [late] = await called(ring, tenant, {})
    told = (await waiting)["receipt"]
    assert told["envelope"]
    assert told["envelope"]["receipt"]["log_id"] == late
