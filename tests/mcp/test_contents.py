"""What is in resources, and what prompts say: as it was recorded, filled in."""

from typing import Any

import httpx
import pytest

from llmring_server.errors import InvalidRequest
from llmring_server.mcp.prompts import ArgumentSpec, argument_specs, render_prompt
from tests.mcp.test_capabilities import GREET, MCP, README, Found, refreshed
from tests.mcp.test_servers import made

MESSAGES = [
    {"role": "user", "content": {"type": "text", "text": "Hello {{ who }}{{ how }}"}},
    {"role": "assistant", "content": "{{ who | default('nobody') }}"},
]


async def only(client: httpx.AsyncClient, kind: str, **offer: Any) -> str:
    """Offer one thing; return its path."""
    base = README if kind == "resources" else GREET
    [found] = (await refreshed(client, await made(client), **{kind: [base | offer]}))[kind]
    return f"{MCP}/{kind}/{found['id']}"


async def rendered(client: httpx.AsyncClient, path: str, arguments: Any) -> Found:
    answer = await client.post(f"{path}/render", json=arguments)
    assert answer.status_code == 200, answer.text
    found: Found = answer.json()
    return found


@pytest.mark.parametrize("kind", ["resources", "prompts"])
async def test_what_nobody_recorded_only_the_live_server_can_tell(
    kind: str, client: httpx.AsyncClient
) -> None:
    path = await only(client, kind)
    found = (await client.get(f"{path}/content")).json()
    assert (found["content"], found["source"], found["recorded_at"]) == (None, "live", None)
    assert "only the MCP server itself" in found["detail"]


async def test_get_resource_content_that_came_with_a_refresh(client: httpx.AsyncClient) -> None:
    path = await only(client, "resources", content="Read me {{ not }} a template")
    found = (await client.get(f"{path}/content")).json()
    assert found["content"] == "Read me {{ not }} a template"
    assert (found["source"], found["detail"]) == ("recorded", None)
    assert found["resource"] == (await client.get(path)).json()
    # A refresh that says nothing of it keeps it.
    server = found["resource"]["server_id"]
    await refreshed(client, f"{MCP}/servers/{server}", resources=[README])
    assert (await client.get(f"{path}/content")).json() == found


@pytest.mark.parametrize("content", ["", "text", {"blob": "AA=="}, [{"text": "a"}, 1.50, None]])
async def test_keep_resource_content(content: Any, client: httpx.AsyncClient) -> None:
    path = await only(client, "resources", content="old")
    kept = await client.put(f"{path}/content", json={"content": content})
    assert (kept.status_code, kept.json()["content"]) == (200, content)
    assert (await client.get(f"{path}/content")).json() == kept.json()


@pytest.mark.parametrize("body", [{}, {"content": None}, {"content": 7}, {"content": "\0"}, []])
async def test_keep_resource_content_refuses_what_is_none(
    body: Any, client: httpx.AsyncClient
) -> None:
    path = await only(client, "resources", content="old")
    assert (await client.put(f"{path}/content", json=body)).status_code == 422
    assert (await client.get(f"{path}/content")).json()["content"] == "old"


async def test_keep_resource_content_is_bounded(client: httpx.AsyncClient) -> None:
    path = await only(client, "resources")
    body = {"content": "x" * 2 * 1024 * 1024}
    assert (await client.put(f"{path}/content", json=body)).status_code == 413
    missing = f"{MCP}/resources/{path[-36:-4]}0000/content"
    assert (await client.put(missing, json={"content": "x"})).status_code == 404


async def test_get_prompt_content(client: httpx.AsyncClient) -> None:
    path = await only(client, "prompts")
    kept = (await client.put(f"{path}/content", json={"content": MESSAGES})).json()
    assert kept == (await client.get(f"{path}/content")).json()
    assert (kept["content"], kept["prompt"]["name"]) == (MESSAGES, "greet")


async def test_keep_prompt_content(client: httpx.AsyncClient) -> None:
    path = await only(client, "prompts", content=MESSAGES)
    await client.put(f"{path}/content", json={"content": "Hi {{ who }}"})
    assert (await rendered(client, path, {"who": "Ada"}))["rendered"] == "Hi Ada"


async def test_render_prompt_of_messages(client: httpx.AsyncClient) -> None:
    path = await only(client, "prompts", content=MESSAGES)
    found = await rendered(client, path, {"who": "Ada"})
    assert found["rendered"] == [
        {"role": "user", "content": {"type": "text", "text": "Hello Ada"}},
        {"role": "assistant", "content": "Ada"},
    ]
    assert (found["arguments"], found["source"]) == ({"who": "Ada"}, "recorded")
    assert found["prompt"] == (await client.get(path)).json()


async def test_render_prompt_of_a_text(client: httpx.AsyncClient) -> None:
    path = await only(client, "prompts", content="Hello {{ who }}, {{ how }}!", arguments={})
    assert (await rendered(client, path, {"who": "Ada", "how": [1]}))[
        "rendered"
    ] == "Hello Ada, [1]!"
    answer = await client.post(f"{path}/render", json={"who": "Ada"})
    assert (answer.status_code, answer.json()["code"]) == (422, "missing_variables")


async def test_render_prompt_that_nobody_recorded(client: httpx.AsyncClient) -> None:
    path = await only(client, "prompts")
    found = await rendered(client, path, {"who": "Ada"})
    assert (found["rendered"], found["source"]) == (None, "live")
    assert "only the MCP server itself" in found["detail"]


@pytest.mark.parametrize("arguments", [{}, {"how": "x"}, {"who": "x", "canary": "x"}])
async def test_render_prompt_checks_its_arguments(
    arguments: Found, client: httpx.AsyncClient
) -> None:
    path = await only(client, "prompts", content="Hello {{ who }}")
    answer = await client.post(f"{path}/render", json=arguments)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("arguments: ")
    assert "canary" not in answer.text


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"'])
async def test_render_prompt_takes_its_arguments_bare(
    body: bytes, client: httpx.AsyncClient
) -> None:
    path = await only(client, "prompts", arguments=None)
    headers = {"Content-Type": "application/json"}
    answer = await client.post(f"{path}/render", content=body, headers=headers)
    assert answer.status_code in {400, 422}


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
def test_arguments_are_declared_in_three_forms(arguments: Any, names: str, required: str) -> None:
    assert argument_specs(arguments) == ArgumentSpec(frozenset(names), frozenset(required))


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
def test_what_comes_out_is_bounded(content: Any) -> None:
    with pytest.raises(InvalidRequest):
        render_prompt(content, argument_specs({}), {"a": "x" * 100_000, "b": ""})
