"""Refreshes of an MCP server: concurrent ones, and inside a caller's transaction."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest
from llmring_server.mcp import CapabilityRefresh, OfferedTool
from llmring_server.mcp.capabilities import rows_as_json
from llmring_server.mcp.models import OfferedCapability
from tests.support.mcp import NEW_SERVER


async def test_concurrent_refreshes_do_not_mix(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, Settings(acquire_timeout=60))
    server = await ring.mcp.servers.register(project_id, NEW_SERVER)

    def request(number: int) -> CapabilityRefresh:
        own = [OfferedTool(name=f"of {number}, {index}") for index in range(20)]
        return CapabilityRefresh(tools=[OfferedTool(name="shared", description=f"{number}"), *own])

    results = await asyncio.gather(
        *(ring.mcp.capabilities.refresh(project_id, server.id, request(n)) for n in range(60))
    )
    tools = await ring.mcp.capabilities.list(project_id, "tool")
    assert len(tools) == 21
    [owner] = {tool.name.split(",")[0] for tool in tools if tool.name != "shared"}
    last = max(results, key=lambda result: result.server.refreshed_at or result.server.created_at)
    assert tools == last.tools
    assert owner == f"of {tools[-1].description}"
    assert len({result.tools[-1].id for result in results}) == 1
    # All connections are back in the pool.
    pool = db._pool
    assert pool
    async with AsyncExitStack() as connections:
        for _ in range(pool.get_max_size()):
            await connections.enter_async_context(pool.acquire(timeout=5))
    await ring.ping()


async def test_a_refresh_is_rolled_back_with_the_caller_s_transaction(
    db: AsyncDatabaseManager, ring: Ring
) -> None:
    project_id = ProjectId(uuid4())
    server = await ring.mcp.servers.register(project_id, NEW_SERVER)
    request = CapabilityRefresh(tools=[OfferedTool(name="t")])

    async def refresh_and_fail() -> None:
        async with db.transaction() as tx:
            capabilities = ring.within(tx).mcp.capabilities
            result = await capabilities.refresh(project_id, server.id, request)
            assert await capabilities.list(project_id, "tool") == result.tools
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await refresh_and_fail()
    assert await ring.mcp.capabilities.list(project_id, "tool") == []


async def test_preparing_a_refresh_does_not_block_other_requests(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await ring.mcp.servers.register(project_id, NEW_SERVER)
    loop_is_running = threading.Event()

    def rows_after_the_loop_ran(capabilities: Sequence[OfferedCapability]) -> str:
        assert loop_is_running.wait(30)
        return rows_as_json(capabilities)

    monkeypatch.setattr("llmring_server.mcp.capabilities.rows_as_json", rows_after_the_loop_ran)
    asyncio.get_running_loop().call_soon(loop_is_running.set)
    request = CapabilityRefresh(tools=[OfferedTool(name="t")])
    assert (await ring.mcp.capabilities.refresh(project_id, server.id, request)).tools


def test_no_digest_is_computed_of_a_definition_that_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmring_server.mcp.capabilities.definition_digest", None)
    with pytest.raises(InvalidRequest, match="64 KiB"):
        rows_as_json([OfferedTool(name="t", inputSchema={"a": "x" * 70_000})])


def nested_schema(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(("depth", "status"), [(64, 200), (128, 200), (129, 422), (180, 422)])
async def test_a_schema_that_is_too_deep_is_named(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId, depth: int, status: int
) -> None:
    server = await ring.mcp.servers.register(project_id, NEW_SERVER)
    schema = nested_schema(depth)
    tools = [{"name": "t"}, {"name": "deep", "inputSchema": schema}]
    url = f"/api/v1/mcp/servers/{server.id}/refresh"
    response = await client.post(url, json={"tools": tools})
    assert response.status_code == status, response.text
    if status == 200:
        [tool] = [each for each in response.json()["tools"] if each["name"] == "deep"]
        stored = (await client.get(f"/api/v1/mcp/tools/{tool['id']}")).json()
        assert tool["input_schema"] == stored["input_schema"] == schema
    else:
        assert response.json()["detail"].startswith("tools.1.inputSchema: must be nested at most")
        assert (await client.get("/api/v1/mcp/tools")).json() == []
