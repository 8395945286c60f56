"""POST /conversations/log: an exchange is kept once, whole, and counted once."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.conversations.exchange import Exchange
from llmring_server.core.identity import ProjectId
from llmring_server.errors import NotFound

LOG = "/api/v1/conversations/log"

# As a decorator tells it: nobody else will.
TERMS: dict[str, Any] = {
    "provider": "openai",
    "model": "gpt-4o",
    "alias": "fast",
    "origin": "app",
    "input_tokens": 1000,
    "output_tokens": 200,
    "cached_tokens": None,
}
SENT: dict[str, Any] = {
    "messages": [{"role": "developer", "content": "Be kind"}, {"content": [{"text": "Hi"}]}],
    "response": {"content": "Hello", "model": "gpt-4o-2024", "finish_reason": "stop", "usage": {}},
    "metadata": TERMS,
}


def exchange(**fields: Any) -> Exchange:
    return Exchange.model_validate(SENT | fields)


async def logged(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post(LOG, json=SENT | fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_log_begins_a_conversation(client: httpx.AsyncClient) -> None:
    told = await logged(client)
    assert told["receipt"] is None
    found = (await client.get(f"/api/v1/conversations/{told['conversation_id']}")).json()
    assert (found["title"], found["model_alias"]) == ("fast conversation", "fast")
    assert (found["origin"], found["temperature"], found["message_count"]) == ("app", 0.7, 3)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (1000, 200)
    *sent, reply = found["messages"]
    assert [(each["role"], each["content"]) for each in sent] == [
        ("developer", "Be kind"),
        ("user", [{"text": "Hi"}]),
    ]
    assert (reply["id"], reply["role"], reply["content"]) == (
        told["message_id"],
        "assistant",
        "Hello",
    )
    assert reply["metadata"]["model"] == "gpt-4o-2024"
    assert reply["metadata"]["provider"] == "openai"


async def test_log_goes_on_with_a_conversation(client: httpx.AsyncClient) -> None:
    first = await logged(client)
    id = first["conversation_id"]
    assert (await logged(client, conversation_id=id))["conversation_id"] == id
    found = (await client.get(f"/api/v1/conversations/{id}")).json()
    assert (found["message_count"], len(found["messages"])) == (6, 6)
    answer = await client.post(LOG, json=SENT | {"conversation_id": str(uuid4())})
    assert answer.status_code == 404


async def test_log_of_a_sole_report_is_a_call_with_the_reply_s_id(
    client: httpx.AsyncClient,
) -> None:
    told = await logged(client)
    [call] = (await client.get("/api/v1/logs")).json()
    assert call["id"] == told["log_id"] == told["message_id"]
    assert call["conversation_id"] == call["id_at_origin"] == told["conversation_id"]
    assert (call["model"], call["alias"], call["origin"]) == ("gpt-4o", "fast", "app")
    found = (await client.get(f"/conversations/{told['conversation_id']}")).json()
    assert found["total_cost"] == call["cost"] > 0


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({"metadata": TERMS | {"profile": None}}, 0),
        ({"metadata": TERMS | {"profile": "prod"}, "log_usage": True}, 1),
        ({"log_usage": False}, 0),
        ({"log_usage": None}, 1),
    ],
)
async def test_log_counts_a_call_that_no_one_else_reports(
    client: httpx.AsyncClient, fields: dict[str, Any], calls: int
) -> None:
    told = await logged(client, **fields)
    assert len((await client.get("/api/v1/logs")).json()) == calls
    assert bool(told["log_id"]) == bool(calls)


@pytest.mark.parametrize(
    ("costs", "total"),
    [
        ({"cost": 0.3, "input_cost": 0.1, "output_cost": 0.1}, "0.3"),
        ({"cost": None, "input_cost": 0.1, "output_cost": 0.2}, "0.3"),
        ({"cost": 0.0, "input_cost": 0.1, "output_cost": None}, "0.1"),
        ({"cost": 150}, "150"),
        ({"cost": 0}, "0"),
        ({}, "0.0045"),
        ({"model": "nobody-knows"}, "0"),
    ],
)
async def test_log_costs_what_the_client_says_or_else_the_book(
    client: httpx.AsyncClient, costs: dict[str, Any], total: str
) -> None:
    told = await logged(client, metadata=TERMS | costs)
    found = (await client.get(f"/conversations/{told['conversation_id']}")).text
    assert f'"total_cost":{total},' in found
    assert f'"total_cost":"{total}"' in (await client.get("/api/v1/stats")).text


async def test_log_with_a_key_is_stored_once(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "one"}
    first = await client.post(LOG, json=SENT, headers=headers)
    again = await client.post(LOG, json=dict(reversed(SENT.items())), headers=headers)
    assert again.json() == first.json()
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (
        None,
        "true",
    )
    other = await client.post(LOG, json=SENT | {"log_usage": False}, headers=headers)
    call = {name: TERMS[name] for name in ("provider", "model", "input_tokens", "output_tokens")}
    call_of_that_key = await client.post("/api/v1/log", json=call, headers=headers)
    for refused in (other, call_of_that_key):
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert len((await client.get("/api/v1/conversations")).json()) == 1
    assert len((await client.get("/api/v1/logs")).json()) == 1


async def test_twins_at_the_same_moment_are_one_exchange(ring: Ring, project_id: ProjectId) -> None:
    keys = [f"key {n}" for n in range(10)] * 5
    told = await asyncio.gather(
        *(ring.conversations.log(project_id, exchange(), key) for key in keys)
    )
    assert len({each.messages[-1].id for each in told}) == 10
    assert sum(not each.replayed for each in told) == 10
    found = await ring.conversations.list(project_id)
    assert [each.message_count for each in found] == [3] * 10
    stats = await ring.usage.stats(project_id)
    assert stats.summary.total_requests == 10
    assert stats.summary.total_cost == sum(each.total_cost for each in found)


async def test_an_exchange_that_fails_leaves_nothing(ring: Ring, project_id: ProjectId) -> None:
    with pytest.raises(NotFound):
        await ring.conversations.log(project_id, exchange(conversation_id=str(uuid4())), "key")
    assert await ring.conversations.list(project_id) == []
    assert await ring.usage.logs(project_id) == []
    told = await ring.conversations.log(project_id, exchange(), "key")
    assert not told.replayed, "the key is free again"


async def test_an_exchange_goes_with_the_callers_transaction(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, Settings(conversation_content="full"))

    async def work(divisor: int) -> None:
        async with db.transaction() as tx:
            inside = ring.within(tx).conversations
            told = await inside.log(project_id, exchange(), "key")
            assert len(await inside.messages(project_id, told.conversation_id)) == 3
            assert await ring.conversations.list(project_id) == []
            1 / divisor

    with pytest.raises(ZeroDivisionError):
        await work(0)
    assert (await ring.usage.stats(project_id)).summary.total_requests == 0
    await work(1)
    assert (await ring.usage.stats(project_id)).summary.total_requests == 1
    [found] = await ring.conversations.list(project_id)
    assert (found.message_count, found.total_cost) == (3, Decimal("0.0045"))
