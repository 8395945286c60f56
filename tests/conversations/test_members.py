"""Messages keep the members that only their provider knows, as they were sent."""

import json
from typing import Any

import httpx
import pytest

from tests.support.conversations import CONVERSATIONS, create_conversation, log_exchange

CALL_ID = "call_" + "thought-signature/" * 256

# Messages as providers and their clients write them.
MESSAGES: dict[str, dict[str, Any]] = {
    "gemini": {
        "role": "model",
        "parts": [{"text": "In Japan, yes."}, {"thoughtSignature": "AbC=", "thought": True}],
    },
    "gemini function response": {
        "role": "function",
        "parts": [{"functionResponse": {"name": "look", "response": {"cat": None}}}],
    },
    "openai refusal": {
        "role": "assistant",
        "content": None,
        "refusal": "I cannot help with that.",
        "annotations": [],
        "audio": None,
        "function_call": None,
    },
    "openai function call": {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "look", "arguments": "{}"},
    },
    "openai function result": {"role": "function", "name": "look", "content": "a cat"},
    "openai audio": {
        "role": "assistant",
        "content": None,
        "audio": {"id": "audio_1", "data": "UklG", "transcript": "Hello", "expires_at": 1.5},
    },
    "openai annotations": {
        "role": "assistant",
        "content": "See there.",
        "annotations": [
            {"type": "url_citation", "url_citation": {"url": "http://a", "title": "A"}}
        ],
    },
    "openai developer": {"role": "developer", "content": "Be kind", "name": "operator"},
    "openai responses": {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}],
        "phase": "final_answer",
    },
    "deepseek": {"role": "assistant", "content": "4", "reasoning_content": "2 + 2 is 4"},
    "openrouter": {
        "role": "assistant",
        "content": "4",
        "reasoning": "2 + 2",
        "reasoning_details": [{"type": "reasoning.text", "text": "2 + 2", "format": None}],
    },
    "anthropic": {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "EqQB"},
            {"type": "text", "text": "Yes", "citations": [{"cited_text": "a cat"}]},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    },
    "cache control": {"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}},
    "tool result": {"role": "tool", "content": "a cat", "tool_call_id": CALL_ID},
    "unusual names": {"role": "user", "content": "Hi", "": 1, "a b": [[]], "\u00e9": {"": ""}},
    "numbers": {"role": "user", "content": "Hi", "n": [0, -1, 1.25, 12345678901234567890, True]},
}


@pytest.mark.parametrize("sent", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("way", ["single", "batch", "exchange", "response"])
async def test_a_message_comes_back_as_it_was_sent(
    client: httpx.AsyncClient, way: str, sent: dict[str, Any]
) -> None:
    if way == "response" and "tool_call_id" in sent:
        return  # no model replies with the result of a tool
    message = await sent_in_one_way(client, way, sent)
    # Clients that load a conversation expect text.
    returned = sent | {"content": ""} if sent.get("content") is None else sent
    assert {name: message.get(name) for name in returned} == returned
    assert sent.keys() <= message.keys()
    assert (message["content_kept"], message["at_origin"]) == (True, None)


async def sent_in_one_way(
    client: httpx.AsyncClient, way: str, sent: dict[str, Any]
) -> dict[str, Any]:
    """Send a message, check that the answer has it, and return it as it is listed."""
    if way in {"exchange", "response"}:
        fields = {"messages": [sent]} if way == "exchange" else {"messages": [], "response": sent}
        logged = await log_exchange(client, **fields)
        assert (logged["warnings"], logged["content_kept"]) == ([], True)
        path = f"{CONVERSATIONS}/{logged['conversation_id']}"
        message: dict[str, Any] = (await client.get(f"{path}/messages")).json()[0]
        assert message in (await client.get(path)).json()["messages"]
        return message
    path = await create_conversation(client)
    if way == "batch":
        answer = await client.post(f"{path}/messages/batch", json={"messages": [sent]})
        [added] = answer.json()
    else:
        added = (await client.post(f"{path}/messages", json=sent)).json()
    [message] = (await client.get(f"{path}/messages?order=desc")).json()
    assert added == message | {"warnings": []}
    return message


@pytest.mark.parametrize("way", ["single", "batch", "exchange", "response"])
async def test_members_with_names_that_are_ours_come_back_apart(
    client: httpx.AsyncClient, way: str
) -> None:
    theirs = {
        "id": "msg_01",
        "timestamp": 1764000000,
        "conversation_id": "conv_1",
        "content_hash": "abc",
        "content_kept": "yes",
        "receipt_id": {"a": 1},
        "at_origin": ["x"],
        "warnings": ["hot"],
    }
    sent = {"role": "assistant", "content": "Hi", "created_at": 5, "members": 1, **theirs}
    message = await sent_in_one_way(client, way, sent)
    assert message["at_origin"] == theirs
    assert (message["created_at"], message["members"]) == (5, 1)
    assert message["id"] != "msg_01"
    assert (message["content_kept"], message["receipt_id"]) == (True, None)


async def test_null_under_a_name_of_ours_is_no_member(client: httpx.AsyncClient) -> None:
    """The published client sends `timestamp: null` with every message."""
    sent = {"role": "user", "content": "Hi", "timestamp": None, "id": None}
    message = await sent_in_one_way(client, "single", sent | {"conversation_id": None})
    assert message["timestamp"]
    assert message["at_origin"] is None


async def test_fields_of_a_response_that_mean_something_else_come_back_apart(
    client: httpx.AsyncClient,
) -> None:
    theirs = {"metadata": {"a": 1}, "cost": 3, "input_tokens": "many", "tool_results": [1]}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "content": "Hi", **theirs}
    message = await sent_in_one_way(client, "response", reply)
    assert message["at_origin"] == theirs | {"id": "chatcmpl-1"}
    assert (message["object"], message["content"]) == ("chat.completion", "Hi")
    assert (message["input_tokens"], message["metadata"]["provider"]) == (1000, "openai")


FOUND = ("needle", "straw")
NEEDLE = {"text": "needle"}
ENCODED = {"type": "base64", "media_type": "application/pdf", "data": "straw"}
BEDROCK = {"json": {"rows": [{"cell": "needle"}]}}


@pytest.mark.parametrize(
    ("message", "found", "not_found"),
    [
        ({"parts": [{"text": "needle"}, {"inlineData": {"data": "straw"}}]}, "needle", "straw"),
        ({"refusal": "needle"}, "needle", "straw"),
        ({"reasoning_content": "a needle"}, "needle", "straw"),
        ({"name": "needle", "type": "straw"}, "needle", "straw"),
        ({"audio": {"transcript": "needle", "data": "straw"}}, "needle", "straw"),
        ({"reasoning_details": [{"text": "needle", "format": "straw"}]}, "needle", "straw"),
        (
            {"content": [{"type": "thinking", "thinking": "needle", "signature": "straw"}]},
            "needle",
            "straw",
        ),
        ({"choices": [{"message": {"content": "needle"}, "id": "straw"}]}, "needle", "straw"),
        ({"content": "needle", "image_url": {"url": "straw"}}, "needle", "straw"),
        ({"content": "needle", "parts": [{"text": "haystack"}]}, "needle haystack", "straw"),
        (
            {"parts": [{"functionResponse": {"id": "straw", "response": {"result": "needle"}}}]},
            *FOUND,
        ),
        (
            {"parts": [{"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "needle"}}]},
            *FOUND,
        ),
        ({"parts": [{"fileData": {"fileUri": "straw", "mimeType": "straw"}}, NEEDLE]}, *FOUND),
        ({"content": [{"type": "document", "title": "needle", "source": ENCODED}]}, *FOUND),
        ({"content": [{"type": "document", "source": {"type": "text", "data": "needle"}}]}, *FOUND),
        ({"content": [{"type": "search_result", "title": "needle", "id": "straw"}]}, *FOUND),
        ({"content": [{"type": "tool_use", "id": "straw", "input": {"a": ["needle"]}}]}, *FOUND),
        ({"content": [{"type": "redacted_thinking", "data": "straw"}, NEEDLE]}, *FOUND),
        ({"content": [{"toolResult": {"toolUseId": "straw", "content": [BEDROCK]}}]}, *FOUND),
        ({"content": [{"image": {"source": {"bytes": "straw"}}}, NEEDLE]}, *FOUND),
        ({"content": "needle", "image_url": "data:image/png;base64,straw"}, *FOUND),
        ({"content": "needle", "encoded": "straw/" * 100}, *FOUND),
    ],
)
@pytest.mark.parametrize("way", ["single", "response"])
async def test_text_in_members_is_searched(
    client: httpx.AsyncClient, way: str, message: dict[str, Any], found: str, not_found: str
) -> None:
    await sent_in_one_way(client, way, {"role": "model", **message})
    for query, number in ((found, 1), (not_found, 0)):
        response = await client.get(CONVERSATIONS, params={"q": query})
        assert len(response.json()) == number, query


def function(arguments: object) -> dict[str, Any]:
    """Return an assistant's message that calls a function."""
    call = {"id": "straw", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call]}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "tool_results": [{"tool_call_id": "straw", "content": "needle"}]},
        {"role": "tool", "tool_results": ["needle"]},
        function('{"line": "one\\nneedle", "id": "straw"}'),
        function('{"a": "\\u006eeedle"}'),
        function('{"a": "\\u0000needle", "b": "\\u0000"}'),
        function("needle, not JSON"),
        function('{"a": "needle", "b": "\\ud83d"}'),
        function({"a": "needle"}),
        function(json.dumps({"arguments": json.dumps({"arguments": '["needle"]'})})),
        function('{"a": "needle", "b": ' + "[" * 900 + "]" * 900 + "}"),
        function("[" * 10_000 + " needle"),
    ],
    ids=lambda message: json.dumps(message)[:80],
)
async def test_the_texts_of_tools_are_searched(
    client: httpx.AsyncClient, message: dict[str, Any]
) -> None:
    await sent_in_one_way(client, "single", message)
    for query, number in (("needle", 1), ("straw", 0)):
        response = await client.get(CONVERSATIONS, params={"q": query})
        assert len(response.json()) == number, query


async def test_the_published_client_can_load_a_message_without_content(
    client: httpx.AsyncClient,
) -> None:
    for sent in ({"role": "model", "parts": [{"text": "Hi"}]}, {"role": "user", "content": None}):
        message = await sent_in_one_way(client, "single", sent)
        assert (message["content"], message["content_kept"]) == ("", True)
        assert message["content_hash"] is None


@pytest.mark.parametrize(
    ("length", "status"), [(0, 200), (4_600, 200), (16_384, 200), (16_385, 422)]
)
async def test_a_tool_call_id_has_up_to_16384_characters(
    client: httpx.AsyncClient, length: int, status: int
) -> None:
    path = await create_conversation(client)
    message = {"role": "tool", "content": "a cat", "tool_call_id": "\u00e9" * length}
    response = await client.post(f"{path}/messages", json=message)
    assert response.status_code == status
    if status == 200:
        [stored] = (await client.get(f"{path}/messages")).json()
        assert stored["tool_call_id"] == message["tool_call_id"]


async def test_an_id_at_origin_has_up_to_1024_characters(client: httpx.AsyncClient) -> None:
    call = {"provider": "openai", "model": "gpt-4o", "input_tokens": 1, "output_tokens": 1}
    for length, status in ((256, 200), (1024, 200), (1025, 422)):
        id = "x" * length
        logged = await client.post("/api/v1/log", json=call | {"id_at_origin": id})
        listed = await client.get("/api/v1/logs", params={"id_at_origin": id})
        assert (logged.status_code, listed.status_code) == (status, status)
        if status == 200:
            assert [each["id_at_origin"] for each in listed.json()] == [id]


async def test_a_page_counts_members_and_ids(client: httpx.AsyncClient) -> None:
    path = await create_conversation(client)
    for _ in range(4):
        message = {"role": "model", "parts": [{"text": "x" * 3_000_000}]}
        assert (await client.post(f"{path}/messages", json=message)).status_code == 200
    first = await client.get(f"{path}/messages")
    # Three of them exceed 8 MiB.
    assert len(first.json()) == 2
    second = await client.get(f"{path}/messages{first.links['next']['url']}")
    assert len(second.json()) == 2
