"""Receipts of logged exchanges, receipts in a caller's transaction, and receipts that are off."""

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.conversations.exchange import Exchange
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest, LockTimeout
from llmring_server.receipts import ReceiptRequest
from tests.conftest import CALL
from tests.support.receipts import (
    EXCHANGE,
    PATH,
    UNCERTIFIED,
    UNCERTIFIED_BODY,
    generate,
    log_calls,
    verified_body,
)


async def test_a_logged_exchange_has_one_receipt(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    response = await client.post("/api/v1/conversations/log", json=EXCHANGE, headers=headers)
    logged = response.json()
    body = verified_body(logged["receipt"])
    assert (body["kind"], body["log_id"]) == ("usage", logged["log_id"])
    assert (body["conversation_id"], body["alias"]) == (logged["conversation_id"], "fast")
    assert (logged["receipt"]["total_cost"], logged["receipt"]["total_tokens"]) == (0.5, 12)
    again = await client.post("/api/v1/conversations/log", json=EXCHANGE, headers=headers)
    assert again.json() == logged
    # The exchange and its call are the same call, and it is certified.
    assert (await client.post(f"{PATH}/generate", json=UNCERTIFIED_BODY)).status_code == 400
    assert (await client.get(f"{PATH}/uncertified")).json()["total"] == 0
    assert (await client.get(PATH)).json()["total"] == 1
    result = await generate(client, conversation_id=logged["conversation_id"])
    assert result["receipt"]["total_cost"] == 0.5


async def test_the_reply_of_an_exchange_tells_its_receipt(client: httpx.AsyncClient) -> None:
    logged = (await client.post("/api/v1/conversations/log", json=EXCHANGE)).json()
    receipt_id = logged["receipt"]["receipt_id"]
    # A later receipt for the whole conversation does not replace the one of the call.
    await generate(client, conversation_id=logged["conversation_id"])
    path = f"/api/v1/conversations/{logged['conversation_id']}"
    for found in (
        (await client.get(path)).json()["messages"],
        (await client.get(f"{path}/messages")).json(),
        (await client.get(f"{path}/messages?order=desc")).json()[::-1],
    ):
        *sent, reply = [message["receipt_id"] for message in found]
        assert (set(sent), reply) == ({None}, receipt_id)
    assert (await client.get(f"{PATH}/{receipt_id}")).json() == logged["receipt"]


async def test_a_reply_tells_the_receipt_that_certifies_its_call_with_others(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId, db: AsyncDatabaseManager
) -> None:
    unsigned = Ring(db, Settings()).conversations
    exchange = Exchange.model_validate(EXCHANGE)
    results = [await unsigned.log(project_id, exchange) for _ in range(2)]
    assert results[0].messages[-1].receipt_id is None
    expected = (await generate(client, since_last_receipt=True))["receipt"]["receipt_id"]
    for result in results:
        found = await ring.conversations.messages(project_id, result.conversation_id)
        assert found[-1].receipt_id == expected
    issued = await client.post(f"{PATH}/issue", json={"log_id": str(results[0].messages[-1].id)})
    found = await ring.conversations.messages(project_id, results[0].conversation_id)
    assert found[-1].receipt_id == issued.json()["receipt_id"] != expected


async def test_an_exchange_without_token_counts_has_a_receipt(client: httpx.AsyncClient) -> None:
    exchange = EXCHANGE | {"metadata": {"provider": "openai", "model": "gpt-4o-mini"}}
    response = await client.post("/api/v1/conversations/log", json=exchange)
    receipt = response.json()["receipt"]
    assert receipt["total_tokens"] == 0
    assert (receipt["alias"], receipt["profile"]) == ("default", "default")


async def test_an_exchange_that_json_cannot_count_is_stored_without_a_receipt(
    client: httpx.AsyncClient,
) -> None:
    uncountable = {"input_tokens": 2**53 - 1, "output_tokens": 1}
    exchange = EXCHANGE | {"metadata": EXCHANGE["metadata"] | uncountable}
    response = await client.post("/api/v1/conversations/log", json=exchange)
    assert response.json()["receipt"] is None
    assert (await client.get(f"{PATH}/uncertified")).json()["total"] == 1
    rejected = await client.post(f"{PATH}/generate", json=UNCERTIFIED_BODY)
    assert rejected.status_code == 422
    assert (await client.get(PATH)).json()["total"] == 0


async def test_receipts_commit_with_the_caller_s_transaction(
    ring: Ring, project_id: ProjectId
) -> None:
    async with ring.db.transaction() as transaction:
        inside = ring.within(transaction)
        await log_calls(inside, project_id, {}, {})
        assert (await inside.receipts.generate(project_id, UNCERTIFIED))["certified_count"] == 2
        exchange = Exchange.model_validate(EXCHANGE)
        assert (await inside.conversations.log(project_id, exchange)).receipt
        assert (await inside.receipts.list(project_id))["total"] == 2
    assert (await ring.receipts.list(project_id))["total"] == 2


async def test_receipts_roll_back_with_the_caller_s_transaction(
    ring: Ring, project_id: ProjectId
) -> None:
    async def fail() -> None:
        async with ring.db.transaction() as transaction:
            inside = ring.within(transaction)
            await log_calls(inside, project_id, {})
            await inside.receipts.generate(project_id, UNCERTIFIED)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert (await ring.receipts.list(project_id))["total"] == 0
    assert (await ring.receipts.uncertified(project_id))["total"] == 0


async def test_concurrent_receipts_of_uncertified_calls_wait_for_each_other(
    ring: Ring, project_id: ProjectId
) -> None:
    await log_calls(ring, project_id, {}, {})
    async with ring.db.transaction() as transaction:
        await ring.within(transaction).receipts.generate(project_id, UNCERTIFIED)
        async with ring.db.transaction() as other:
            await other.execute("SET LOCAL lock_timeout = '50ms'")
            with pytest.raises(LockTimeout):
                await ring.within(other).receipts.generate(project_id, UNCERTIFIED)
    assert (await ring.receipts.list(project_id))["total"] == 1


async def test_a_receipt_that_fails_half_way_stores_nothing(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log_calls(ring, project_id, *[{}] * 7)
    monkeypatch.setattr("llmring_server.receipts.selection.BATCH_SIZE", 2)
    monkeypatch.setattr("llmring_server.receipts.selection.MAX_CALLS", 4)
    period = {"start_date": "2026-01-01", "end_date": "2999-01-01"}
    request = ReceiptRequest.model_validate(period)
    for certify in (ring.receipts.preview, ring.receipts.generate):
        with pytest.raises(InvalidRequest, match="More than 4 calls"):
            await certify(project_id, request)
    assert (await ring.receipts.list(project_id))["total"] == 0
    assert (await ring.receipts.uncertified(project_id))["total"] == 7


async def test_without_a_key_receipts_are_off_and_calls_are_stored(
    db: AsyncDatabaseManager, key: str
) -> None:
    transport = httpx.ASGITransport(app=build(db, Settings(auth="open")))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"X-API-Key": key}
    ) as client:
        log_id = (await client.post("/api/v1/log", json=CALL)).json()["log_id"]
        for path, body in (("generate", UNCERTIFIED_BODY), ("issue", {"log_id": log_id})):
            response = await client.post(f"{PATH}/{path}", json=body)
            assert response.status_code == 409
            assert response.json()["code"] == "receipts_not_configured"
        for path in (f"{PATH}/public-key.pem", "/receipts/public-keys.json"):
            response = await client.get(path)
            assert response.status_code == 404
            assert response.json()["detail"] == "Public key not configured"
        assert (await client.get(f"{PATH}/uncertified")).json()["total"] == 1
        preview = await client.post(f"{PATH}/preview", json=UNCERTIFIED_BODY)
        assert preview.json()["total_logs"] == 1
