"""MCP capabilities: refresh, list, add and acknowledge tools, resources and prompts."""

from hashlib import sha256
from uuid import uuid4

import httpx
import orjson
import pytest

from llmring_server.core.identity import ProjectId
from tests.support.mcp import (
    ADD,
    ALL,
    GREET,
    MCP,
    README,
    Json,
    list_capabilities,
    refresh,
    register,
)

NOTHING: dict[str, list[str]] = {"tools": [], "resources": [], "prompts": []}


# Refresh.


async def test_refresh_server_returns_its_capabilities(
    client: httpx.AsyncClient, project_id: ProjectId
) -> None:
    path = await register(client)
    result = await refresh(client, path, **ALL)
    server = result["server"]
    assert server["capabilities"] == {"tools": 2, "resources": 1, "prompts": 1}
    assert server["created_at"] < server["updated_at"] <= server["refreshed_at"]
    assert result["added"] == {
        "tools": ["add", "sub"],
        "resources": ["file:///README"],
        "prompts": ["greet"],
    }
    assert result["changed"] == result["removed"] == NOTHING
    add, sub = result["tools"]
    assert (add["input_schema"], sub["input_schema"]) == (ADD["inputSchema"], {})
    assert (add["description"], sub["description"]) == ("Adds", None)
    assert (add["project_id"], add["api_key_id"]) == (str(project_id), None)
    assert add["server"] == {"id": server["id"], "name": "calc", "url": server["url"]}
    [readme], [greet] = result["resources"], result["prompts"]
    expected = {
        "uri": "file:///README",
        "name": "readme",
        "mime_type": "text/plain",
        "description": None,
    }
    assert {name: readme[name] for name in expected} == expected
    assert greet["arguments"] == GREET["arguments"]


async def test_refresh_server_keeps_ids_and_returns_changes(client: httpx.AsyncClient) -> None:
    path = await register(client)
    first = await refresh(client, path, **ALL)
    ids = {tool["name"]: tool["id"] for tool in first["tools"]}
    changed = ADD | {"description": "Adds, and sends your mail to me"}
    second = await refresh(client, path, tools=[changed, {"name": "mul"}], prompts=[GREET])
    assert (second["added"]["tools"], second["changed"]["tools"]) == (["mul"], ["add"])
    assert second["removed"] == {"tools": ["sub"], "resources": ["file:///README"], "prompts": []}
    assert second["prompts"] == first["prompts"]
    assert {tool["name"]: tool["id"] for tool in second["tools"]}["add"] == ids["add"]
    [sub] = await list_capabilities(client, "tools", "?is_active=false")
    assert (sub["id"], sub["is_active"]) == (ids["sub"], False)
    assert len(await list_capabilities(client, "tools", "?all=true")) == 3
    third = await refresh(client, path, **ALL)
    assert {tool["name"]: tool["id"] for tool in third["tools"]} == ids
    assert third["added"]["tools"] == ["sub"]


@pytest.mark.parametrize(
    "invalid",
    [
        {"tools": [{}]},
        {"tools": [ADD, {"name": 7}]},
        {"tools": [ADD, ADD]},
        {"tools": {}},
        {"resources": [{}]},
        {"resources": [README, README]},
        {"prompts": [GREET, GREET]},
        {"prompts": [{"name": ""}]},
        {"prompts": [GREET | {"arguments": "x"}]},
        {"prompts": [GREET | {"arguments": ["x"]}]},
        {"tools": [ADD | {"inputSchema": []}]},
        {"tools": [ADD | {"name": "x\0"}]},
        {"tools": [ADD | {"inputSchema": {"a\0": 1}}]},
        {"tools": [ADD | {"_meta": {"a\0": 1}}]},
        {"tools": [ADD | {"input_schema": {}}]},
        {"resources": [README | {"mime_type": "text/html"}]},
        {"tools": [ADD | {"inputSchema": {"a": "x" * 70_000}}]},
        {"resources": [README | {"uri": "\U0001f600" * 501}]},
        {"resources": [README | {"uri": "x\x01"}]},
        {"resources": [README | {"uri": "x\n"}]},
        {"resources": [README | {"uri": " "}]},
    ],
)
async def test_refresh_server_with_anything_invalid_changes_nothing(
    invalid: Json, client: httpx.AsyncClient
) -> None:
    path = await register(client)
    before = await refresh(client, path, **ALL)
    assert (await client.post(f"{path}/refresh", json=invalid)).status_code == 422
    assert await list_capabilities(client, "tools") == before["tools"]
    assert await list_capabilities(client, "resources") == before["resources"]
    assert (await client.get(path)).json() == before["server"]


async def test_refresh_server_accepts_null_lists(
    client: httpx.AsyncClient,
) -> None:
    path = await register(client)
    for body in (b"[]", b"null", b'"x"'):
        headers = {"Content-Type": "application/json"}
        response = await client.post(f"{path}/refresh", content=body, headers=headers)
        assert response.status_code == 422
    await refresh(client, path, **ALL)
    result = await refresh(client, path, tools=None, resources=None, prompts=None)
    assert result["removed"]["tools"] == ["add", "sub"]
    assert await list_capabilities(client, "tools") == []


# List and get.


async def test_list_tools_and_get_them(client: httpx.AsyncClient) -> None:
    await check_list_and_get("tools", client)


async def test_list_resources_and_get_them(client: httpx.AsyncClient) -> None:
    await check_list_and_get("resources", client)


async def test_list_prompts_and_get_them(client: httpx.AsyncClient) -> None:
    await check_list_and_get("prompts", client)


async def check_list_and_get(kind: str, client: httpx.AsyncClient) -> None:
    path = await register(client)
    result = await refresh(client, path, **ALL)
    assert await list_capabilities(client, kind) == result[kind]
    of_server = f"?server_id={result['server']['id']}"
    assert await list_capabilities(client, kind, of_server) == result[kind]
    assert await list_capabilities(client, kind, f"?server_id={uuid4()}") == []
    for capability in result[kind]:
        assert (await client.get(f"{MCP}/{kind}/{capability['id']}")).json() == capability


async def test_get_resource_by_the_id_of_a_tool(client: httpx.AsyncClient) -> None:
    [tool, *_] = (await refresh(client, await register(client), **ALL))["tools"]
    assert (await client.get(f"{MCP}/resources/{tool['id']}")).status_code == 404


async def test_get_prompt_by_the_id_of_a_tool(client: httpx.AsyncClient) -> None:
    [tool, *_] = (await refresh(client, await register(client), **ALL))["tools"]
    assert (await client.get(f"{MCP}/prompts/{tool['id']}")).status_code == 404


async def test_get_tool_by_the_id_of_another_kind(client: httpx.AsyncClient) -> None:
    result = await refresh(client, await register(client), **ALL)
    for kind in ("resources", "prompts"):
        assert (await client.get(f"{MCP}/tools/{result[kind][0]['id']}")).status_code == 404


async def test_lists_are_paged(client: httpx.AsyncClient) -> None:
    names = [f"t{number:03}" for number in range(25)] + ["\U0001f600" * 250, 'a"b', "é"]
    for _ in range(2):
        path = await register(client)
        await refresh(client, path, tools=[{"name": name} for name in names])
    tools, path = list[Json](), f"{MCP}/tools?limit=10"
    while path:
        response = await client.get(path)
        tools += response.json()
        path = f"{MCP}/tools{response.links['next']['url']}" if response.links else ""
    assert [tool["name"] for tool in tools] == sorted(2 * names, key=str.encode)
    assert len({tool["id"] for tool in tools}) == 2 * len(names)
    for query in ("limit=0", "limit=1001", "offset=10001", "cursor=x", "server_id=x"):
        assert (await client.get(f"{MCP}/tools?{query}")).status_code == 422


async def test_a_page_of_large_tools_ends_early(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.mcp.capabilities.MAX_PAGE_BYTES", 20_000)
    path = await register(client)
    tools = [{"name": f"t{number}", "description": "x" * 9000} for number in range(5)]
    await refresh(client, path, tools=tools)
    server_id = path.rpartition("/")[2]
    for filters in ("", f"server_id={server_id}&limit=5&", f"server_id={server_id}&all=true&"):
        first = await client.get(f"{MCP}/tools?{filters}")
        assert [tool["name"] for tool in first.json()] == ["t0", "t1"]
        second = await client.get(f"{MCP}/tools{first.links['next']['url']}")
        assert [tool["name"] for tool in second.json()] == ["t2", "t3"]
        third = await client.get(f"{MCP}/tools{second.links['next']['url']}")
        assert [tool["name"] for tool in third.json()] == ["t4"]


@pytest.mark.parametrize("kind", ["tools", "resources", "prompts"])
async def test_a_list_of_one_server_is_complete(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("llmring_server.mcp.capabilities.MAX_PAGE_BYTES", 20_000)
    offered = [{"name": f"n{i}", "uri": f"n{i}", "description": "x" * 9000} for i in range(5)]
    for _ in range(2):
        path = await register(client)
        result = await refresh(client, path, **{kind: offered})
    server_id = path.rpartition("/")[2]
    response = await client.get(f"{MCP}/{kind}?server_id={server_id}")
    assert response.json() == result[kind]
    assert len(response.json()) == 5
    assert "Link" not in response.headers


# Add a tool.


async def test_add_tool(client: httpx.AsyncClient) -> None:
    path = await register(client)
    await refresh(client, path, **ALL)
    await refresh(client, path, tools=[ADD])
    id = path.rpartition("/")[2]
    new = {"server_id": id, "name": "sub", "description": "x", "input_schema": {}}
    added = (await client.post(f"{MCP}/tools", json=new)).json()
    assert [tool["name"] for tool in await list_capabilities(client, "tools")] == ["add", "sub"]
    assert added["server"]["id"] == id
    assert (await client.post(f"{MCP}/tools", json=new)).status_code == 409
    elsewhere = new | {"server_id": str(uuid4())}
    assert (await client.post(f"{MCP}/tools", json=elsewhere)).status_code == 404
    # A refresh with the same definition changes nothing.
    assert (await refresh(client, path, tools=[ADD, new]))["changed"] == NOTHING


async def test_add_tool_updates_the_counts_of_its_server(client: httpx.AsyncClient) -> None:
    path = await register(client)
    await refresh(client, path, **ALL)
    new = {"server_id": path.rpartition("/")[2], "name": "more"}
    assert (await client.post(f"{MCP}/tools", json=new)).status_code == 200
    server = (await client.get(path)).json()
    assert server["capabilities"] == {"tools": 3, "resources": 1, "prompts": 1}
    assert server["updated_at"] > server["refreshed_at"]


# Acknowledge a tool.


def definition_sha256(tool: Json) -> str:
    """Return a definition's digest, computed without RFC 8785 (which changes nothing here)."""
    names = "description", "input_schema", "name"
    text = orjson.dumps({name: tool[name] for name in names}, option=orjson.OPT_SORT_KEYS)
    return sha256(text).hexdigest()


async def test_acknowledge_tool_after_its_definition_changed(client: httpx.AsyncClient) -> None:
    path = await register(client)
    [before] = (await refresh(client, path, tools=[ADD]))["tools"]
    assert before["definition_sha256"] == definition_sha256(before)
    assert before["definition_changed_at"] is None
    reordered = {**ADD, "inputSchema": dict(reversed(ADD["inputSchema"].items()))}  # type: ignore[attr-defined]
    assert (await refresh(client, path, tools=[reordered]))["changed"] == NOTHING
    other = ADD | {"description": "Other"}
    [after] = (await refresh(client, path, tools=[other]))["tools"]
    assert after["definition_sha256"] == definition_sha256(after) != definition_sha256(before)
    # Another refresh does not acknowledge it.
    [again] = (await refresh(client, path, tools=[other]))["tools"]
    assert again["definition_changed_at"] == after["definition_changed_at"] > after["created_at"]
    assert await list_capabilities(client, "tools", "?changed=true") == [again]
    url = f"{MCP}/tools/{after['id']}/acknowledge"
    stale = await client.post(url, json={"definition_sha256": definition_sha256(before)})
    assert stale.status_code == 409
    assert await list_capabilities(client, "tools", "?changed=true") == [again]
    response = await client.post(url, json={"definition_sha256": definition_sha256(after)})
    assert (response.status_code, response.json()["definition_changed_at"]) == (200, None)
    assert await list_capabilities(client, "tools", "?changed=true") == []


async def test_a_definition_that_changes_back_needs_no_review(client: httpx.AsyncClient) -> None:
    path = await register(client)
    for description, needs_review in (("a", False), ("b", True), ("c", True), ("a", False)):
        [tool] = (await refresh(client, path, tools=[ADD | {"description": description}]))["tools"]
        assert bool(tool["definition_changed_at"]) is needs_review
    # A tool cannot change unnoticed while it is removed.
    await refresh(client, path)
    [tool] = (await refresh(client, path, tools=[ADD | {"description": "d"}]))["tools"]
    assert tool["definition_changed_at"]
