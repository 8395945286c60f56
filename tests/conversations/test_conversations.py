"""Conversations and messages over HTTP, in both kinds of app."""

import asyncio
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import uuid4

import httpx
import pytest

from llmring_server import Ring
from llmring_server.conversations import MessagePage, NewConversation, NewMessage
from llmring_server.conversations.models import MAX_STATEMENT_BYTES, message_arrays
from llmring_server.core.identity import ProjectId
from llmring_server.errors import NotFound
from tests.support.conversations import CONVERSATIONS, add_texts, create_conversation

KIB = 1024


async def test_create_conversation_and_get_conversation(
    client: httpx.AsyncClient, project_id: ProjectId
) -> None:
    fields = {"title": "Tea", "system_prompt": "Be kind", "temperature": 0.1, "max_tokens": 9}
    path = await create_conversation(client, **fields)
    conversation = (await client.get(path)).json()
    messages, created_at = conversation.pop("messages"), conversation.pop("created_at")
    assert messages == []
    assert datetime.fromisoformat(created_at).tzinfo
    assert conversation.pop("updated_at") == created_at
    assert conversation == fields | {
        "id": path.rpartition("/")[2],
        "project_id": str(project_id),
        "api_key_id": None,
        "model_alias": "default",
        "origin": None,
        "message_count": 0,
        "total_input_tokens": 0,
        "total_output_tokens": 0,
        "total_cost": 0,
        "last_message_at": None,
    }


async def test_create_conversation_ignores_ids_in_the_body(client: httpx.AsyncClient) -> None:
    other = str(uuid4())
    path = await create_conversation(client, project_id=other, api_key_id="other", id=other)
    assert other not in (await client.get(path)).text


async def test_list_conversations_begins_with_the_most_recently_updated(
    client: httpx.AsyncClient,
) -> None:
    first, second = [await create_conversation(client, title=title) for title in ("1st", "2nd")]
    await add_texts(client, first, "Hello")
    conversations = (await client.get(CONVERSATIONS)).json()
    assert [conversation["title"] for conversation in conversations] == ["1st", "2nd"]
    await client.patch(second, json={"max_tokens": 5})
    conversations = (await client.get("/conversations?limit=1")).json()
    assert [each["title"] for each in conversations] == ["2nd"]


async def test_list_conversations_by_cursor(client: httpx.AsyncClient) -> None:
    created = {(await create_conversation(client)).rpartition("/")[2] for _ in range(5)}
    page = await client.get(f"{CONVERSATIONS}?limit=2")
    listed = [each["id"] for each in page.json()]
    while link := page.links.get("next"):
        page = await client.get(CONVERSATIONS + link["url"])
        listed += [each["id"] for each in page.json()]
    assert (len(listed), set(listed)) == (5, created)


async def test_update_conversation_sets_clears_and_leaves_fields(
    client: httpx.AsyncClient,
) -> None:
    path = await create_conversation(
        client, title="Tea", system_prompt="Be kind", model_alias="fast"
    )
    before = (await client.get(path)).json()
    assert (await client.patch(path, json={})).json()["updated_at"] == before["updated_at"]
    after = (await client.patch(path, json={"title": None, "temperature": 2})).json()
    assert (after["title"], after["temperature"], after["system_prompt"]) == (None, 2, "Be kind")
    assert after["model_alias"] == "fast"
    assert after["updated_at"] > before["updated_at"]


async def test_delete_conversation_deletes_its_messages(
    client: httpx.AsyncClient, ring: Ring
) -> None:
    path = await create_conversation(client)
    await add_texts(client, path, "Hello")
    assert (await client.delete(path)).json()["deleted"] is True
    for response in (await client.get(path), await client.get(f"{path}/messages")):
        assert response.status_code == 404
    assert (await client.delete(path)).status_code == 404
    count = "SELECT count(*) FROM {{tables.messages}} WHERE conversation_id = $1::text::uuid"
    assert await ring.db.fetch_value(count, path.rpartition("/")[2]) == 0


async def test_add_message_stores_every_field(client: httpx.AsyncClient) -> None:
    path = await create_conversation(client)
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image", "n": 1.5}]
    calls = [{"id": "call-1", "function": {"name": "look", "arguments": "{}"}}]
    sent: list[dict[str, Any]] = [
        {"role": "developer", "content": parts, "metadata": {"z": 1, "a": [None]}},
        {"role": "assistant", "content": None, "tool_calls": calls, "input_tokens": 3},
        {"role": "tool", "content": "a cat", "tool_call_id": "call-1", "tool_results": [1]},
        {"role": "wizard", "content": {"text": "ok"}, "metadata": None},
    ]
    added = [(await client.post(f"{path}/messages", json=message)).json() for message in sent]
    stored = (await client.get(f"{path}/messages")).json()
    assert [message | {"warnings": []} for message in stored] == added
    for message, sent_message in zip(stored, sent, strict=True):
        assert {name: message[name] or None for name in sent_message} == sent_message
    assert stored[2]["content_hash"] == sha256(b"a cat").hexdigest()
    has_hash = [message["content_hash"] is not None for message in stored]
    assert has_hash == [True, False, True, True]


async def test_add_messages_is_all_or_nothing(client: httpx.AsyncClient) -> None:
    path = await create_conversation(client)
    for invalid in range(3):
        messages = [
            {"role": "" if index == invalid else "user", "content": "Hi"} for index in range(3)
        ]
        response = await client.post(f"{path}/messages/batch", json={"messages": messages})
        assert response.status_code == 422
    assert (await client.get(path)).json()["message_count"] == 0
    assert (await client.get(f"{path}/messages")).json() == []


async def test_large_messages_are_stored_together_in_several_statements(
    ring: Ring, project_id: ProjectId
) -> None:
    conversation = await ring.conversations.create(project_id, NewConversation())
    sizes = [MAX_STATEMENT_BYTES + 1, 5, MAX_STATEMENT_BYTES // 2, MAX_STATEMENT_BYTES // 2, 5]
    texts = ["-" * size for size in sizes]
    messages = [NewMessage(role="user", content=text, input_tokens=1) for text in texts]
    added = (await ring.conversations.append(project_id, conversation.id, messages)).messages
    lengths = [len(array) for array in message_arrays(added, "metadata")]
    assert len(lengths) == 3
    assert max(lengths[1:]) <= MAX_STATEMENT_BYTES + KIB
    stored = [each async for each in ring.conversations.all_messages(project_id, conversation.id)]
    assert [message.content for message in stored] == texts
    after = await ring.conversations.get(project_id, conversation.id)
    assert (after.message_count, after.total_input_tokens) == (5, 5)
    with pytest.raises(NotFound):
        await ring.conversations.append(project_id, uuid4(), messages)


async def test_list_messages_from_either_end_by_cursor(client: httpx.AsyncClient) -> None:
    path = await create_conversation(client)
    texts = [f"text {n}" for n in range(7)]
    await add_texts(client, path, *texts)
    for order, expected in (("asc", texts), ("desc", texts[::-1])):
        page = await client.get(f"{path}/messages?limit=3&order={order}")
        listed = [each["content"] for each in page.json()]
        while link := page.links.get("next"):
            page = await client.get(f"{path}/messages{link['url']}")
            listed += [each["content"] for each in page.json()]
        assert listed == expected
    page = await client.get(f"{path}/messages?limit=3&offset=2")
    assert [each["content"] for each in page.json()] == texts[2:5]


async def test_a_cursor_is_valid_for_its_own_conversation_only(client: httpx.AsyncClient) -> None:
    one, two = await create_conversation(client), await create_conversation(client)
    for path in (one, two):
        await add_texts(client, path, "a", "b")
    link = (await client.get(f"{one}/messages?limit=1")).links["next"]["url"]
    assert (await client.get(f"{one}/messages{link}")).status_code == 200
    for url in (f"{two}/messages{link}", f"{one}/messages{link}&order=desc", CONVERSATIONS + link):
        assert (await client.get(url)).status_code == 422


async def test_get_conversation_returns_the_last_messages(client: httpx.AsyncClient) -> None:
    path = await create_conversation(client)
    await add_texts(client, path, *(f"text {n}" for n in range(5)))
    messages = (await client.get(f"{path}?message_limit=2")).json()["messages"]
    assert [message["content"] for message in messages] == ["text 3", "text 4"]
    assert (await client.get(f"{path}?include_messages=false")).json()["messages"] == []


async def test_totals_are_exact_under_concurrency(ring: Ring, project_id: ProjectId) -> None:
    id = (await ring.conversations.create(project_id)).id
    message = NewMessage(role="user", input_tokens=2**53 - 1, output_tokens=1, cost=Decimal("0.1"))
    await asyncio.gather(
        *(ring.conversations.append(project_id, id, [message] * 3) for _ in range(40))
    )
    conversation = await ring.conversations.get(project_id, id)
    assert (conversation.message_count, conversation.total_cost) == (120, Decimal(12))
    assert conversation.total_input_tokens == 120 * (2**53 - 1)
    assert conversation.total_output_tokens == 120
    stored = await ring.conversations.messages(project_id, id, MessagePage(limit=1000))
    assert conversation.last_message_at == max(each.timestamp for each in stored)


@pytest.mark.parametrize(
    ("costs", "total"),
    [
        ([60, 60], 120),
        (["60", 1], 61),
        (["many", 1], 1),
        ([-1, None], 0),
        ([1e-10, 0.1], Decimal("0.1000000001")),
    ],
)
async def test_a_cost_in_metadata_counts_if_it_is_an_amount(
    client: httpx.AsyncClient, costs: list[Any], total: Any
) -> None:
    path = await create_conversation(client)
    for cost in costs:
        message = {"role": "user", "metadata": {"cost": cost}}
        assert (await client.post(f"{path}/messages", json=message)).status_code == 200
    assert f'"total_cost":{total},' in (await client.get(path)).text


async def test_add_messages_with_a_key_stores_them_once(client: httpx.AsyncClient) -> None:
    path, headers = await create_conversation(client), {"Idempotency-Key": "one"}
    batch = {"messages": [{"role": "user", "content": text} for text in "ab"]}
    first = await client.post(f"{path}/messages/batch", json=batch, headers=headers)
    again = await client.post(f"{path}/messages/batch", json=batch, headers=headers)
    stored = (await client.get(f"{path}/messages")).json()
    assert again.json() == first.json() == [message | {"warnings": []} for message in stored]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    other = {"role": "user", "content": "a"}
    response = await client.post(f"{path}/messages", json=other, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
