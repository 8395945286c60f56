"""MCP servers over HTTP, under both kinds of app."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from llmring_server.core.identity import ProjectId
from llmring_server.mcp.servers import NewServer

ROOT = "/api/v1/mcp/servers"
URL = "http://localhost:8080/mcp"
SENT: dict[str, Any] = {"name": "calc", "url": URL, "transport_type": "http"}
SERVER = NewServer(**SENT)


async def made(client: httpx.AsyncClient, **more: Any) -> str:
    """Register a server; return its path."""
    answer = await client.post(ROOT, json=SENT | more)
    assert answer.status_code == 200, answer.text
    return f"{ROOT}/{answer.json()['id']}"


async def test_get_server(client: httpx.AsyncClient, project_id: ProjectId) -> None:
    path = await made(client, capabilities={}, project_id=str(uuid4()), is_active=False)
    found = (await client.get(path)).json()
    assert {name: found[name] for name in SENT} == SENT
    assert (found["project_id"], found["api_key_id"]) == (str(project_id), None)
    assert (found["is_active"], found["capabilities"], found["auth_config"]) == (True, {}, None)
    assert found["created_at"].endswith("Z")
    assert found["refreshed_at"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None}, {"name": ""}, {"name": "x" * 256}, {"name": "a\0"},
        {"transport_type": "tcp"}, {"capabilities": []}, {"auth_config": "x"},
        {"capabilities": {"a": "x" * 66_000}},
        {"auth_config": {"a": "x" * 66_000}},
    ],
)  # fmt: skip
async def test_register_server_refuses_what_is_wrong(
    wrong: dict[str, Any], client: httpx.AsyncClient
) -> None:
    answer = await client.post(ROOT, json=SENT | wrong)
    assert answer.status_code == 422
    assert (await client.get(ROOT)).json() == []


async def test_list_servers_of_one_kind_or_all(client: httpx.AsyncClient) -> None:
    paths = [await made(client, name=name) for name in ("a", "b", "c")]
    await client.put(paths[1], json={"is_active": False})
    for query, names in (
        ("", "ca"), ("?is_active=", "ca"), ("?is_active=true", "ca"), ("?is_active=false", "b"),
        ("?all=true", "cba"), (f"?is_active=false&project_id={uuid4()}", "b"),
    ):  # fmt: skip
        found = (await client.get(ROOT + query)).json()
        assert "".join(each["name"] for each in found) == names, query


async def test_list_servers_in_pages(client: httpx.AsyncClient) -> None:
    for name in "abcde":
        await made(client, name=name)
    path, names = f"{ROOT}?limit=2", ""
    while path:
        answer = await client.get(path)
        names += "".join(each["name"] for each in answer.json())
        link = answer.links.get("next")
        path = f"{ROOT}{link['url']}" if link else ""
    assert names == "edcba"
    for query in ("limit=0", "limit=1001", "cursor=x", "is_active=x"):
        assert (await client.get(f"{ROOT}?{query}")).status_code == 422


async def test_change_server_ignores_null(
    client: httpx.AsyncClient,
) -> None:
    path = await made(client, capabilities={"a": 1})
    for answer in (
        await client.put(path, json={"name": "other", "capabilities": None}),
        await client.put(path, json={}),
    ):
        assert answer.json()["name"] == "other", answer.text
        assert answer.json()["capabilities"] == {"a": 1}
    assert (await client.put(path, json={"transport_type": "stdio"})).json()["name"] == "other"


async def test_amend_server_clears_with_null(client: httpx.AsyncClient) -> None:
    path = await made(client, capabilities={"a": 1})
    for body in ({}, {"name": None}):
        answer = await client.patch(path, json=body)
        assert (answer.status_code, answer.json()["name"]) == (200, "calc")
        assert answer.json()["capabilities"] == {"a": 1}
    cleared = (await client.patch(path, json={"capabilities": None, "url": "stdio://x"})).json()
    assert (cleared["capabilities"], cleared["url"]) == (None, "stdio://x")


async def test_delete_server(client: httpx.AsyncClient) -> None:
    path = await made(client)
    assert (await client.delete(path)).json() == {"message": "Server deleted successfully"}
    for answer in (await client.get(path), await client.delete(path)):
        assert answer.status_code == 404
