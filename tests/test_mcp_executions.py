"""What tools did: recorded once, read back in pages, added up."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.ids import moment_of
from llmring_server.maintenance import maintain
from llmring_server.mcp_capability import Capabilities
from llmring_server.mcp_executions import Done
from llmring_server.mcp_offer import Offers, ToolOffer
from llmring_server.tenant import Tenant
from tests.conftest import CALL
from tests.test_mcp_capabilities import ADD, MCP, Found, refreshed
from tests.test_mcp_servers import SERVER, made

DONE: dict[str, Any] = {"input": {"a": 1.50}, "output": {"sum": 2}, "duration_ms": 12}


async def tool(client: httpx.AsyncClient) -> str:
    """Make a tool; return its path."""
    [found] = (await refreshed(client, await made(client), tools=[ADD]))["tools"]
    return f"{MCP}/tools/{found['id']}"


async def tool_of(ring: Ring, tenant: Tenant) -> UUID:
    """Make a tool; return its id."""
    server = await ring.mcp.servers.register(tenant, SERVER)
    offers = Offers(tools=[ToolOffer(name="t")])
    return (await ring.mcp.capabilities.refresh(tenant, server.id, offers)).tools[0].id


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
    stranger = Tenant(uuid4())
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
    monkeypatch.setattr("llmring_server.mcp_executions.PAGE_BYTES", 20_000)
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


async def test_old_executions_are_forgotten_when_their_project_says_so(
    owner: AsyncDatabaseManager,
) -> None:
    ring = Ring(owner)
    tenants = [(await ring.keys.issue(f"project {uuid4()}")).tenant for _ in range(2)]
    tools = [await tool_of(ring, tenant) for tenant in tenants]
    for tenant, each in zip(tenants, tools, strict=True):
        for _ in range(5):
            await ring.mcp.executions.record(tenant, each, Done(input={}))
    at = datetime.now(UTC) - timedelta(days=31)
    aged = f"UPDATE {owner.schema}_mcp.executions SET executed_at = $1 WHERE tenant = ANY ($2)"  # noqa: S608
    await owner.execute(aged, at, tenants)
    recent, _ = await ring.mcp.executions.record(tenants[0], tools[0], Done(input={}))
    assert (await maintain(owner)).executions == 0
    await ring.projects.retain(tenants[0], 30)
    assert (await maintain(owner)).executions == 5
    assert await ring.mcp.executions.history(tenants[0], tools[0]) == [recent]
    assert len(await ring.mcp.executions.history(tenants[1], tools[1])) == 5
    assert moment_of(recent.id) == recent.executed_at


async def test_what_is_offered_no_longer_is_forgotten_unless_it_has_a_history(
    owner: AsyncDatabaseManager,
) -> None:
    ring = Ring(owner)
    tenants = [Tenant(uuid4()), (await ring.keys.issue(f"project {uuid4()}")).tenant]
    aged = f"UPDATE {owner.schema}_mcp.capabilities SET gone_at = $1 WHERE gone_at < now()"  # noqa: S608
    for days, tenant in zip((401, 31), tenants, strict=True):
        server = await ring.mcp.servers.register(tenant, SERVER)
        names = "used", "unused", "back", "there"
        offers = Offers(tools=[ToolOffer(name=name) for name in names])
        used, *_ = sorted(
            (await ring.mcp.capabilities.refresh(tenant, server.id, offers)).tools,
            key=lambda each: each.name != "used",
        )
        await ring.mcp.executions.record(tenant, used.id, Done(input={}))
        left = Offers(tools=[ToolOffer(name="there")])
        await ring.mcp.capabilities.refresh(tenant, server.id, left)
        at = datetime.now(UTC) - timedelta(days=days)
        await owner.execute(f"{aged} AND tenant = $2", at, tenant)
        left.tools = [ToolOffer(name=name) for name in ("back", "there")]
        await ring.mcp.capabilities.refresh(tenant, server.id, left)

    async def names_of(tenant: Tenant) -> list[str]:
        every = Capabilities(all=True)
        return [each.name for each in await ring.mcp.capabilities.list(tenant, "tool", every)]

    assert (await maintain(owner)).capabilities == 1
    assert await names_of(tenants[0]) == ["back", "there", "used"]
    assert await names_of(tenants[1]) == ["back", "there", "unused", "used"]
    await ring.projects.retain(tenants[1], 30)
    assert (await maintain(owner)).capabilities == 1
    assert await names_of(tenants[1]) == ["back", "there", "used"]
