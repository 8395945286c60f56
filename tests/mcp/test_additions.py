"""Tools that are added to what a server offers, one by one."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.mcp.test_capabilities import ADD, ALL, MCP, NOTHING, README, offered, refreshed
from tests.mcp.test_servers import made


async def test_add_tool(client: httpx.AsyncClient) -> None:
    path = await made(client)
    await refreshed(client, path, **ALL)
    await refreshed(client, path, tools=[ADD])
    id = path.rpartition("/")[2]
    new = {"server_id": id, "name": "sub", "description": "x", "input_schema": {}}
    added = (await client.post(f"{MCP}/tools", json=new)).json()
    assert [each["name"] for each in await offered(client, "tools")] == ["add", "sub"]
    assert added["server"]["id"] == id
    assert (await client.post(f"{MCP}/tools", json=new)).status_code == 409
    elsewhere = new | {"server_id": str(uuid4())}
    assert (await client.post(f"{MCP}/tools", json=elsewhere)).status_code == 404
    # What a refresh offers is what an addition does: nothing has changed.
    assert (await refreshed(client, path, tools=[ADD, new]))["changed"] == NOTHING


async def test_add_tool_counts(client: httpx.AsyncClient) -> None:
    path = await made(client)
    await refreshed(client, path, **ALL)
    new = {"server_id": path.rpartition("/")[2], "name": "more"}
    assert (await client.post(f"{MCP}/tools", json=new)).status_code == 200
    server = (await client.get(path)).json()
    assert server["capabilities"] == {"tools": 3, "resources": 1, "prompts": 1}
    assert server["updated_at"] > server["refreshed_at"]


async def test_add_tool_of_which_there_are_too_many(client: httpx.AsyncClient) -> None:
    path = await made(client)
    tools = [{"name": f"t{number}"} for number in range(999)]
    await refreshed(client, path, tools=tools, resources=[README])
    await refuses_all_but_one(client, path)
    # Nothing is lost by saying again what was told.
    told = await offered(client, "tools", f"?server_id={path.rpartition('/')[2]}")
    assert (await refreshed(client, path, tools=told))["removed"]["tools"] == []


async def test_add_tool_that_is_too_large_for_the_page(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.mcp.capabilities.MAX_PAGE_BYTES", 20_000)
    path = await made(client)
    await refreshed(client, path, tools=[{"name": "t", "description": "x" * 15_000}])
    await refuses_all_but_one(client, path, description="x" * 3000)


async def refuses_all_but_one(client: httpx.AsyncClient, path: str, **more: Any) -> None:
    new = more | {"server_id": path.rpartition("/")[2]}
    send = [client.post(f"{MCP}/tools", json=new | {"name": f"new {n}"}) for n in range(4)]
    answers = await asyncio.gather(*send)
    assert sorted(each.status_code for each in answers) == [200, 409, 409, 409]
    query = f"?server_id={new['server_id']}"
    count = len(await offered(client, "tools", query))
    assert (await client.get(path)).json()["capabilities"]["tools"] == count
