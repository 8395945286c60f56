"""Conversations and messages over HTTP, under both kinds of app."""

import asyncio
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import uuid4

import httpx
import pytest

from llmring_server import Ring
from llmring_server.conversations.models import MessagePage, NewMessage
from llmring_server.core.identity import ProjectId

ROOT = "/api/v1/conversations"


async def begun(client: httpx.AsyncClient, **heading: Any) -> str:
    answer = await client.post(ROOT, json=heading)
    assert answer.status_code == 200, answer.text
    return f"{ROOT}/{answer.json()['id']}"


async def said(client: httpx.AsyncClient, path: str, *texts: str, **more: Any) -> list[Any]:
    messages = [{"role": "user", "content": text, **more} for text in texts]
    answer = await client.post(f"{path}/messages/batch", json={"messages": messages})
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()
    return found


async def test_create_and_get(client: httpx.AsyncClient, project_id: ProjectId) -> None:
    path = await begun(client, title="Tea", system_prompt="Be kind", temperature=0.1, max_tokens=9)
    found = (await client.get(path)).json()
    told = {name: found[name] for name in ("title", "system_prompt", "temperature", "max_tokens")}
    assert told == {"title": "Tea", "system_prompt": "Be kind", "temperature": 0.1, "max_tokens": 9}
    assert (found["model_alias"], found["project_id"]) == ("default", str(project_id))
    assert (found["message_count"], found["total_cost"], found["messages"]) == (0, 0, [])
    assert (found["api_key_id"], found["last_message_at"]) == (None, None)
    assert datetime.fromisoformat(found["created_at"]).tzinfo


async def test_create_does_not_believe_whose_it_is(client: httpx.AsyncClient) -> None:
    other = str(uuid4())
    path = await begun(client, project_id=other, api_key_id="other", id=other)
    assert other not in (await client.get(path)).text


async def test_list_conversations_begins_with_the_last_to_change(client: httpx.AsyncClient) -> None:
    first, second = [await begun(client, title=title) for title in ("first", "second")]
    await said(client, first, "Hello")
    assert [each["title"] for each in (await client.get(ROOT)).json()] == ["first", "second"]
    await client.patch(second, json={"max_tokens": 5})
    found = (await client.get("/conversations?limit=1")).json()
    assert [each["title"] for each in found] == ["second"]


async def test_list_conversations_by_cursor(client: httpx.AsyncClient) -> None:
    made = {(await begun(client)).rpartition("/")[2] for _ in range(5)}
    page = await client.get(f"{ROOT}?limit=2")
    seen = [each["id"] for each in page.json()]
    while link := page.links.get("next"):
        page = await client.get(ROOT + link["url"])
        seen += [each["id"] for each in page.json()]
    assert (len(seen), set(seen)) == (5, made)


async def test_update_sets_clears_and_leaves(client: httpx.AsyncClient) -> None:
    path = await begun(client, title="Tea", system_prompt="Be kind", model_alias="fast")
    before = (await client.get(path)).json()
    assert (await client.patch(path, json={})).json()["updated_at"] == before["updated_at"]
    after = (await client.patch(path, json={"title": None, "temperature": 2})).json()
    assert (after["title"], after["temperature"], after["system_prompt"]) == (None, 2, "Be kind")
    assert after["model_alias"] == "fast"
    assert after["updated_at"] > before["updated_at"]


async def test_delete_takes_the_messages_along(client: httpx.AsyncClient, ring: Ring) -> None:
    path = await begun(client)
    await said(client, path, "Hello")
    assert (await client.delete(path)).json()["deleted"] is True
    for answer in (await client.get(path), await client.get(f"{path}/messages")):
        assert answer.status_code == 404
    assert (await client.delete(path)).status_code == 404
    count = "SELECT count(*) FROM {{tables.messages}} WHERE conversation_id = $1::text::uuid"
    assert await ring.db.fetch_value(count, path.rpartition("/")[2]) == 0


async def test_add_and_messages_keep_all_that_is_said(client: httpx.AsyncClient) -> None:
    path = await begun(client)
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image", "n": 1.5}]
    calls = [{"id": "call-1", "function": {"name": "look", "arguments": "{}"}}]
    sent: list[dict[str, Any]] = [
        {"role": "developer", "content": parts, "metadata": {"z": 1, "a": [None]}},
        {"role": "assistant", "content": None, "tool_calls": calls, "input_tokens": 3},
        {"role": "tool", "content": "a cat", "tool_call_id": "call-1", "tool_results": [1]},
        {"role": "wizard", "content": {"text": "ok"}, "metadata": None},
    ]
    added = [(await client.post(f"{path}/messages", json=each)).json() for each in sent]
    found = (await client.get(f"{path}/messages")).json()
    assert found == added
    for given, stored in zip(sent, found, strict=True):
        assert {name: stored[name] or None for name in given} == given
    assert found[2]["content_hash"] == sha256(b"a cat").hexdigest()
    assert [each["content_hash"] is None for each in found] == [False, True, False, False]


async def test_add_batch_is_all_or_nothing(client: httpx.AsyncClient) -> None:
    path = await begun(client)
    for bad in range(3):
        messages = [{"role": "user" if n != bad else "", "content": "Hi"} for n in range(3)]
        answer = await client.post(f"{path}/messages/batch", json={"messages": messages})
        assert answer.status_code == 422
    assert (await client.get(path)).json()["message_count"] == 0
    assert (await client.get(f"{path}/messages")).json() == []


async def test_messages_from_either_end_by_cursor(client: httpx.AsyncClient) -> None:
    path = await begun(client)
    texts = [f"text {n}" for n in range(7)]
    await said(client, path, *texts)
    for order, expected in (("asc", texts), ("desc", texts[::-1])):
        page = await client.get(f"{path}/messages?limit=3&order={order}")
        seen = [each["content"] for each in page.json()]
        while link := page.links.get("next"):
            page = await client.get(f"{path}/messages{link['url']}")
            seen += [each["content"] for each in page.json()]
        assert seen == expected
    page = await client.get(f"{path}/messages?limit=3&offset=2")
    assert [each["content"] for each in page.json()] == texts[2:5]


async def test_a_cursor_is_good_for_its_own_conversation(client: httpx.AsyncClient) -> None:
    one, two = await begun(client), await begun(client)
    for path in (one, two):
        await said(client, path, "a", "b")
    link = (await client.get(f"{one}/messages?limit=1")).links["next"]["url"]
    assert (await client.get(f"{one}/messages{link}")).status_code == 200
    for wrong in (f"{two}/messages{link}", f"{one}/messages{link}&order=desc", ROOT + link):
        assert (await client.get(wrong)).status_code == 422


async def test_get_shows_the_end_of_a_long_conversation(client: httpx.AsyncClient) -> None:
    path = await begun(client)
    await said(client, path, *(f"text {n}" for n in range(5)))
    shown = (await client.get(f"{path}?message_limit=2")).json()["messages"]
    assert [each["content"] for each in shown] == ["text 3", "text 4"]
    assert (await client.get(f"{path}?include_messages=false")).json()["messages"] == []


async def test_totals_are_exact_under_concurrency(ring: Ring, project_id: ProjectId) -> None:
    id = (await ring.conversations.create(project_id)).id
    one = NewMessage(role="user", input_tokens=2**53 - 1, output_tokens=1, cost=Decimal("0.1"))
    await asyncio.gather(*(ring.conversations.append(project_id, id, [one] * 3) for _ in range(40)))
    found = await ring.conversations.get(project_id, id)
    assert (found.message_count, found.total_cost) == (120, Decimal(12))
    assert (found.total_input_tokens, found.total_output_tokens) == (120 * (2**53 - 1), 120)
    stored = await ring.conversations.messages(project_id, id, MessagePage(limit=1000))
    assert found.last_message_at == max(each.timestamp for each in stored)


@pytest.mark.parametrize(
    ("costs", "total"),
    [([60, 60], 120), (["60", 1], 1), ([-1, None], 0), ([1e-10, 0.1], Decimal("0.1000000001"))],
)
async def test_a_cost_in_metadata_counts_if_it_is_one(
    client: httpx.AsyncClient, costs: list[Any], total: Any
) -> None:
    path = await begun(client)
    for cost in costs:
        message = {"role": "user", "metadata": {"cost": cost}}
        assert (await client.post(f"{path}/messages", json=message)).status_code == 200
    found = (await client.get(path)).text
    assert f'"total_cost":{total},' in found


async def test_add_with_a_key_is_stored_once(client: httpx.AsyncClient) -> None:
    path, headers = await begun(client), {"Idempotency-Key": "one"}
    batch = {"messages": [{"role": "user", "content": text} for text in "ab"]}
    first = await client.post(f"{path}/messages/batch", json=batch, headers=headers)
    again = await client.post(f"{path}/messages/batch", json=batch, headers=headers)
    assert again.json() == first.json() == (await client.get(f"{path}/messages")).json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    other = {"role": "user", "content": "a"}
    answer = await client.post(f"{path}/messages", json=other, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
