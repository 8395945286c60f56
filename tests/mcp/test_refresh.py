"""Refreshes of one server at once, and inside a caller's transaction."""

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest
from llmring_server.mcp.models import RefreshRequest, ToolIn, capability_rows
from tests.mcp.test_servers import SERVER


async def test_refreshes_at_once_leave_one_of_them(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, Settings(acquire_timeout=60))
    server = await ring.mcp.servers.register(project_id, SERVER)

    def offers(number: int) -> RefreshRequest:
        own = [ToolIn(name=f"of {number}, {each}") for each in range(20)]
        return RefreshRequest(tools=[ToolIn(name="shared", description=f"{number}"), *own])

    work = [
        ring.mcp.capabilities.refresh(project_id, server.id, offers(each)) for each in range(60)
    ]
    done = await asyncio.gather(*work)
    left = await ring.mcp.capabilities.list(project_id, "tool")
    [winner] = {each.name.split(",")[0] for each in left if each.name != "shared"}
    assert len(left) == 21
    last = max(done, key=lambda each: each.server.refreshed_at or each.server.created_at)
    assert left == last.tools
    assert winner == f"of {left[-1].description}"
    assert len({each.tools[-1].id for each in done}) == 1
    # Nobody kept a connection.
    pool = db._pool
    assert pool
    async with AsyncExitStack() as all_of_them:
        for _ in range(pool.get_max_size()):
            await all_of_them.enter_async_context(pool.acquire(timeout=5))
    await ring.ping()


async def test_a_refresh_goes_with_its_transaction(db: AsyncDatabaseManager, ring: Ring) -> None:
    project_id = ProjectId(uuid4())
    server = await ring.mcp.servers.register(project_id, SERVER)
    offers = RefreshRequest(tools=[ToolIn(name="t")])

    async def undone() -> UUID:
        async with db.transaction() as tx:
            found = await ring.within(tx).mcp.capabilities.refresh(project_id, server.id, offers)
            assert await ring.within(tx).mcp.capabilities.list(project_id, "tool") == found.tools
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await undone()
    assert await ring.mcp.capabilities.list(project_id, "tool") == []


async def test_others_are_served_while_a_refresh_is_prepared(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await ring.mcp.servers.register(project_id, SERVER)
    served = threading.Event()

    def slow(offers: Any) -> str:
        assert served.wait(30)
        return capability_rows(offers)

    monkeypatch.setattr("llmring_server.mcp.capabilities.capability_rows", slow)
    asyncio.get_running_loop().call_soon(served.set)
    offers = RefreshRequest(tools=[ToolIn(name="t")])
    assert (await ring.mcp.capabilities.refresh(project_id, server.id, offers)).tools


def test_no_digest_is_made_of_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmring_server.mcp.models.definition_digest", None)
    with pytest.raises(InvalidRequest, match="64 KiB"):
        capability_rows([ToolIn(name="t", inputSchema={"a": "x" * 70_000})])
