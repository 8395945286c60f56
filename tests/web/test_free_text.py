"""Characters that cannot be stored: replaced in texts to read, refused in names and ids."""

import json
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.support.conversations import EXCHANGE
from tests.support.isolation import mcp_of

CHARACTERS = (r"\u0000", r"\ud800", r"\uDE00", "\ud800")
HOLE = "HOLE"

CONVERSATION = "/api/v1/conversations/{conversation}"
EXECUTIONS = "/api/v1/mcp/tools/{tools}/execute"
MESSAGES = f"{CONVERSATION}/messages"
RESOURCE = "/api/v1/mcp/resources/{resources}/content"


def message(**fields: Any) -> dict[str, Any]:
    return {"role": "user"} | fields


def exchange(**fields: Any) -> dict[str, Any]:
    return EXCHANGE | {"conversation_id": "{conversation}"} | fields


# Method, URL and body of a request with a text to read, and where that is read.
FREE: list[tuple[str, str, Any, str]] = [
    ("POST", "/api/v1/log", CALL | {"metadata": {"a": HOLE}}, "/api/v1/logs"),
    ("POST", "/api/v1/logs/batch", [CALL | {"metadata": {"a": [HOLE]}}], "/api/v1/logs"),
    ("POST", MESSAGES, message(content=HOLE), MESSAGES),
    ("POST", MESSAGES, message(content=[{"text": HOLE}]), MESSAGES),
    ("POST", MESSAGES, message(content={"parts": [{"text": HOLE}]}), MESSAGES),
    ("POST", MESSAGES, message(tool_calls=[{"arguments": HOLE}]), MESSAGES),
    ("POST", MESSAGES, message(tool_results=[HOLE]), MESSAGES),
    ("POST", MESSAGES, message(metadata={"a": HOLE}), MESSAGES),
    ("POST", f"{MESSAGES}/batch", {"messages": [message(content=HOLE)]}, MESSAGES),
    ("POST", "/api/v1/conversations/log", exchange(messages=[message(content=HOLE)]), MESSAGES),
    ("POST", "/api/v1/conversations/log", exchange(response={"content": HOLE}), MESSAGES),
    ("POST", "/api/v1/conversations/log", exchange(response={"usage": {"a": HOLE}}), MESSAGES),
    ("PATCH", CONVERSATION, {"title": HOLE}, CONVERSATION),
    ("PATCH", CONVERSATION, {"system_prompt": HOLE}, CONVERSATION),
    ("POST", EXECUTIONS, {"input": {"a": HOLE}}, "/api/v1/mcp/tools/{tools}/history"),
    ("POST", EXECUTIONS, {"input": {}, "output": {"a": HOLE}}, "/api/v1/mcp/tools/{tools}/history"),
    ("POST", EXECUTIONS, {"input": {}, "error": HOLE}, "/api/v1/mcp/tools/{tools}/history"),
    ("PUT", RESOURCE, {"content": HOLE}, RESOURCE),
]

# Method, URL and body of a request with a name or an id, and the field that the error names.
NAMES: list[tuple[str, str, Any, str]] = [
    ("POST", "/api/v1/log", CALL | {"origin": HOLE}, "origin"),
    ("POST", "/api/v1/log", CALL | {"idempotency_key": HOLE}, "idempotency_key"),
    ("POST", "/api/v1/log", CALL | {"metadata": {HOLE: 1}}, "metadata"),
    ("POST", "/api/v1/log", CALL | {"metadata": {"a": [{HOLE: 1}]}}, "metadata"),
    ("POST", "/api/v1/logs/batch", [CALL, CALL | {"alias": HOLE}], "1.alias"),
    ("POST", "/api/v1/logs/batch", [CALL, CALL | {"metadata": {HOLE: ""}}], "1.metadata"),
    ("POST", MESSAGES, {"role": HOLE}, "role"),
    ("POST", MESSAGES, message(tool_call_id=HOLE), "tool_call_id"),
    ("POST", MESSAGES, message(content=[{HOLE: 1}]), "content"),
    ("POST", f"{MESSAGES}/batch", {"messages": [{"role": HOLE}]}, "messages.0.role"),
    ("PATCH", CONVERSATION, {"model_alias": HOLE}, "model_alias"),
    ("POST", "/api/v1/aliases/bind", {"alias": HOLE, "model": "p:m"}, "alias"),
    ("PATCH", "/api/v1/mcp/servers/{servers}", {"name": HOLE}, "name"),
    ("PATCH", "/api/v1/mcp/servers/{servers}", {"auth_config": {"token": HOLE}}, "auth_config"),
    ("POST", "/api/v1/mcp/servers/{servers}/refresh", {"tools": [{"name": HOLE}]}, "tools.0.name"),
]


@pytest.fixture
async def ids(client: httpx.AsyncClient, ring: Ring, project_id: ProjectId) -> dict[str, str]:
    conversation = (await client.post("/api/v1/conversations", json={})).json()["id"]
    mcp = {kind: str(id) for kind, id in (await mcp_of(ring, project_id)).items()}
    return mcp | {"conversation": conversation}


async def send(
    client: httpx.AsyncClient, ids: dict[str, str], case: tuple[str, str, Any, str], text: str
) -> httpx.Response:
    method, url, body, _ = case
    content = json.dumps(body).replace(HOLE, f"x{text}y")
    content = content.replace("{conversation}", ids["conversation"])
    return await client.request(
        method,
        url.format(**ids),
        content=content.encode(errors="surrogatepass"),
        headers={"Content-Type": "application/json"},
    )


@pytest.mark.parametrize("case", FREE, ids=lambda case: json.dumps(case[2])[:60])
async def test_a_character_of_a_text_that_cannot_be_stored_is_replaced(
    client: httpx.AsyncClient, ids: dict[str, str], case: tuple[str, str, Any, str]
) -> None:
    method, _, _, read = case
    for sent, character in enumerate(CHARACTERS, 1):
        response = await send(client, ids, case, character)
        assert response.status_code == 200, response.text
        answer = json.dumps((await client.get(read.format(**ids))).json(), ensure_ascii=False)
        assert answer.count('"x\ufffdy"') == (1 if method != "POST" else sent)


@pytest.mark.parametrize("case", NAMES, ids=lambda case: json.dumps(case[2])[:60])
async def test_a_character_of_a_name_that_cannot_be_stored_is_refused(
    client: httpx.AsyncClient, ids: dict[str, str], case: tuple[str, str, Any, str]
) -> None:
    field = case[3]
    for character in CHARACTERS:
        response = await send(client, ids, case, character)
        assert response.status_code == 422, response.text
        assert response.json()["detail"].startswith(f"{field}: must not ")
        assert "U+0000" in response.json()["detail"]
        [error] = response.json()["errors"]
        assert ".".join(map(str, error["loc"])) == field


@pytest.mark.parametrize(
    ("metadata", "fields"),
    [
        ('{"a": {"b": [1, "#"]}}', ["metadata.a.b.1"]),
        ('{"a": "#", "b": "#"}', ["metadata.a", "metadata.b"]),
        (json.dumps({"k" * 300: "#"}), [f"metadata.{'k' * 243}..."]),
        (json.dumps({"a": ["#"] * 100}), [f"metadata.a.{index}" for index in range(100)]),
        (json.dumps({"a": ["#"] * 5000}), [f"metadata.a.{index}" for index in range(100)]),
        ('{"a": "x"}', []),
        (r'{"a": "\\u0000 \\ud800"}', []),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_the_answer_names_each_text_that_was_changed(
    client: httpx.AsyncClient, metadata: str, fields: list[str]
) -> None:
    call = json.dumps(CALL)[:-1] + f', "metadata": {metadata}}}'
    headers = {"Content-Type": "application/json"}
    content = call.replace("#", r"\u0000")
    response = await client.post("/api/v1/log", content=content, headers=headers)
    assert response.status_code == 200, response.text
    warnings = response.json()["warnings"]
    assert [warning["field"] for warning in warnings] == fields
    assert {warning["code"] for warning in warnings} <= {"replaced_characters"}
    more = metadata.count("#") - len(fields)
    assert not fields or (f"{more:,} more" in warnings[-1]["detail"]) == (more > 0)


async def test_text_that_is_ignored_refuses_no_call(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/log", json=CALL | {"prompt": "a\0", "x": [{"y": "\0"}]})
    assert response.status_code == 200, response.text


async def test_a_repeated_call_is_replayed_with_its_warnings(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "key"}
    call = CALL | {"metadata": {"a": "\0"}}
    first, again = [await client.post("/api/v1/log", json=call, headers=headers) for _ in range(2)]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.json() == again.json()
    assert len(first.json()["warnings"]) == 1


@pytest.mark.parametrize("text", ["a\0", "a\ud800", "\udfff", "ü\0"])
async def test_the_library_replaces_characters_of_metadata(
    ring: Ring, project_id: ProjectId, text: str
) -> None:
    given = {"a": text, "b": [{"c": text, "d": "ü"}]}
    await ring.usage.log(project_id, NewCall.model_validate(CALL | {"metadata": given}))
    stored = text.translate(dict.fromkeys([0, 0xD800, 0xDFFF], "\ufffd"))
    [call] = await ring.usage.logs(project_id)
    assert call.metadata == {"a": stored, "b": [{"c": stored, "d": "ü"}]}
    assert given == {"a": text, "b": [{"c": text, "d": "ü"}]}


@pytest.mark.parametrize("character", ["\0", "\ud800"])
@pytest.mark.parametrize(
    "name", ["provider", "model", "alias", "profile", "origin", "id_at_origin", "service_tier"]
)
async def test_the_library_refuses_characters_of_names(
    ring: Ring, project_id: ProjectId, name: str, character: str
) -> None:
    call = NewCall.model_construct(**(NewCall(**CALL).model_dump() | {name: f"a{character}"}))
    for key in (None, "key"):
        with pytest.raises(InvalidRequest, match=r"must not contain U\+0000"):
            await ring.usage.log(project_id, call, key)
    with pytest.raises(InvalidRequest, match=r"must not contain U\+0000"):
        await ring.usage.log_many(project_id, [NewCall(**CALL), call])
    assert await ring.usage.logs(project_id) == []


@pytest.mark.parametrize("metadata", [{"\0": 1}, {"a": [{"\ud800": 1}]}, {1: 2}, {"k" * 1025: 1}])
async def test_the_library_refuses_invalid_keys_of_metadata(metadata: dict[Any, Any]) -> None:
    with pytest.raises(ValidationError, match="metadata"):
        NewCall.model_validate(CALL | {"metadata": metadata})
