"""Whatever of an exchange cannot be stored, its call is logged, and the answer names the rest."""

import asyncio
import json
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import ValidationError

from llmring_server import Ring, build
from llmring_server.conversations import Exchange
from llmring_server.core.identity import ProjectId
from llmring_server.settings import Settings
from llmring_server.web import request_limits
from tests.support.conversations import (
    CONVERSATIONS,
    EXCHANGE,
    LOG_EXCHANGE,
    METADATA,
    create_conversation,
    exchange,
    log_exchange,
)

MIB = 1024**2
HI = {"role": "user", "content": "Hi"}


async def stored_messages(client: httpx.AsyncClient, logged: dict[str, Any]) -> list[Any]:
    """Check that the call of an exchange is logged; return the messages that are stored."""
    calls = (await client.get("/api/v1/logs")).json()
    assert [call["id"] for call in calls] == [logged["log_id"]]
    assert (calls[0]["input_tokens"], calls[0]["model"]) == (1000, "gpt-4o")
    path = f"{CONVERSATIONS}/{logged['conversation_id']}"
    messages: list[Any] = (await client.get(f"{path}/messages?limit=1000")).json()
    # A page ends with a large message.
    [reply] = (await client.get(f"{path}/messages?order=desc&limit=1")).json()
    assert reply["id"] == logged["message_id"]
    return messages if reply in messages else [*messages, reply]


@pytest.mark.parametrize(
    ("fields", "not_kept", "roles"),
    [
        ({"messages": {}}, ["messages"], ["assistant"]),
        ({"messages": None}, ["messages"], ["assistant"]),
        ({"messages": "Hi"}, ["messages"], ["assistant"]),
        ({"messages": ["Hi", HI, None, []]}, ["messages.0", "messages.2", "messages.3"], None),
        ({"messages": [{"content": 123}]}, ["messages.0.content"], None),
        ({"messages": [{"role": "x" * 51}]}, ["messages.0.role"], None),
        ({"messages": [{"role": 5, "content": "Hi"}]}, ["messages.0.role"], None),
        ({"messages": [HI, HI | {"tool_calls": {}}]}, ["messages.1.tool_calls"], ["user"] * 2),
        ({"messages": [HI | {"tool_call_id": 7}]}, ["messages.0.tool_call_id"], None),
        ({"messages": [HI | {"tool_call_id": "x" * 20_000}]}, ["messages.0.tool_call_id"], None),
        ({"messages": [HI | {"metadata": []}]}, ["messages.0.metadata"], None),
        ({"messages": [HI | {"metadata": {"a": "x" * 65_536}}]}, ["messages.0.metadata"], None),
        ({"messages": [HI | {"input_tokens": -1}]}, ["messages.0.input_tokens"], None),
        ({"messages": [HI | {"cost": "much"}]}, ["messages.0.cost"], None),
        ({"response": None}, ["response"], ["developer", "user", "assistant"]),
        ({"response": "Hello"}, ["response"], ["developer", "user", "assistant"]),
        ({"response": {"content": 5, "refusal": "No"}}, ["response.content"], None),
        ({"response": {"usage": {"a": "x" * 65_536}}}, ["response.usage"], None),
        ({"response": {"usage": 5, "content": "Hi"}}, ["response.usage"], None),
        ({"response": {"model": ["a"], "content": "Hi"}}, ["response.model"], None),
        ({"response": {"finish_reason": 1, "content": "Hi"}}, ["response.finish_reason"], None),
        ({"response": {"role": " ", "content": "Hi"}}, ["response.role"], None),
        ({"conversation_id": "x"}, ["conversation_id"], None),
        ({"conversation_id": 5}, ["conversation_id"], None),
        ({"conversation_id": "00000000-0000-4000-8000-00000000000a"}, ["conversation_id"], None),
        (
            {"messages": [HI | {"content": 1}], "response": 1, "conversation_id": ""},
            ["messages.0.content", "response", "conversation_id"],
            None,
        ),
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
async def test_what_is_invalid_is_not_kept_and_named(
    client: httpx.AsyncClient,
    fields: dict[str, Any],
    not_kept: list[str],
    roles: list[str] | None,
) -> None:
    logged = await log_exchange(client, **fields)
    assert [warning["field"] for warning in logged["warnings"]] == not_kept
    for warning in logged["warnings"]:
        assert warning["code"] == "not_kept"
        assert warning["detail"].startswith("Not kept: ")
    messages = await stored_messages(client, logged)
    if roles is not None:
        assert [message["role"] for message in messages][: len(roles)] == roles


NUL, SURROGATE = r"\u0000", r"\ud83d"


@pytest.mark.parametrize("character", [NUL, SURROGATE])
@pytest.mark.parametrize(
    ("fields", "warnings"),
    [
        ({"messages": [{"role": "<>"}]}, {"messages.0.role": "not_kept"}),
        ({"messages": [HI | {"tool_call_id": "<>"}]}, {"messages.0.tool_call_id": "not_kept"}),
        ({"messages": [HI | {"<>": 1}]}, {"messages.0.\0": "not_kept"}),
        ({"messages": [HI | {"parts": [{"<>": 1}]}]}, {"messages.0.parts": "not_kept"}),
        ({"messages": [HI | {"content": {"<>": 1}}]}, {"messages.0.content": "not_kept"}),
        ({"response": {"model": "<>", "content": "Hi"}}, {"response.model": "not_kept"}),
        ({"conversation_id": "<>"}, {"conversation_id": "not_kept"}),
        ({"messages": [HI | {"content": "<>"}]}, {"messages.0.content": "replaced_characters"}),
        (
            {"messages": [HI, HI | {"parts": [{"text": "<>"}]}]},
            {"messages.1.parts.0.text": "replaced_characters"},
        ),
        ({"response": {"content": "<>"}}, {"response.content": "replaced_characters"}),
        ({"response": {"refusal": "<>"}}, {"response.refusal": "replaced_characters"}),
        (
            {"messages": [{"role": "<>", "content": ["<>", "a"]}], "response": {"name": "<>"}},
            {
                "messages.0.role": "not_kept",
                "messages.0.content.0": "replaced_characters",
                "response.name": "replaced_characters",
            },
        ),
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
async def test_characters_that_cannot_be_stored_cost_no_call(
    client: httpx.AsyncClient, character: str, fields: dict[str, Any], warnings: dict[str, str]
) -> None:
    content = json.dumps(EXCHANGE | fields).replace("<>", character)
    headers = {"Content-Type": "application/json"}
    response = await client.post(LOG_EXCHANGE, content=content, headers=headers)
    assert response.status_code == 200
    logged = response.json()
    assert {each["field"]: each["code"] for each in logged["warnings"]} == warnings
    messages = await stored_messages(client, logged)
    assert ("\ufffd" in str(messages)) == ("replaced_characters" in warnings.values())


@pytest.mark.parametrize(("depth", "is_kept"), [(33, True), (128, True), (129, False)])
async def test_depth_costs_no_call(client: httpx.AsyncClient, depth: int, *, is_kept: bool) -> None:
    deep = json.loads("[" * depth + "]" * depth)
    logged = await log_exchange(client, messages=[HI | {"content": deep, "parts": deep}])
    fields = [warning["field"] for warning in logged["warnings"]]
    assert fields == ([] if is_kept else ["messages.0.content", "messages.0.parts"])
    message, _ = await stored_messages(client, logged)
    kept = (deep, deep, True) if is_kept else ("", None, False)
    assert (message["content"], message.get("parts"), message["content_kept"]) == kept
    assert logged["content_kept"] == is_kept


async def test_the_rest_of_an_invalid_message_is_kept(client: httpx.AsyncClient) -> None:
    sent = HI | {"tool_calls": 5, "name": "Bob", "tool_call_id": "call-1", "metadata": {"a": 1}}
    logged = await log_exchange(client, messages=[sent])
    message, _ = await stored_messages(client, logged)
    kept = {name: member for name, member in sent.items() if name != "tool_calls"}
    assert {name: message[name] for name in kept} == kept
    assert message["tool_calls"] is None


@pytest.mark.parametrize(("number", "dropped"), [(10_000, 0), (10_001, 1), (10_300, 300)])
async def test_of_too_many_messages_the_last_are_kept(
    client: httpx.AsyncClient, number: int, dropped: int
) -> None:
    messages = [{"content": f"text {index}"} for index in range(number)]
    logged = await log_exchange(client, messages=messages)
    fields = [warning["field"] for warning in logged["warnings"]]
    assert fields == ([f"messages.0 to messages.{dropped - 1}"] if dropped else [])
    path = f"{CONVERSATIONS}/{logged['conversation_id']}"
    assert (await client.get(path)).json()["message_count"] == 10_001
    [first] = (await client.get(f"{path}/messages?limit=1")).json()
    assert first["content"] == f"text {dropped}"


async def test_the_number_of_warnings_is_limited(client: httpx.AsyncClient) -> None:
    logged = await log_exchange(client, messages=[{"x" * 300: 1, "content": 5}] * 1000)
    assert len(logged["warnings"]) == 100
    assert "900 more" in logged["warnings"][-1]["detail"]
    path = f"{CONVERSATIONS}/{logged['conversation_id']}"
    assert (await client.get(path)).json()["message_count"] == 1001


async def test_an_unknown_conversation_becomes_a_new_one(client: httpx.AsyncClient) -> None:
    unknown = str(uuid4())
    headers = {"Idempotency-Key": "one"}
    body = EXCHANGE | {"conversation_id": unknown}
    first = await client.post(LOG_EXCHANGE, json=body, headers=headers)
    again = await client.post(LOG_EXCHANGE, json=body, headers=headers)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.json()["conversation_id"] != unknown
    assert len(await stored_messages(client, first.json())) == 3
    [call] = (await client.get("/api/v1/logs")).json()
    assert call["conversation_id"] == first.json()["conversation_id"]


async def test_a_deleted_conversation_becomes_a_new_one(client: httpx.AsyncClient) -> None:
    path = await create_conversation(client)
    await client.delete(path)
    logged = await log_exchange(client, conversation_id=path.rpartition("/")[2])
    assert [warning["field"] for warning in logged["warnings"]] == ["conversation_id"]
    assert len(await stored_messages(client, logged)) == 3


async def test_a_conversation_of_another_project_is_unknown(
    client: httpx.AsyncClient, ring: Ring
) -> None:
    other = await ring.conversations.create(ProjectId(uuid4()))
    logged = await log_exchange(client, conversation_id=str(other.id))
    assert logged["conversation_id"] != str(other.id)
    assert len(await stored_messages(client, logged)) == 3
    assert (await ring.conversations.get(other.project_id, other.id)).message_count == 0


async def test_an_unknown_conversation_in_a_caller_s_transaction(
    ring: Ring, project_id: ProjectId
) -> None:
    async with ring.db.transaction() as transaction:
        inside = ring.within(transaction).conversations
        result = await inside.log(project_id, exchange(conversation_id=str(uuid4())))
    assert [warning["field"] for warning in result.warnings] == ["conversation_id"]
    assert len(await ring.conversations.messages(project_id, result.conversation_id)) == 3
    assert len(await ring.usage.logs(project_id)) == 1


def test_a_program_that_embeds_the_server_gets_an_error() -> None:
    for fields in ({"messages": [{"content": 5}]}, {"response": 5}, {"conversation_id": "x"}):
        with pytest.raises(ValidationError):
            Exchange.model_validate(EXCHANGE | fields)


@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        ({"messages": [HI | {"content": 5}]}, [True, False]),
        ({"messages": [HI | {"content": 5, "name": "Bob", "tool_results": [1]}]}, [True, False]),
        ({"messages": [HI | {"content": None, "tool_calls": 1}]}, [False, False]),
        ({"messages": [HI | {"tool_calls": 1}]}, [False, False]),
        ({"response": {"content": 5, "refusal": "No"}}, [False, False, True]),
        ({"response": "Hello"}, [False, False, True]),
        ({"response": None}, [False, False, False]),
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
async def test_content_that_is_not_kept_is_said_to_be_lost(
    client: httpx.AsyncClient, fields: dict[str, Any], lost: list[bool]
) -> None:
    logged = await log_exchange(client, **fields)
    assert logged["content_kept"] == (True not in lost)
    messages = await stored_messages(client, logged)
    assert [not message["content_kept"] for message in messages] == lost
    assert [message["content"] for message in messages if not message["content_kept"]] == [
        ""
    ] * sum(lost)
    for name in ("name", "tool_results"):
        for sent, stored in zip(fields.get("messages", []), messages, strict=False):
            assert stored.get(name) == sent.get(name)


@pytest.mark.parametrize("missing", ["messages", "response"])
async def test_a_missing_member_is_null(client: httpx.AsyncClient, missing: str) -> None:
    body = {name: value for name, value in EXCHANGE.items() if name != missing}
    response = await client.post(LOG_EXCHANGE, json=body)
    assert response.status_code == 200, response.text
    logged = response.json()
    assert [warning["field"] for warning in logged["warnings"]] == [missing]
    assert len(await stored_messages(client, logged)) == (1 if missing == "messages" else 3)


@pytest.mark.parametrize(
    ("metadata", "not_kept", "cost"),
    [
        ({"alias": "x" * 129}, ["metadata.alias"], "0.0045"),
        ({"alias": "a\0"}, ["metadata.alias"], "0.0045"),
        ({"alias": 5, "origin": "x" * 256}, ["metadata.alias", "metadata.origin"], "0.0045"),
        ({"origin": "\ud83d"}, ["metadata.origin"], "0.0045"),
        ({"cost": -1}, ["metadata.cost"], "0.0045"),
        ({"cost": "much", "output_cost": 0.25}, ["metadata.cost"], "0.25"),
        ({"input_cost": 999_999_999, "output_cost": 9}, ["metadata.cost"], "0.0045"),
        ({"input_tokens": -1}, ["metadata.input_tokens"], None),
        ({"input_tokens": -1, "cost": 0.5}, ["metadata.input_tokens"], "0.5"),
        ({"cached_tokens": -1}, ["metadata.cached_tokens"], None),
        (
            {"cached_tokens": -1, "usage": {"prompt_tokens": 1000, "completion_tokens": 200}},
            ["metadata.cached_tokens"],
            "0.0045",
        ),
        (
            {"input_tokens": 1.5, "output_tokens": "x"},
            ["metadata.input_tokens", "metadata.output_tokens"],
            None,
        ),
        ({"audio_input_tokens": 2000}, ["metadata"], None),
        ({"audio_input_tokens": 2000, "cost": 0.5}, ["metadata"], "0.5"),
        (
            {"service_tier": "", "latency_ms": -1},
            ["metadata.service_tier", "metadata.latency_ms"],
            "0.0045",
        ),
        ({"status": "odd", "usage": 5}, ["metadata.status", "metadata.usage"], "0.0045"),
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
async def test_invalid_labels_and_numbers_cost_no_call(
    client: httpx.AsyncClient, metadata: dict[str, Any], not_kept: list[str], cost: str | None
) -> None:
    content = json.dumps(EXCHANGE | {"metadata": METADATA | metadata})
    headers = {"Content-Type": "application/json", "Idempotency-Key": "one"}
    response = await client.post(LOG_EXCHANGE, content=content, headers=headers)
    assert response.status_code == 200, response.text
    logged = response.json()
    again = await client.post(LOG_EXCHANGE, content=content, headers=headers)
    assert again.json() == logged
    assert [warning["field"] for warning in logged["warnings"]] == not_kept
    assert {warning["code"] for warning in logged["warnings"]} == {"not_kept"}
    [call] = (await client.get("/api/v1/logs")).json()
    assert call["id"] == logged["log_id"]
    assert (call["cost_source"] == "unpriced") == (cost is None)
    assert Decimal(str(call["cost"])) == Decimal(cost or 0)


@pytest.mark.parametrize("profile", ["x" * 65, 5, "a\0"])
async def test_an_invalid_profile_still_says_that_the_call_is_reported(
    client: httpx.AsyncClient, profile: object
) -> None:
    logged = await log_exchange(client, metadata=METADATA | {"profile": profile})
    assert [warning["field"] for warning in logged["warnings"]] == ["metadata.profile"]
    assert logged["log_id"] is None
    assert (await client.get("/api/v1/logs")).json() == []


async def test_reasons_are_in_the_words_of_json(client: httpx.AsyncClient) -> None:
    logged = await log_exchange(
        client,
        messages=[HI | {"tool_calls": 1, "metadata": [], "tool_call_id": "a\0", "cost": []}],
        response={"usage": 5},
        metadata=METADATA | {"input_tokens": 1.5, "cost": "x"},
    )
    assert len(logged["warnings"]) == 7
    for warning in logged["warnings"]:
        for word in ("Value error", "dictionary", "list", "Decimal"):
            assert word not in warning["detail"]


@pytest.mark.parametrize(
    "metadata",
    [{"provider": " "}, {"provider": "a\0"}, {"model": None}, {"model": "x" * 256}],
    ids=str,
)
async def test_a_call_that_cannot_be_logged_is_refused(
    client: httpx.AsyncClient, metadata: dict[str, Any]
) -> None:
    response = await client.post(LOG_EXCHANGE, json=EXCHANGE | {"metadata": METADATA | metadata})
    assert response.status_code == 422
    assert (await client.get(CONVERSATIONS)).json() == []
    assert (await client.get("/api/v1/logs")).json() == []


def image(size: int) -> list[dict[str, Any]]:
    """Return a message with an image as a data URL of about this size."""
    url = "data:image/png;base64," + "A" * size
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


async def test_an_exchange_may_have_large_images(client: httpx.AsyncClient) -> None:
    for size, status in ((20 * MIB, 200), (33 * MIB, 413)):
        response = await client.post(LOG_EXCHANGE, json=EXCHANGE | {"messages": image(size)})
        assert response.status_code == status
        if status == 200:
            [message, _] = await stored_messages(client, response.json())
            assert message["content"] == image(size)[0]["content"]


async def test_large_bodies_take_turns(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_limits, "LARGE_BODY_BYTES", 100)
    path = await create_conversation(client)
    messages = [*[HI | {"name": "x" * 200}] * 5, {"role": 5, "name": "x" * 200}]
    sent = [client.post(f"{path}/messages", json=message) for message in messages]
    statuses = [response.status_code for response in await asyncio.gather(*sent)]
    assert statuses == [200] * 5 + [422]
    assert (await client.get(path)).json()["message_count"] == 5


async def test_projects_take_turns_with_large_bodies(
    ring: Ring, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_limits, "LARGE_BODY_BYTES", 100)
    app: Any = build(ring.db, settings)
    transport = httpx.ASGITransport(app=app)
    served = []

    async def send(key: str) -> None:
        headers = {"X-API-Key": key}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            response = await client.post(LOG_EXCHANGE, json=EXCHANGE | {"messages": image(200)})
        assert response.status_code == 200
        served.append(key)

    flooding, other = uuid4().hex, uuid4().hex
    await app.large_bodies.acquire("the first")
    async with asyncio.TaskGroup() as requests:
        for key in (*[flooding] * 4, other):
            requests.create_task(send(key))
            await asyncio.sleep(0.05)
        app.large_bodies.release("the first")
    assert served.index(other) == 1


async def test_the_limit_of_messages_is_a_setting(ring: Ring, key: str) -> None:
    settings = Settings(auth="open", max_messages_bytes=MIB)
    transport = httpx.ASGITransport(app=build(ring.db, settings))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"X-API-Key": key}
    ) as client:
        path = await create_conversation(client)
        for size, status in ((MIB - 1000, 200), (MIB, 413)):
            [message] = image(size)
            for url, body in (
                (LOG_EXCHANGE, EXCHANGE | {"messages": [message]}),
                (f"{path}/messages", message),
                (f"{path}/messages/batch", {"messages": [message]}),
            ):
                assert (await client.post(url, json=body)).status_code == status
