"""What tools did: recorded once, read back in pages, added up."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.mcp.models import RefreshRequest, ToolIn
from tests.conftest import CALL
from tests.mcp.test_capabilities import ADD, MCP, Found, refreshed
from tests.mcp.test_servers import SERVER, made

DONE: dict[str, Any] = {"input": {"a": 1.50}, "output": {"sum": 2}, "duration_ms": 12}


async def tool(client: httpx.AsyncClient) -> str:
    """Make a tool; return its path."""
    [found] = (await refreshed(client, await made(client), tools=[ADD]))["tools"]
    return f"{MCP}/tools/{found['id']}"


async def tool_of(ring: Ring, project_id: ProjectId) -> UUID:
    """Make a tool; return its id."""
    server = await ring.mcp.servers.register(project_id, SERVER)
    offers = RefreshRequest(tools=[ToolIn(name="t")])
    return (await ring.mcp.capabilities.refresh(project_id, server.id, offers)).tools[0].id


async def recorded(client: httpx.AsyncClient, path: str, **more: Any) -> Found:
    answer = await client.post(f"{path}/execute", json=DONE | more)
    assert answer.status_code == 200, answer.text
    found: Found = answer.json()
    return found


async def test_list_executions(client: httpx.AsyncClient) -> None:
    path = await tool(client)
    first = await recorded(client, path, tool_id=str(uuid4()))
    second = await recorded(client, path, error="It broke", output=None, duration_ms=None)
    assert {name: first[name] for name in DONE} == DONE
    assert (first["status"], first["error"], first["conversation_id"]) == ("ok", None, None)
    assert (second["status"], second["output"]) == ("error", None)
    assert first["tool_id"] == path.rpartition("/")[2]
    assert (await client.get(f"{path}/history?limit=100")).json() == [second, first]


async def test_record_execution_keeps_what_is_empty(client: httpx.AsyncClient) -> None:
    path = await tool(client)
    await recorded(client, path, input={}, output={}, status="cancelled")
    [found] = (await client.get(f"{path}/history")).json()
    assert (found["input"], found["output"], found["status"]) == ({}, {}, "cancelled")


async def test_record_execution_names_a_conversation_and_a_call_of_one_s_own(
    client: httpx.AsyncClient, ring: Ring
) -> None:
    path = await tool(client)
    conversation = (await client.post("/api/v1/conversations", json={})).json()["id"]
    log = (await client.post("/api/v1/log", json=CALL)).json()["log_id"]
    links = {"conversation_id": conversation, "log_id": log}
    found = await recorded(client, path, **links)
    assert {name: found[name] for name in links} == links
    stranger = ProjectId(uuid4())
    theirs = str((await ring.conversations.create(stranger)).id)
    for wrong in (
        {"conversation_id": theirs}, {"conversation_id": str(uuid4())}, {"log_id": str(uuid4())},
        {"log_id": conversation},
    ):  # fmt: skip
        assert (await client.post(f"{path}/execute", json=DONE | wrong)).status_code == 404
    assert len((await client.get(f"{path}/history")).json()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": None}, {"input": []}, {"output": []}, {"output": "x"}, {"duration_ms": -1},
        {"duration_ms": 2**31}, {"error": "x" * 10_001}, {"status": "root"},
        {"conversation_id": "x"}, {"input": {"a": "\0"}},
    ],
)  # fmt: skip
async def test_record_execution_refuses_what_is_wrong(
    wrong: Found, client: httpx.AsyncClient
) -> None:
    path = await tool(client)
    assert (await client.post(f"{path}/execute", json=DONE | wrong)).status_code == 422
    assert (await client.get(f"{path}/history")).json() == []


async def test_record_execution_of_what_is_no_tool(client: httpx.AsyncClient) -> None:
    offers = {"resources": [{"uri": "x:y"}]}
    [found] = (await refreshed(client, await made(client), **offers))["resources"]
    for id in (found["id"], str(uuid4())):
        for answer in (
            await client.post(f"{MCP}/tools/{id}/execute", json=DONE),
            await client.get(f"{MCP}/tools/{id}/history"),
            await client.get(f"{MCP}/tools/{id}/stats"),
        ):
            assert answer.status_code == 404


async def test_record_execution_once_with_a_key(client: httpx.AsyncClient) -> None:
    path, headers = await tool(client), {"Idempotency-Key": "k"}
    send = [client.post(f"{path}/execute", json=DONE, headers=headers) for _ in range(10)]
    answers = await asyncio.gather(*send)
    assert {answer.status_code for answer in answers} <= {200, 409}
    replay = await client.post(f"{path}/execute", json=DONE, headers=headers)
    assert replay.headers["Idempotent-Replayed"] == "true"
    assert (await client.get(f"{path}/history")).json() == [replay.json()]
    other = await client.post(f"{path}/execute", json=DONE | {"input": {}}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    elsewhere = await client.post(f"{await tool(client)}/execute", json=DONE, headers=headers)
    assert elsewhere.status_code == 422


async def test_history_comes_in_pages(client: httpx.AsyncClient) -> None:
    path = await tool(client)
    ids = [(await recorded(client, path))["id"] for _ in range(7)]
    found, target = list[str](), f"{path}/history?limit=3"
    while target:
        answer = await client.get(target)
        found += [each["id"] for each in answer.json()]
        target = f"{path}/history{answer.links['next']['url']}" if answer.links else ""
    assert found == ids[::-1]
    for query in ("limit=-1", "limit=0", "limit=1000000000", "cursor=x", "offset=-1"):
        assert (await client.get(f"{path}/history?{query}")).status_code == 422
    cursor = (await client.get(f"{path}/history?limit=3")).links["next"]["url"]
    assert (await client.get(f"{await tool(client)}/history{cursor}")).status_code == 422


async def test_a_page_of_history_ends_where_it_would_be_too_large(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.mcp.executions.MAX_PAGE_BYTES", 20_000)
    path = await tool(client)
    for _ in range(5):
        await recorded(client, path, input={"a": "x" * 9000})
    answer = await client.get(f"{path}/history")
    rest = await client.get(f"{path}/history{answer.links['next']['url']}")
    assert (len(answer.json()), len(rest.json())) == (3, 2)


async def test_tool_stats(client: httpx.AsyncClient) -> None:
    path = await tool(client)
    empty = (await client.get(f"{path}/stats")).json()
    assert {name: empty[name] for name in ("count", "errors", "p50_ms", "p95_ms")} == {
        "count": 0, "errors": 0, "p50_ms": None, "p95_ms": None,
    }  # fmt: skip
    for duration in range(1, 21):
        await recorded(client, path, duration_ms=duration)
    await recorded(client, path, duration_ms=None, error="x")
    found = (await client.get(f"{path}/stats?days=7")).json()
    assert found == {
        "tool_id": path.rpartition("/")[2], "days": 7, "count": 21, "errors": 1,
        "p50_ms": 10, "p95_ms": 19,
    }  # fmt: skip
    assert (await client.get(f"{path}/stats?days=0")).status_code == 422
