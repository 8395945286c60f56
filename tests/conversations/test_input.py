"""Input of conversations: unusual values are stored, invalid ones leave no trace."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.conversations import (
    CONVERSATIONS,
    EXCHANGE,
    LOG_EXCHANGE,
    METADATA,
    create_conversation,
    log_exchange,
)


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": None},
        {"metadata": {}},
        {"log_usage": "yes"},
        {"metadata": METADATA | {"model": "x" * 256}},
    ],
    ids=lambda fields: json.dumps(fields)[:40],
)
async def test_log_exchange_refuses_invalid_fields(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    response = await client.post(LOG_EXCHANGE, json=EXCHANGE | fields)
    assert response.status_code == 422, response.text
    assert (await client.get(CONVERSATIONS)).json() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"response": {}},
        {"messages": []},
        {"messages": [{"role": None, "content": None, "metadata": None}]},
        {"messages": [{"content": "e\u0301\u0301" * 300_000}]},
        {"messages": [{"content": " ".join(f"\U00020000{n:x}" for n in range(200_000))}]},
        {"messages": [{"content": [{"image": "x" * 7_000_000}]}]},
        {"metadata": {"provider": "p" * 50, "model": "m" * 255, "input_tokens": None}},
    ],
    ids=lambda fields: json.dumps(fields)[:40],
)
async def test_log_exchange_stores_empty_and_large_fields(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    logged = await log_exchange(client, **fields)
    page = await client.get(f"{CONVERSATIONS}/{logged['conversation_id']}/messages")
    assert page.json()[-1]["id"] == logged["message_id"]
    assert await log_exchange(client) != logged


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "x" * 501},
        {"title": 1},
        {"model_alias": "a\0b"},
        {"model_alias": "x" * 256},
        {"model_alias": ""},
        {"temperature": 2.01},
        {"temperature": -0.1},
        {"temperature": "1"},
        {"max_tokens": 0},
        {"max_tokens": 2**31},
    ],
    ids=lambda fields: str(fields)[:40],
)
async def test_invalid_fields_of_a_conversation_are_refused(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    path = await create_conversation(client, title="Tea")
    before = (await client.get(path)).json()
    assert (await client.post(CONVERSATIONS, json=fields)).status_code == 422
    assert (await client.patch(path, json=fields)).status_code == 422
    assert (await client.get(path)).json() == before
    assert len((await client.get(CONVERSATIONS)).json()) == 1


@pytest.mark.parametrize(("number", "status"), [(0, 200), (1, 200), (1000, 200), (1001, 422)])
async def test_a_batch_has_up_to_1000_messages(
    client: httpx.AsyncClient, number: int, status: int
) -> None:
    path = await create_conversation(client)
    batch = {"messages": [{"role": "user"}] * number}
    response = await client.post(f"{path}/messages/batch", json=batch)
    assert response.status_code == status
    stored = (await client.get(f"{path}/messages?limit=1000")).json()
    assert len(stored) == (number if status == 200 else 0)
    if status == 200:
        assert [each["id"] for each in response.json()] == [each["id"] for each in stored]


async def test_an_empty_batch_needs_a_conversation(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{CONVERSATIONS}/{uuid4()}/messages/batch", json={"messages": []})
    assert response.status_code == 404


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=abc", "offset=-1", "offset=10001", "order=up", "cursor=zzz"],
)
async def test_list_messages_refuses_an_invalid_query(
    client: httpx.AsyncClient, query: str
) -> None:
    path = await create_conversation(client)
    assert (await client.get(f"{path}/messages?{query}")).status_code == 422


async def test_an_invalid_uuid_is_not_found(client: httpx.AsyncClient) -> None:
    for path in (f"{CONVERSATIONS}/x", "/conversations/x", f"{CONVERSATIONS}/x/messages"):
        assert (await client.get(path)).status_code == 404


async def test_a_page_of_large_messages_is_shorter(client: httpx.AsyncClient) -> None:
    path = await create_conversation(client)
    for _ in range(5):
        message = {"role": "user", "content": "x" * 3_000_000}
        assert (await client.post(f"{path}/messages", json=message)).status_code == 200
    counts: list[int] = []
    target = f"{path}/messages"
    while len(counts) < 4:
        page = await client.get(target)
        counts.append(len(page.json()))
        target = f"{path}/messages{page.links['next']['url']}" if page.links else target
    assert counts == [2, 2, 1, 0]
