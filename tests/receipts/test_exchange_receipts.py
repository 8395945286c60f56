"""Receipts of chats, receipts off, receipts in a caller's transaction, and their end."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.conversations.exchange import Exchange
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest, LockTimeout
from llmring_server.receipts.models import ReceiptRequest
from tests.conftest import CALL
from tests.receipts.test_generate import ALL, PATH, made, proved, ring, settings
from tests.support.signing import called

__all__ = ["ring", "settings"]

REST = ReceiptRequest(since_last_receipt=True)
# As the decorators report a call: there is no other report of it.
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "response": {"content": "hello", "model": "gpt-4o-mini"},
    "metadata": {
        "provider": "openai", "model": "gpt-4o-mini", "alias": "fast", "input_tokens": 10,
        "output_tokens": 2, "cost": 0.5,
    },
}  # fmt: skip


async def test_a_logged_exchange_has_a_receipt_once(
    client: httpx.AsyncClient,
) -> None:
    headers = {"Idempotency-Key": "once"}
    answer = (await client.post("/api/v1/conversations/log", json=CHAT, headers=headers)).json()
    body = proved(answer["receipt"])
    assert (body["kind"], body["log_id"]) == ("usage", answer["log_id"])
    assert (body["conversation_id"], body["alias"]) == (answer["conversation_id"], "fast")
    assert (answer["receipt"]["total_cost"], answer["receipt"]["total_tokens"]) == (0.5, 12)
    again = (await client.post("/api/v1/conversations/log", json=CHAT, headers=headers)).json()
    assert again == answer
    # The conversation and its call are one thing, and it is certified.
    assert (await client.post(f"{PATH}/generate", json=ALL)).status_code == 400
    assert (await client.get(f"{PATH}/uncertified")).json()["total"] == 0
    assert (await client.get(PATH)).json()["total"] == 1
    whole = await made(client, conversation_id=answer["conversation_id"])
    assert whole["receipt"]["total_cost"] == 0.5


async def test_an_exchange_without_token_counts_has_a_receipt(client: httpx.AsyncClient) -> None:
    terms = {"provider": "openai", "model": "gpt-4o-mini"}
    answer = await client.post("/api/v1/conversations/log", json=CHAT | {"metadata": terms})
    told = answer.json()["receipt"]
    assert (told["total_tokens"], told["alias"], told["profile"]) == (0, "default", "default")


async def test_a_call_that_json_cannot_count_is_stored_without_a_receipt(
    client: httpx.AsyncClient,
) -> None:
    most = {"input_tokens": 2**53 - 1, "output_tokens": 1}
    sent = CHAT | {"metadata": CHAT["metadata"] | most}
    answer = (await client.post("/api/v1/conversations/log", json=sent)).json()
    assert answer["receipt"] is None
    assert (await client.get(f"{PATH}/uncertified")).json()["total"] == 1
    refused = await client.post(f"{PATH}/generate", json=ALL)
    assert refused.status_code == 422
    assert (await client.get(PATH)).json()["total"] == 0


async def test_receipts_go_with_the_caller_s_transaction(ring: Ring, project_id: ProjectId) -> None:
    async with ring.db.transaction() as transaction:
        inside = ring.within(transaction)
        await called(inside, project_id, {}, {})
        assert (await inside.receipts.generate(project_id, REST))["certified_count"] == 2
        exchange = Exchange.model_validate(CHAT)
        assert (await inside.conversations.log(project_id, exchange)).receipt
        assert (await inside.receipts.list(project_id))["total"] == 2
    assert (await ring.receipts.list(project_id))["total"] == 2


async def test_receipts_go_back_with_the_caller_s_transaction(
    ring: Ring, project_id: ProjectId
) -> None:
    async def fail() -> None:
        async with ring.db.transaction() as transaction:
            inside = ring.within(transaction)
            await called(inside, project_id, {})
            await inside.receipts.generate(project_id, REST)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert (await ring.receipts.list(project_id))["total"] == 0
    assert (await ring.receipts.uncertified(project_id))["total"] == 0


async def test_two_that_certify_the_rest_do_not_certify_the_same(
    ring: Ring, project_id: ProjectId
) -> None:
    await called(ring, project_id, {}, {})
    async with ring.db.transaction() as transaction:
        await ring.within(transaction).receipts.generate(project_id, REST)
        async with ring.db.transaction() as other:
            await other.execute("SET LOCAL lock_timeout = '50ms'")
            with pytest.raises(LockTimeout):
                await ring.within(other).receipts.generate(project_id, REST)
    assert (await ring.receipts.list(project_id))["total"] == 1


async def test_what_fails_half_way_leaves_nothing(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    await called(ring, project_id, *[{}] * 7)
    monkeypatch.setattr("llmring_server.receipts.selection.BATCH_SIZE", 2)
    monkeypatch.setattr("llmring_server.receipts.selection.MAX_CALLS", 4)
    for act in (ring.receipts.preview, ring.receipts.generate):
        with pytest.raises(InvalidRequest, match="More than 4 calls"):
            await act(
                project_id,
                ReceiptRequest.model_validate(
                    {"start_date": "2026-01-01", "end_date": "2999-01-01"}
                ),
            )
    assert (await ring.receipts.list(project_id))["total"] == 0
    assert (await ring.receipts.uncertified(project_id))["total"] == 7


async def test_without_a_key_receipts_are_off_and_calls_are_stored(
    db: AsyncDatabaseManager, key: str
) -> None:
    app = build(db, Settings(auth="open"))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"X-API-Key": key}
    ) as client:
        id = (await client.post("/api/v1/log", json=CALL)).json()["log_id"]
        for path, body in (("generate", ALL), ("issue", {"log_id": id})):
            answer = await client.post(f"{PATH}/{path}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (409, "receipts_not_configured")
        for path in (f"{PATH}/public-key.pem", "/receipts/public-keys.json"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["detail"]) == (
                404, "Public key not configured",
            )  # fmt: skip
        assert (await client.get(f"{PATH}/uncertified")).json()["total"] == 1
        assert (await client.post(f"{PATH}/preview", json=ALL)).json()["total_logs"] == 1


async def test_a_summary_is_bounded_and_adds_up(ring: Ring, project_id: ProjectId) -> None:
    await called(
        ring,
        project_id,
        *[{"model": f"m{n}", "metadata": {"conversation_id": str(uuid4())}} for n in range(105)],
    )
    summary = (await ring.receipts.generate(project_id, REST))["receipt"]["batch_summary"]
    assert summary
    assert (summary["total_calls"], summary["total_conversations"]) == (105, 105)
    assert len(summary["by_model"]) == 101
    assert summary["by_model"]["(others)"]["calls"] == 5
    assert sum(each["calls"] for each in summary["by_model"].values()) == 105
    assert (len(summary["log_ids"]), len(summary["conversation_ids"])) == (100, 100)
