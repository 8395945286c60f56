"""Contents of MCP resources and prompts: recorded, read and rendered."""

from typing import Any

import httpx
import pytest

from llmring_server.errors import InvalidRequest
from llmring_server.mcp.prompts import ArgumentSpec, argument_spec, render_prompt
from tests.support.mcp import GREET, MCP, README, SERVERS, Json, refresh, register

MESSAGES = [
    {"role": "user", "content": {"type": "text", "text": "Hello {{ who }}{{ how }}"}},
    {"role": "assistant", "content": "{{ who | default('nobody') }}"},
]


async def make_capability(client: httpx.AsyncClient, kind: str, **fields: Any) -> str:
    """Register a server with one of `resources` or `prompts`; return its path."""
    base = README if kind == "resources" else GREET
    path = await register(client)
    [capability] = (await refresh(client, path, **{kind: [base | fields]}))[kind]
    return f"{MCP}/{kind}/{capability['id']}"


async def render(client: httpx.AsyncClient, path: str, arguments: Any) -> Json:
    response = await client.post(f"{path}/render", json=arguments)
    assert response.status_code == 200, response.text
    result: Json = response.json()
    return result


@pytest.mark.parametrize("kind", ["resources", "prompts"])
async def test_content_that_was_not_recorded_is_live(kind: str, client: httpx.AsyncClient) -> None:
    path = await make_capability(client, kind)
    content = (await client.get(f"{path}/content")).json()
    assert (content["content"], content["source"]) == (None, "live")
    assert content["recorded_at"] is None
    assert "from the MCP server itself" in content["detail"]


async def test_get_resource_content_that_a_refresh_recorded(client: httpx.AsyncClient) -> None:
    path = await make_capability(client, "resources", content="Read me {{ not }} a template")
    content = (await client.get(f"{path}/content")).json()
    assert content["content"] == "Read me {{ not }} a template"
    assert (content["source"], content["detail"]) == ("recorded", None)
    assert content["resource"] == (await client.get(path)).json()
    # A refresh without the content does not change it.
    server_path = f"{SERVERS}/{content['resource']['server_id']}"
    await refresh(client, server_path, resources=[README])
    assert (await client.get(f"{path}/content")).json() == content


@pytest.mark.parametrize("content", ["", "text", {"blob": "AA=="}, [{"text": "a"}, 1.50, None]])
async def test_set_resource_content(content: Any, client: httpx.AsyncClient) -> None:
    path = await make_capability(client, "resources", content="old")
    response = await client.put(f"{path}/content", json={"content": content})
    assert (response.status_code, response.json()["content"]) == (200, content)
    assert (await client.get(f"{path}/content")).json() == response.json()


@pytest.mark.parametrize(
    "body", [{}, {"content": None}, {"content": 7}, {"content": {"\0": 1}}, []]
)
async def test_set_resource_content_rejects_invalid_content(
    body: Any, client: httpx.AsyncClient
) -> None:
    path = await make_capability(client, "resources", content="old")
    assert (await client.put(f"{path}/content", json=body)).status_code == 422
    assert (await client.get(f"{path}/content")).json()["content"] == "old"


async def test_set_resource_content_that_is_too_large(client: httpx.AsyncClient) -> None:
    path = await make_capability(client, "resources")
    body = {"content": "x" * 2 * 1024 * 1024}
    assert (await client.put(f"{path}/content", json=body)).status_code == 413


async def test_set_resource_content_of_an_unknown_resource(client: httpx.AsyncClient) -> None:
    path = await make_capability(client, "resources")
    unknown = f"{MCP}/resources/{path[-36:-4]}0000/content"
    assert (await client.put(unknown, json={"content": "x"})).status_code == 404


async def test_get_prompt_content(client: httpx.AsyncClient) -> None:
    path = await make_capability(client, "prompts")
    recorded = (await client.put(f"{path}/content", json={"content": MESSAGES})).json()
    assert (await client.get(f"{path}/content")).json() == recorded
    assert (recorded["content"], recorded["prompt"]["name"]) == (MESSAGES, "greet")


async def test_set_prompt_content(client: httpx.AsyncClient) -> None:
    path = await make_capability(client, "prompts", content=MESSAGES)
    await client.put(f"{path}/content", json={"content": "Hi {{ who }}"})
    assert (await render(client, path, {"who": "Ada"}))["rendered"] == "Hi Ada"


async def test_render_prompt_of_messages(client: httpx.AsyncClient) -> None:
    path = await make_capability(client, "prompts", content=MESSAGES)
    result = await render(client, path, {"who": "Ada"})
    assert result["rendered"] == [
        {"role": "user", "content": {"type": "text", "text": "Hello Ada"}},
        {"role": "assistant", "content": "Ada"},
    ]
    assert (result["arguments"], result["source"]) == ({"who": "Ada"}, "recorded")
    assert result["prompt"] == (await client.get(path)).json()


async def test_render_prompt_of_a_text(client: httpx.AsyncClient) -> None:
    text = "Hello {{ who }}, {{ how }}!"
    path = await make_capability(client, "prompts", content=text, arguments={})
    result = await render(client, path, {"who": "Ada", "how": [1]})
    assert result["rendered"] == "Hello Ada, [1]!"
    response = await client.post(f"{path}/render", json={"who": "Ada"})
    assert (response.status_code, response.json()["code"]) == (422, "missing_variables")


async def test_render_prompt_without_recorded_content(client: httpx.AsyncClient) -> None:
    path = await make_capability(client, "prompts")
    result = await render(client, path, {"who": "Ada"})
    assert (result["rendered"], result["source"]) == (None, "live")
    assert "from the MCP server itself" in result["detail"]


@pytest.mark.parametrize("arguments", [{}, {"how": "x"}, {"who": "x", "canary": "x"}])
async def test_render_prompt_rejects_missing_and_unknown_arguments(
    arguments: Json, client: httpx.AsyncClient
) -> None:
    path = await make_capability(client, "prompts", content="Hello {{ who }}")
    response = await client.post(f"{path}/render", json=arguments)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("arguments: ")
    assert "canary" not in response.text


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"'])
async def test_render_prompt_takes_an_object(body: bytes, client: httpx.AsyncClient) -> None:
    path = await make_capability(client, "prompts", arguments=None)
    headers = {"Content-Type": "application/json"}
    response = await client.post(f"{path}/render", content=body, headers=headers)
    assert response.status_code in {400, 422}


@pytest.mark.parametrize(
    ("arguments", "names", "required"),
    [
        (None, "", ""),
        ({}, "", ""),
        ([], "", ""),
        ([{"name": "a"}, {"name": "b", "required": True}, {"x": 1}], "ab", "b"),
        ({"a": {"required": True}, "b": "a word", "c": {}}, "abc", "a"),
        ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]}, "ab", "b"),
        ({"properties": {"a": {}}, "required": True}, "a", ""),
    ],
)
def test_arguments_may_be_declared_in_three_forms(
    arguments: Any, names: str, required: str
) -> None:
    assert argument_spec(arguments) == ArgumentSpec(frozenset(names), frozenset(required))


@pytest.mark.parametrize(
    "content",
    [
        "{{ a }}" * 11,
        ["{{ a }}"] * 11,
        ["{{ 1 }}"] * 201,
        ["{{b}}" * 1600] * 2,
        "{% for x in y %}",
        "{{ a",
    ],
)
def test_rendering_is_limited(content: Any) -> None:
    with pytest.raises(InvalidRequest):
        render_prompt(content, argument_spec({}), {"a": "x" * 100_000, "b": ""})
