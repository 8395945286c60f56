"""POST /conversations/log: an exchange is stored whole and once, and its call is counted once."""

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest
from tests.support.conversations import (
    CONVERSATIONS,
    EXCHANGE,
    LOG_EXCHANGE,
    METADATA,
    exchange,
    log_exchange,
)


async def test_log_exchange_creates_a_conversation(client: httpx.AsyncClient) -> None:
    logged = await log_exchange(client)
    assert logged["receipt"] is None
    conversation = (await client.get(f"{CONVERSATIONS}/{logged['conversation_id']}")).json()
    assert conversation["title"] == "fast conversation"
    assert conversation["model_alias"] == "fast"
    assert (conversation["origin"], conversation["temperature"]) == ("app", 0.7)
    assert conversation["message_count"] == 3
    assert conversation["total_input_tokens"] == 1000
    assert conversation["total_output_tokens"] == 200
    *sent, reply = conversation["messages"]
    assert [(each["role"], each["content"]) for each in sent] == [
        ("developer", "Be kind"),
        ("user", [{"text": "Hi"}]),
    ]
    assert reply["id"] == logged["message_id"]
    assert (reply["role"], reply["content"]) == ("assistant", "Hello")
    assert reply["metadata"]["model"] == "gpt-4o-2024"
    assert reply["metadata"]["provider"] == "openai"


async def test_log_exchange_continues_a_conversation(client: httpx.AsyncClient) -> None:
    id = (await log_exchange(client))["conversation_id"]
    assert (await log_exchange(client, conversation_id=id))["conversation_id"] == id
    conversation = (await client.get(f"{CONVERSATIONS}/{id}")).json()
    assert (conversation["message_count"], len(conversation["messages"])) == (6, 6)


async def test_log_exchange_logs_the_call_under_the_reply_s_id(client: httpx.AsyncClient) -> None:
    logged = await log_exchange(client)
    [call] = (await client.get("/api/v1/logs")).json()
    assert call["id"] == logged["log_id"] == logged["message_id"]
    assert call["conversation_id"] == call["id_at_origin"] == logged["conversation_id"]
    assert (call["model"], call["alias"], call["origin"]) == ("gpt-4o", "fast", "app")
    conversation = (await client.get(f"/conversations/{logged['conversation_id']}")).json()
    assert conversation["total_cost"] == call["cost"] > 0


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({"metadata": METADATA | {"profile": None}}, 0),
        ({"metadata": METADATA | {"profile": "prod"}, "log_usage": True}, 1),
        ({"log_usage": False}, 0),
        ({"log_usage": None}, 1),
    ],
)
async def test_log_exchange_counts_a_call_that_nothing_else_reports(
    client: httpx.AsyncClient, fields: dict[str, Any], calls: int
) -> None:
    logged = await log_exchange(client, **fields)
    assert len((await client.get("/api/v1/logs")).json()) == calls
    assert bool(logged["log_id"]) == bool(calls)


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
async def test_log_exchange_uses_the_reported_cost_or_else_the_price(
    client: httpx.AsyncClient, costs: dict[str, Any], total: str
) -> None:
    logged = await log_exchange(client, metadata=METADATA | costs)
    conversation = (await client.get(f"/conversations/{logged['conversation_id']}")).text
    assert f'"total_cost":{total},' in conversation
    assert f'"total_cost":"{total}"' in (await client.get("/api/v1/stats")).text


async def test_log_exchange_with_a_key_is_stored_once(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "one"}
    first = await client.post(LOG_EXCHANGE, json=EXCHANGE, headers=headers)
    reordered = dict(reversed(EXCHANGE.items()))
    again = await client.post(LOG_EXCHANGE, json=reordered, headers=headers)
    assert again.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await client.post(LOG_EXCHANGE, json=EXCHANGE | {"log_usage": False}, headers=headers)
    call = {name: METADATA[name] for name in ("provider", "model", "input_tokens", "output_tokens")}
    call_with_that_key = await client.post("/api/v1/log", json=call, headers=headers)
    for refused in (other, call_with_that_key):
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert len((await client.get(CONVERSATIONS)).json()) == 1
    assert len((await client.get("/api/v1/logs")).json()) == 1


async def test_concurrent_repeats_are_one_exchange(ring: Ring, project_id: ProjectId) -> None:
    keys = [f"key {n}" for n in range(10)] * 5
    results = await asyncio.gather(
        *(ring.conversations.log(project_id, exchange(), key) for key in keys)
    )
    assert len({result.messages[-1].id for result in results}) == 10
    assert sum(not result.replayed for result in results) == 10
    conversations = await ring.conversations.list(project_id)
    assert [conversation.message_count for conversation in conversations] == [3] * 10
    summary = (await ring.usage.stats(project_id)).summary
    assert summary.total_requests == 10
    assert summary.total_cost == sum(each.total_cost for each in conversations)


async def test_a_failed_exchange_leaves_nothing(ring: Ring, project_id: ProjectId) -> None:
    too_much = METADATA | {"input_cost": 999_999_999, "output_cost": 999_999_999}
    with pytest.raises(InvalidRequest):
        await ring.conversations.log(project_id, exchange(metadata=too_much), "key")
    assert await ring.conversations.list(project_id) == []
    assert await ring.usage.logs(project_id) == []
    result = await ring.conversations.log(project_id, exchange(), "key")
    assert not result.replayed, "the key is free again"


async def test_an_exchange_is_part_of_the_callers_transaction(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, Settings(conversation_content="full"))

    async def log(divisor: int) -> None:
        async with db.transaction() as tx:
            inside = ring.within(tx).conversations
            result = await inside.log(project_id, exchange(), "key")
            assert len(await inside.messages(project_id, result.conversation_id)) == 3
            assert await ring.conversations.list(project_id) == []
            1 / divisor

    with pytest.raises(ZeroDivisionError):
        await log(0)
    assert (await ring.usage.stats(project_id)).summary.total_requests == 0
    await log(1)
    assert (await ring.usage.stats(project_id)).summary.total_requests == 1
    [conversation] = await ring.conversations.list(project_id)
    assert (conversation.message_count, conversation.total_cost) == (3, Decimal("0.0045"))


ANTHROPIC_USAGE = {"input_tokens": 100, "cache_read_input_tokens": 50_000, "output_tokens": 10}


@pytest.mark.parametrize(
    ("usage", "tokens", "cost"),
    [
        (ANTHROPIC_USAGE, (100, 10), "0.01545"),
        ({"prompt_tokens": 100, "completion_tokens": 10}, (100, 10), "0.00045"),
        ({"tokens": 5}, None, None),
        ({"input_tokens": -1}, None, None),
        ({}, None, None),
    ],
)
async def test_the_usage_of_the_response_is_that_of_the_call_if_no_other_is_reported(
    client: httpx.AsyncClient, usage: Any, tokens: tuple[int, int] | None, cost: str | None
) -> None:
    metadata = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
    await log_exchange(client, metadata=metadata, response={"content": "Hello", "usage": usage})
    [call] = (await client.get("/api/v1/logs")).json()
    assert call["usage_known"] == (tokens is not None)
    assert (call["input_tokens"], call["output_tokens"]) == (tokens or (0, 0))
    assert Decimal(str(call["cost"])) == Decimal(cost or 0)
    assert call["cost_source"] == ("offline" if cost else "unpriced")
    path = f"{CONVERSATIONS}/{call['conversation_id']}"
    conversation = (await client.get(path)).json()
    assert conversation["total_input_tokens"] == (tokens or (0, 0))[0]


WRITES = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
FLAT = {"input_tokens": 100, "output_tokens": 10, "cached_tokens": 0}
CLAUDE = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
GPT = {"provider": "openai", "model": "gpt-4o"}
GEMINI = {"promptTokenCount": 100, "candidatesTokenCount": 6, "thoughtsTokenCount": 4}


@pytest.mark.parametrize(
    ("metadata", "response", "cost", "warnings"),
    [
        # As the published client's decorators send it
        (CLAUDE | FLAT, {"usage": WRITES | {"cache_creation_tokens": 50_000}}, "0.18795", []),
        (CLAUDE | FLAT, {"usage": WRITES | {"cache_creation_tokens": None}}, "0.00045", []),
        (
            CLAUDE | FLAT | {"cached_tokens": 50},
            {"usage": WRITES | {"cache_creation_tokens": 0, "cached_tokens": 50}},
            "0.000465",
            [],
        ),
        (
            CLAUDE | FLAT | {"cached_tokens": 50},
            {"usage": WRITES | {"cached_tokens": 50}},
            "0.000465",
            [],
        ),
        (
            GPT | FLAT | {"cached_tokens": 50},
            {"usage": WRITES | {"cached_tokens": 50}},
            "0.0002875",
            [],
        ),
        # As its providers return usage
        (CLAUDE | FLAT, {"usage": WRITES | {"cache_read_input_tokens": 50}}, "0.000465", []),
        (
            CLAUDE | FLAT,
            {
                "usage": WRITES
                | {
                    "cache_creation_input_tokens": 3000,
                    "cache_creation_5m_tokens": 1000,
                    "cache_creation_1h_tokens": 2000,
                    "cost_breakdown": {"input": 0.1},
                }
            },
            "0.0162",
            [],
        ),
        # As providers do
        (CLAUDE | FLAT, {"usage": ANTHROPIC_USAGE}, "0.01545", []),
        (CLAUDE | FLAT | {"usage": ANTHROPIC_USAGE}, {"usage": {}}, "0.01545", []),
        (
            GPT | FLAT,
            {"usage": WRITES | {"prompt_tokens_details": {"cached_tokens": 50}}},
            "0.0002875",
            [],
        ),
        (
            {"provider": "google", "model": "gemini-2.5-flash"},
            {"usageMetadata": GEMINI},
            "0.000055",
            [],
        ),
        (GPT | FLAT, {"usage": WRITES | {"foo": 1}}, "0.00035", ["response.usage.foo"]),
        (GPT | FLAT, {"usage": WRITES | {"cost": 0.5}}, "0.5", []),
        (GPT | FLAT | {"cost": 0.25}, {"usage": WRITES | {"cost": 0.5}}, "0.25", []),
        # Contradictions, and what is not understood
        (GPT | FLAT, {"usage": WRITES | {"prompt_tokens": 7}}, "0.00035", ["response.usage"]),
        (
            GPT | FLAT,
            {"usage": WRITES | {"completion_tokens": -1}},
            "0.00035",
            ["response.usage.completion_tokens"],
        ),
        (GPT | FLAT, {"usage": WRITES | {"service_tier": "x" * 33}}, "0.00035", ["response.usage"]),
        (
            GPT | FLAT,
            {"usage": WRITES | {"prompt_tokens_details": {"audio_tokens": 900}}},
            "0.00035",
            ["response.usage"],
        ),
        (GPT | FLAT, {"usage": {"tokens": 5}}, "0.00035", ["response.usage"]),
        (GPT | FLAT, {"usageMetadata": [5]}, "0.00035", ["response.usageMetadata"]),
        # Fields of a call
        (CLAUDE | FLAT | {"cache_creation_input_tokens": 50_000}, {}, "0.18795", []),
        (CLAUDE | FLAT | {"cached_input_tokens": 50}, {}, "0.000465", []),
        (CLAUDE | FLAT | {"foo": 1}, {}, "0.00045", ["metadata.foo"]),
    ],
    ids=str,
)
async def test_the_call_has_the_details_of_the_usage_object(
    client: httpx.AsyncClient,
    metadata: dict[str, Any],
    response: dict[str, Any],
    cost: str | None,
    warnings: list[str],
) -> None:
    logged = await log_exchange(client, metadata=metadata, response={"content": "Hi"} | response)
    assert [warning["field"] for warning in logged["warnings"]] == warnings
    [call] = (await client.get("/api/v1/logs")).json()
    # Gemini counts its 4 tokens of reasoning beside the output.
    output = 6 if metadata["provider"] == "google" else 10
    assert (call["input_tokens"], call["output_tokens"]) == (100, output)
    assert Decimal(str(call["cost"])) == Decimal(cost or 0)


async def test_an_exchange_takes_the_other_fields_of_a_call(client: httpx.AsyncClient) -> None:
    fields = {
        "status": "error",
        "latency_ms": 250,
        "service_tier": "priority",
        "reasoning_output_tokens": 20,
        "id_at_origin": "run-7",
    }
    logged = await log_exchange(client, metadata=METADATA | fields)
    assert logged["warnings"] == []
    [call] = (await client.get("/api/v1/logs")).json()
    assert (call["status"], call["latency_ms"], call["id_at_origin"]) == ("error", 250, "run-7")
    assert call["details"] == {"service_tier": "priority", "reasoning_output_tokens": 20}
    assert call["conversation_id"] == logged["conversation_id"]


async def test_seconds_that_are_rounded_up_to_the_bound_are_stored(
    client: httpx.AsyncClient,
) -> None:
    metadata = METADATA | {"video_seconds": 999_999_999.9999999}
    assert (await log_exchange(client, metadata=metadata))["warnings"] == []
    [call] = (await client.get("/api/v1/logs")).json()
    assert call["details"] == {"video_seconds": 1_000_000_000}
