"""The wire contract with published clients: the facts that they rely on, one test each.

Where this server differs from the first one on purpose (a PATCH with null clears a field, a
conversation comes with its newest messages), the tests state its own behaviour.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.conftest import CALL

CONVERSATION = {"id", "title", "system_prompt", "model_alias", "temperature", "max_tokens"} | {
    "api_key_id",
    "project_id",
    "message_count",
    "total_input_tokens",
    "total_output_tokens",
    "total_cost",
    "created_at",
    "updated_at",
    "last_message_at",
    "origin",
}
MESSAGE = {"id", "conversation_id", "role", "content", "tool_calls", "tool_results", "metadata"} | {
    "content_hash",
    "input_tokens",
    "output_tokens",
    "timestamp",
    "receipt_id",
}
TEMPLATE = {"id", "name", "description", "system_prompt", "model", "temperature", "max_tokens"} | {
    "tool_config",
    "api_key_id",
    "project_id",
    "created_by",
    "is_active",
    "usage_count",
    "created_at",
    "updated_at",
    "last_used_at",
}
CALL_FIELDS = {"id", "logged_at", "provider", "model", "alias", "profile", "origin", "cost"} | {
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "metadata",
    "conversation_id",
    "id_at_origin",
}
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")

EXCHANGE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "response": {"content": "yo", "model": "openai:gpt-4o-mini", "finish_reason": "stop"},
    "metadata": {"provider": "openai", "model": "gpt-4o-mini", "alias": "fast"},
}


async def ok(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


async def conversation(client: httpx.AsyncClient, **fields: Any) -> str:
    return str((await ok(await client.post("/api/v1/conversations/", json=fields)))["id"])


# Every route.


@pytest.mark.parametrize(
    "path",
    [
        "/registry",
        "/registry/",
        "/api/v1/conversations",
        "/api/v1/conversations/",
        "/api/v1/templates",
        "/api/v1/templates/",
        "/api/v1/receipts",
        "/api/v1/receipts/",
        "/api/v1/aliases",
        "/api/v1/aliases/",
        "/api/v1/stats",
        "/api/v1/stats/",
        "/api/v1/logs/",
        "/api/v1/mcp/servers/",
        "/api/v1/mcp/tools/",
        "/api/v1/mcp/resources/",
        "/api/v1/mcp/prompts/",
        "/conversations",
        "/conversations/",
    ],
)
async def test_both_slash_forms_answer_without_a_redirect(
    client: httpx.AsyncClient, path: str
) -> None:
    assert not client.follow_redirects
    await ok(await client.get(path))


async def test_an_error_is_json_with_a_text_and_leaves_the_connection_usable(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/api/v1/log", json={"model": 5})
    assert response.status_code == 422
    assert isinstance(response.json()["detail"], str)
    assert {"type", "loc", "msg"} <= response.json()["errors"][0].keys()
    await ok(await client.get("/api/v1/stats"))


async def test_an_unknown_path_is_404_and_an_unknown_method_405_with_allow(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/api/v1/nothing")).status_code == 404
    response = await client.delete("/api/v1/log")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/api/v1/stats", "/api/v1/logs", "/api/v1/conversations"])
async def test_a_missing_key_precedes_the_validation_of_the_query(
    client: httpx.AsyncClient, path: str
) -> None:
    del client.headers["x-api-key"]
    assert (await client.get(path, params={"limit": "x"})).status_code == 401


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/api/v1/stats", ["start_date", "end_date", "group_by"]),
        ("/api/v1/logs", ["limit", "offset", "start_date", "end_date", "alias", "model", "origin"]),
        ("/api/v1/conversations", ["limit", "offset"]),
        ("/api/v1/templates", ["created_by", "limit", "offset"]),
        ("/api/v1/mcp/servers", ["is_active", "project_id"]),
        ("/api/v1/mcp/tools", ["server_id", "is_active", "project_id"]),
        ("/api/v1/mcp/resources", ["server_id", "is_active"]),
        ("/api/v1/mcp/prompts", ["server_id", "is_active"]),
        ("/api/v1/receipts", ["limit", "offset"]),
        ("/api/v1/aliases", ["profile"]),
        ("/registry", ["version", "providers", "capabilities"]),
    ],
)
async def test_an_empty_query_value_is_no_filter(
    client: httpx.AsyncClient, path: str, names: list[str]
) -> None:
    expected = await ok(await client.get(path))
    assert await ok(await client.get(path, params=dict.fromkeys(names, ""))) == expected


async def test_times_are_utc_with_z(client: httpx.AsyncClient) -> None:
    await ok(await client.post("/api/v1/log", json=CALL))
    [call] = await ok(await client.get("/api/v1/logs"))
    id = await conversation(client)
    found = await ok(await client.get(f"/api/v1/conversations/{id}"))
    for text in (call["logged_at"], found["created_at"], found["updated_at"]):
        assert UTC_TIME.fullmatch(text), text


# The server itself.


async def test_health_is_200_with_status_database_and_version(client: httpx.AsyncClient) -> None:
    del client.headers["x-api-key"]
    body = await ok(await client.get("/health"))
    assert (body["status"], body["database"]) == ("healthy", "connected")
    assert body["version"]


async def test_root_names_the_server(client: httpx.AsyncClient) -> None:
    body = await ok(await client.get("/"))
    assert body["name"] == "LLMRing Server"
    assert body["version"]


# The registry.


async def test_registry_lists_models_by_provider_and_name_to_anyone(
    client: httpx.AsyncClient,
) -> None:
    del client.headers["x-api-key"]
    body = await ok(await client.get("/registry"))
    assert {"version", "generated_at", "models", "providers"} <= body.keys()
    for name, model in body["models"].items():
        assert name == f"{model['provider']}:{model['model_name']}"
        for field in ("dollars_per_million_tokens_input", "dollars_per_million_tokens_output"):
            assert model[field] is None or isinstance(model[field], int | float)
    assert {"name", "base_url", "models_endpoint"} <= body["providers"]["openai"].keys()
    assert await ok(await client.get("/registry.json")) == body


async def test_registry_filters_by_provider_and_trims_the_names(client: httpx.AsyncClient) -> None:
    params = {"providers": "anthropic, google"}
    models = (await ok(await client.get("/registry", params=params)))["models"]
    assert {model["provider"] for model in models.values()} == {"anthropic", "google"}


async def test_registry_filters_by_capability(client: httpx.AsyncClient) -> None:
    params = {"capabilities": "vision,function_calling"}
    models = (await ok(await client.get("/registry", params=params)))["models"]
    for model in models.values():
        assert model["supports_vision"]
        assert model["supports_function_calling"]


async def test_registry_answers_304_with_its_etag(client: httpx.AsyncClient) -> None:
    first = await client.get("/registry")
    etag = first.headers["etag"]
    assert re.fullmatch(r'"[^"]+"', etag)
    for tag in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await client.get("/registry", headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)


async def test_an_unknown_edition_of_the_registry_is_404(client: httpx.AsyncClient) -> None:
    assert (await client.get("/registry/v/1999/registry.json")).status_code == 404


# Usage.


@pytest.mark.parametrize("name", ["alias", "profile", "origin", "id_at_origin", "latency_ms"])
async def test_optional_fields_of_a_call_may_be_null(client: httpx.AsyncClient, name: str) -> None:
    await ok(await client.post("/api/v1/log", json={**CALL, name: None}))


@pytest.mark.parametrize(
    "fields",
    [{"cached_input_tokens": None}, {"metadata": None}, {"input_tokens": None}],
)
async def test_null_counts_and_metadata_are_taken(
    client: httpx.AsyncClient, fields: dict[str, None]
) -> None:
    await ok(await client.post("/api/v1/log", json=CALL | fields))


async def test_log_answers_an_id_a_cost_and_a_time(client: httpx.AsyncClient) -> None:
    body = await ok(await client.post("/api/v1/log", json=CALL | {"cost": 0.1}))
    assert UUID(body["log_id"])
    assert body["cost"] == 0.1
    assert datetime.fromisoformat(body["timestamp"])


@pytest.mark.parametrize("limit", ["0", "501", "-1", "x"])
async def test_logs_refuse_a_limit_outside_1_to_500(client: httpx.AsyncClient, limit: str) -> None:
    assert (await client.get("/api/v1/logs", params={"limit": limit})).status_code == 422


async def test_logs_have_the_fields_that_clients_format(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await ok(await client.post("/api/v1/log", json=CALL | {"alias": "a", "origin": "o"}))
    calls = await ok(await client.get("/api/v1/logs"))
    assert calls == sorted(calls, key=lambda call: str(call["logged_at"]), reverse=True)
    for call in calls:
        assert call.keys() >= CALL_FIELDS
        assert isinstance(call["cost"], int | float)
        assert call["profile"] == "default"
    for name in ("alias", "model", "origin"):
        assert len(await ok(await client.get("/api/v1/logs", params={name: calls[0][name]}))) == 2
        assert await ok(await client.get("/api/v1/logs", params={name: "another"})) == []


async def test_stats_have_the_shapes_that_clients_read(client: httpx.AsyncClient) -> None:
    call = CALL | {"alias": "a", "origin": "o", "cost": 0.25}
    await ok(await client.post("/api/v1/log", json=call))
    stats = await ok(await client.get("/api/v1/stats"))
    summary = stats["summary"]
    assert summary["total_requests"] == 1
    assert summary["total_cost"] == "0.25"
    assert summary["total_tokens"] == 1200
    assert (summary["unique_models"], summary["unique_origins"]) == (1, 1)
    [day] = stats["by_day"]
    assert (day["requests"], day["cost"], day["top_model"]) == (1, "0.25", CALL["model"])
    assert datetime.strptime(day["date"], "%Y-%m-%d").replace(tzinfo=UTC)
    assert stats["by_model"][CALL["model"]]["cost"] == "0.25"
    assert stats["by_model"][CALL["model"]]["input_tokens"] == 1000
    assert stats["by_origin"]["o"]["cost"] == 0.25
    assert stats["by_alias"]["a"]["requests"] == 1


async def test_stats_without_calls_have_all_parts(client: httpx.AsyncClient) -> None:
    stats = await ok(await client.get("/api/v1/stats"))
    assert stats["summary"]["total_cost"] == "0"
    assert stats["by_day"] == []
    assert stats["by_model"] == stats["by_origin"] == stats["by_alias"] == {}


@pytest.mark.parametrize("path", ["/api/v1/stats", "/api/v1/logs"])
async def test_dates_are_whole_days_of_utc_and_both_included(
    client: httpx.AsyncClient, path: str
) -> None:
    await ok(await client.post("/api/v1/log", json=CALL))
    today = datetime.now(UTC).date()
    params = {"start_date": f"{today - timedelta(days=1)}", "end_date": f"{today}"}
    body = await ok(await client.get(path, params=params))
    assert (body["summary"]["total_requests"] if "summary" in body else len(body)) == 1


# Conversations.


async def test_a_conversation_takes_null_for_every_field(client: httpx.AsyncClient) -> None:
    fields = ("title", "system_prompt", "model_alias", "max_tokens", "api_key_id", "project_id")
    body = await ok(await client.post("/api/v1/conversations", json=dict.fromkeys(fields)))
    assert body.keys() >= CONVERSATION
    assert (body["model_alias"], body["temperature"]) == ("default", 0.7)
    assert body["api_key_id"] is None


async def test_the_project_of_a_body_is_ignored(client: httpx.AsyncClient) -> None:
    body = {"project_id": "default-user", "api_key_id": "another"}
    made = await ok(await client.post("/api/v1/conversations", json=body))
    assert made["project_id"] != "default-user"
    assert made["api_key_id"] is None


async def test_conversations_are_listed_most_recently_updated_first(
    client: httpx.AsyncClient,
) -> None:
    first, second = await conversation(client), await conversation(client)
    await ok(await client.patch(f"/api/v1/conversations/{first}", json={"title": "t"}))
    listed = await ok(await client.get("/api/v1/conversations/", params={"limit": 100}))
    assert [item["id"] for item in listed] == [first, second]


async def test_an_empty_patch_changes_nothing(client: httpx.AsyncClient) -> None:
    id = await conversation(client, title="t")
    before = await ok(await client.get(f"/api/v1/conversations/{id}"))
    await ok(await client.patch(f"/api/v1/conversations/{id}", json={}))
    assert await ok(await client.get(f"/api/v1/conversations/{id}")) == before


async def test_a_conversation_comes_with_its_newest_messages(client: httpx.AsyncClient) -> None:
    id = await conversation(client)
    for number in range(3):
        body = {"role": "user", "content": f"{number}", "metadata": None}
        await ok(await client.post(f"/api/v1/conversations/{id}/messages", json=body))
    path = f"/api/v1/conversations/{id}"
    found = await ok(await client.get(path, params={"message_limit": 2}))
    assert [message["content"] for message in found["messages"]] == ["1", "2"]
    assert found["messages"][0].keys() >= MESSAGE
    assert (await ok(await client.get(path, params={"include_messages": "false"})))[
        "messages"
    ] == []
    assert (await ok(await client.get(f"/conversations/{id}", params={"message_limit": 100})))[
        "message_count"
    ] == 3


async def test_an_exchange_makes_a_conversation_and_answers_ids(client: httpx.AsyncClient) -> None:
    body = await ok(await client.post("/api/v1/conversations/log", json=EXCHANGE))
    assert body["receipt"] is None
    found = await ok(await client.get(f"/api/v1/conversations/{body['conversation_id']}"))
    assert found["title"] == "fast conversation"
    assert found["model_alias"] == "fast"
    question, reply = found["messages"]
    assert (question["role"], question["content"]) == ("user", "hi")
    assert (reply["id"], reply["role"], reply["content"]) == (
        body["message_id"],
        "assistant",
        "yo",
    )
    assert reply["metadata"]["model"] == "openai:gpt-4o-mini"
    assert reply["metadata"]["provider"] == "openai"
    assert reply["metadata"]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "developer", "content": "x"},
        {"role": "tool", "content": "x", "tool_call_id": "call_1"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]},
        {"content": "without a role"},
        {"role": "user", "content": "x", "metadata": None, "timestamp": None, "tool_calls": None},
    ],
)
async def test_an_exchange_takes_messages_as_providers_shape_them(
    client: httpx.AsyncClient, message: dict[str, Any]
) -> None:
    exchange = EXCHANGE | {"messages": [message]}
    body = await ok(await client.post("/api/v1/conversations/log", json=exchange))
    found = await ok(await client.get(f"/api/v1/conversations/{body['conversation_id']}/messages"))
    # The client cannot load a message without content.
    assert found[0]["content"] == (message["content"] or "")
    assert found[0]["role"] == message.get("role", "user")


async def test_a_batch_repeats_the_id_and_answers_messages_in_order(
    client: httpx.AsyncClient,
) -> None:
    id = await conversation(client)
    messages = [
        {"role": "user", "content": "q", "metadata": {"model_requested": "m", "temperature": 0.7}},
        {"role": "assistant", "content": "a", "input_tokens": 3, "output_tokens": 4},
    ]
    body = {"conversation_id": id, "messages": messages, "logging_level": "full"}
    path = f"/api/v1/conversations/{id}/messages/batch"
    stored = await ok(await client.post(path, json=body))
    assert [message["content"] for message in stored] == ["q", "a"]
    assert stored[1]["output_tokens"] == 4
    found = await ok(await client.get(f"/api/v1/conversations/{id}"))
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (3, 4)
    assert (await client.post(path, json=body | {"logging_level": "some"})).status_code == 422


@pytest.mark.parametrize("limit", ["0", "1001"])
async def test_messages_refuse_a_limit_outside_1_to_1000(
    client: httpx.AsyncClient, limit: str
) -> None:
    path = f"/api/v1/conversations/{await conversation(client)}/messages"
    assert (await client.get(path, params={"limit": limit})).status_code == 422


# Templates.


async def test_a_template_lives_from_creation_to_deletion(client: httpx.AsyncClient) -> None:
    body = {"name": uuid4().hex, "created_by": "me"}
    made = await ok(await client.post("/api/v1/templates/", json=body))
    assert made.keys() >= TEMPLATE
    assert (made["model"], made["temperature"]) == ("claude-3-sonnet-20240229", 0.7)
    assert (made["tool_config"], made["usage_count"], made["last_used_at"]) == ({}, 0, None)
    path = f"/api/v1/templates/{made['id']}"
    changed = await ok(await client.put(path, json={"description": "d", "model": None}))
    assert (changed["description"], changed["model"]) == ("d", made["model"])
    used = await ok(await client.post(f"{path}/use"))
    assert used["usage_count"] == 1
    [stats] = await ok(await client.get("/api/v1/templates/stats"))
    assert stats["template_id"] == made["id"]
    assert stats["template_name"] == body["name"]
    deleted = await ok(await client.delete(path))
    assert deleted["message"] == "Template deleted successfully"
    assert (await client.get(path)).status_code == 404


# Authentication.


async def test_a_key_in_both_headers_is_one_key(client: httpx.AsyncClient, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}", "X-API-Key": key}
    await ok(await client.get("/api/v1/stats", headers=headers))
    headers["Authorization"] = "Bearer another"
    assert (await client.get("/api/v1/stats", headers=headers)).status_code == 400


async def test_another_projects_object_does_not_exist(client: httpx.AsyncClient) -> None:
    id = await conversation(client)
    response = await client.get(f"/api/v1/conversations/{id}", headers={"X-API-Key": "another-key"})
    missing = await client.get(f"/api/v1/conversations/{uuid4()}")
    assert response.status_code == missing.status_code == 404
    assert response.json()["detail"] == missing.json()["detail"]
