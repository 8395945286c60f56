"""Conversations take what is odd, and refuse what makes no sense, without a trace of it."""

import json
from typing import Any

import httpx
import pytest

from tests.conversations.test_conversations import ROOT, begun
from tests.conversations.test_exchanges import LOG, SENT, TERMS, logged


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": {}},
        {"messages": ["Hi"]},
        {"messages": [{"content": 123}]},
        {"messages": [{"role": "x" * 51}]},
        {"response": None},
        {"metadata": {}},
        {"metadata": TERMS | {"cost": -1}},
        {"metadata": TERMS | {"cost": "1"}},
        {"metadata": TERMS | {"input_cost": 999999999, "output_cost": 999999999}},
        {"metadata": TERMS | {"model": "x" * 256}},
        {"metadata": TERMS | {"input_tokens": 1.5}},
        {"conversation_id": "x"},
        {"response": {"content": "a\0b"}},
        {"response": {"usage": {"a": "x" * 65_536}}},
    ],
)
async def test_log_refuses_what_makes_no_sense(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    answer = await client.post(LOG, json=SENT | fields)
    assert answer.status_code == 422, answer.text
    assert (await client.get("/api/v1/conversations")).json() == []


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
async def test_log_takes_what_is_odd_or_large(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    told = await logged(client, **fields)
    page = await client.get(f"/api/v1/conversations/{told['conversation_id']}/messages")
    assert page.json()[-1]["id"] == told["message_id"]
    assert await logged(client) != told


async def test_log_of_ten_megabytes_is_a_413(client: httpx.AsyncClient) -> None:
    answer = await client.post(LOG, json=SENT | {"messages": [{"content": "x" * 10_000_000}]})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "heading",
    [
        {"title": "x" * 501},
        {"title": 1},
        {"title": "a\0b"},
        {"model_alias": "x" * 256},
        {"model_alias": ""},
        {"temperature": 2.01},
        {"temperature": -0.1},
        {"temperature": "1"},
        {"max_tokens": 0},
        {"max_tokens": 2**31},
    ],
    ids=str,
)
async def test_a_heading_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, heading: dict[str, Any]
) -> None:
    path = await begun(client, title="Tea")
    before = (await client.get(path)).json()
    assert (await client.post(ROOT, json=heading)).status_code == 422
    assert (await client.patch(path, json=heading)).status_code == 422
    assert (await client.get(path)).json() == before
    assert len((await client.get(ROOT)).json()) == 1


@pytest.mark.parametrize("number", [0, 501])
async def test_a_batch_has_1_to_500_messages(client: httpx.AsyncClient, number: int) -> None:
    path = await begun(client)
    batch = {"messages": [{"role": "user"}] * number}
    assert (await client.post(f"{path}/messages/batch", json=batch)).status_code == 422


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=abc", "offset=-1", "offset=10001", "order=up", "cursor=zzz"],
)
async def test_a_page_that_makes_no_sense_is_refused(client: httpx.AsyncClient, query: str) -> None:
    path = await begun(client)
    assert (await client.get(f"{path}/messages?{query}")).status_code == 422


async def test_what_is_no_id_is_the_id_of_nothing(client: httpx.AsyncClient) -> None:
    for path in (f"{ROOT}/x", "/conversations/x", f"{ROOT}/x/messages"):
        assert (await client.get(path)).status_code == 404


async def test_a_page_ends_where_it_would_be_too_large(client: httpx.AsyncClient) -> None:
    path = await begun(client)
    for _ in range(5):
        message = {"role": "user", "content": "x" * 3_000_000}
        assert (await client.post(f"{path}/messages", json=message)).status_code == 200
    page = await client.get(f"{path}/messages")
    assert len(page.json()) == 3
    rest = await client.get(f"{path}/messages{page.links['next']['url']}")
    assert len(rest.json()) == 2
