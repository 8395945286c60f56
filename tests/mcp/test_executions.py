"""Executions of MCP tools: record them once, list and summarize them."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.errors import RequestInProgress
from llmring_server.mcp import ExecutionPage, NewToolExecution
from tests.conftest import CALL
from tests.support.connections import terminate_connections
from tests.support.mcp import MCP, Json, make_tool, make_tool_of, refresh, register

EXECUTION: dict[str, Any] = {"input": {"a": 1.50}, "output": {"sum": 2}, "duration_ms": 12}


async def record(client: httpx.AsyncClient, path: str, **fields: Any) -> Json:
    response = await client.post(f"{path}/execute", json=EXECUTION | fields)
    assert response.status_code == 200, response.text
    execution: Json = response.json()
    assert execution.pop("warnings") == []
    return execution


async def test_list_executions(client: httpx.AsyncClient) -> None:
    path = await make_tool(client)
    first = await record(client, path, tool_id=str(uuid4()))
    second = await record(client, path, error="It broke", output=None, duration_ms=None)
    assert {name: first[name] for name in EXECUTION} == EXECUTION
    assert (first["status"], first["error"], first["conversation_id"]) == ("ok", None, None)
    assert (second["status"], second["output"]) == ("error", None)
    assert first["tool_id"] == path.rpartition("/")[2]
    assert (await client.get(f"{path}/history?limit=100")).json() == [second, first]


async def test_record_execution_with_empty_objects(client: httpx.AsyncClient) -> None:
    path = await make_tool(client)
    await record(client, path, input={}, output={}, status="cancelled")
    [execution] = (await client.get(f"{path}/history")).json()
    assert (execution["input"], execution["output"]) == ({}, {})
    assert execution["status"] == "cancelled"


async def test_record_execution_of_a_conversation_and_a_call_of_the_project(
    client: httpx.AsyncClient, ring: Ring
) -> None:
    path = await make_tool(client)
    conversation = (await client.post("/api/v1/conversations", json={})).json()["id"]
    log = (await client.post("/api/v1/log", json=CALL)).json()["log_id"]
    links = {"conversation_id": conversation, "log_id": log}
    execution = await record(client, path, **links)
    assert {name: execution[name] for name in links} == links
    other_project = ProjectId(uuid4())
    foreign = str((await ring.conversations.create(other_project)).id)
    for unknown in (
        {"conversation_id": foreign},
        {"conversation_id": str(uuid4())},
        {"log_id": str(uuid4())},
        {"log_id": conversation},
    ):
        response = await client.post(f"{path}/execute", json=EXECUTION | unknown)
        assert response.status_code == 404
    assert len((await client.get(f"{path}/history")).json()) == 1


@pytest.mark.parametrize(
    "invalid",
    [
        {"input": None},
        {"input": []},
        {"output": []},
        {"output": "x"},
        {"duration_ms": -1},
        {"duration_ms": 2**31},
        {"error": "x" * 10_001},
        {"status": "root"},
        {"conversation_id": "x"},
        {"input": {"a\0": 1}},
    ],
)
async def test_record_execution_rejects_invalid_fields(
    invalid: Json, client: httpx.AsyncClient
) -> None:
    path = await make_tool(client)
    response = await client.post(f"{path}/execute", json=EXECUTION | invalid)
    assert response.status_code == 422
    assert (await client.get(f"{path}/history")).json() == []


async def test_ids_that_are_not_tools_are_not_found(client: httpx.AsyncClient) -> None:
    path = await register(client)
    [resource] = (await refresh(client, path, resources=[{"uri": "x:y"}]))["resources"]
    for id in (resource["id"], str(uuid4())):
        for response in (
            await client.post(f"{MCP}/tools/{id}/execute", json=EXECUTION),
            await client.get(f"{MCP}/tools/{id}/history"),
            await client.get(f"{MCP}/tools/{id}/stats"),
        ):
            assert response.status_code == 404


async def test_record_execution_once_per_idempotency_key(client: httpx.AsyncClient) -> None:
    path, headers = await make_tool(client), {"Idempotency-Key": "k"}
    requests = [client.post(f"{path}/execute", json=EXECUTION, headers=headers) for _ in range(10)]
    responses = await asyncio.gather(*requests)
    assert {response.status_code for response in responses} <= {200, 409}
    replay = await client.post(f"{path}/execute", json=EXECUTION, headers=headers)
    assert replay.headers["Idempotent-Replayed"] == "true"
    [stored] = (await client.get(f"{path}/history")).json()
    assert replay.json() == stored | {"warnings": []}
    other = await client.post(f"{path}/execute", json=EXECUTION | {"input": {}}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    other_tool = await make_tool(client)
    response = await client.post(f"{other_tool}/execute", json=EXECUTION, headers=headers)
    assert response.status_code == 422


async def test_history_is_paged(client: httpx.AsyncClient) -> None:
    path = await make_tool(client)
    recorded = [(await record(client, path))["id"] for _ in range(7)]
    listed, target = list[str](), f"{path}/history?limit=3"
    while target:
        response = await client.get(target)
        listed += [execution["id"] for execution in response.json()]
        target = f"{path}/history{response.links['next']['url']}" if response.links else ""
    assert listed == recorded[::-1]
    for query in ("limit=-1", "limit=0", "limit=1000000000", "cursor=x", "offset=-1"):
        assert (await client.get(f"{path}/history?{query}")).status_code == 422
    cursor = (await client.get(f"{path}/history?limit=3")).links["next"]["url"]
    assert (await client.get(f"{await make_tool(client)}/history{cursor}")).status_code == 422


async def test_a_page_of_large_executions_ends_early(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.mcp.executions.MAX_PAGE_BYTES", 20_000)
    path = await make_tool(client)
    for _ in range(5):
        await record(client, path, input={"a": "x" * 8500})
    first = await client.get(f"{path}/history")
    second = await client.get(f"{path}/history{first.links['next']['url']}")
    assert (len(first.json()), len(second.json())) == (3, 2)


async def test_get_tool_stats(client: httpx.AsyncClient) -> None:
    path = await make_tool(client)
    tool = {"tool_id": path.rpartition("/")[2]}
    none = {"days": 30, "count": 0, "errors": 0, "p50_ms": None, "p95_ms": None}
    assert (await client.get(f"{path}/stats")).json() == tool | none
    for duration in range(1, 21):
        await record(client, path, duration_ms=duration)
    await record(client, path, duration_ms=None, error="x")
    stats = {"days": 7, "count": 21, "errors": 1, "p50_ms": 10, "p95_ms": 19}
    assert (await client.get(f"{path}/stats?days=7")).json() == tool | stats
    assert (await client.get(f"{path}/stats?days=0")).status_code == 422


async def test_lost_connections_neither_lose_nor_repeat_executions(
    settings: Settings, project_id: ProjectId, ring: Ring
) -> None:
    tool = await make_tool_of(ring, project_id)
    async with Ring.open(settings.model_copy(update={"acquire_timeout": 30})) as mortal:
        executions = mortal.mcp.executions
        recordings = [
            executions.record(
                project_id, tool, NewToolExecution(input={"n": n}), f"key {n}" if n >= 40 else None
            )
            for n in range(80)
        ]
        tasks = [asyncio.create_task(recording) for recording in recordings]
        for _ in range(3):
            await asyncio.sleep(0.05)
            await terminate_connections(settings)
        recorded = await asyncio.gather(*tasks)
    stored = await ring.mcp.executions.history(project_id, tool, ExecutionPage(limit=1000))
    assert sorted(execution.input["n"] for execution in stored) == list(range(80))
    assert {execution.id for execution in stored} == {execution.id for execution, _ in recorded}


async def test_a_key_locked_by_another_transaction_is_a_conflict(
    settings: Settings, project_id: ProjectId, ring: Ring
) -> None:
    tool, new = await make_tool_of(ring, project_id), NewToolExecution(input={})
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as other:
        async with other.db.transaction() as tx:
            first, _ = await other.within(tx).mcp.executions.record(project_id, tool, new, "locked")
            with pytest.raises(RequestInProgress):
                await other.mcp.executions.record(project_id, tool, new, "locked")
        assert await other.mcp.executions.record(project_id, tool, new, "locked") == (first, True)
