"""Refreshes of one server at once, and inside a caller's transaction."""

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.errors import Invalid
from llmring_server.mcp_offer import Offers, ToolOffer, rows
from llmring_server.tenant import Tenant
from tests.test_mcp_servers import SERVER


async def test_refreshes_at_once_leave_one_of_them(
    db: AsyncDatabaseManager, tenant: Tenant
) -> None:
    ring = Ring(db, Settings(acquire_timeout=60))
    server = await ring.mcp.servers.register(tenant, SERVER)

    def offers(number: int) -> Offers:
        own = [ToolOffer(name=f"of {number}, {each}") for each in range(20)]
        return Offers(tools=[ToolOffer(name="shared", description=f"{number}"), *own])

    work = [ring.mcp.capabilities.refresh(tenant, server.id, offers(each)) for each in range(60)]
    done = await asyncio.gather(*work)
    left = await ring.mcp.capabilities.list(tenant, "tool")
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
    tenant = Tenant(uuid4())
    server = await ring.mcp.servers.register(tenant, SERVER)
    offers = Offers(tools=[ToolOffer(name="t")])

    async def undone() -> UUID:
        async with db.transaction() as tx:
            found = await ring.within(tx).mcp.capabilities.refresh(tenant, server.id, offers)
            assert await ring.within(tx).mcp.capabilities.list(tenant, "tool") == found.tools
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await undone()
    assert await ring.mcp.capabilities.list(tenant, "tool") == []


async def test_others_are_served_while_a_refresh_is_prepared(
    ring: Ring, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await ring.mcp.servers.register(tenant, SERVER)
    served = threading.Event()

    def slow(offers: Any) -> str:
        assert served.wait(30)
        return rows(offers)

    monkeypatch.setattr("llmring_server.mcp_capabilities.rows", slow)
    asyncio.get_running_loop().call_soon(served.set)
    offers = Offers(tools=[ToolOffer(name="t")])
    assert (await ring.mcp.capabilities.refresh(tenant, server.id, offers)).tools


def test_no_digest_is_made_of_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmring_server.mcp_offer.digest", None)
    with pytest.raises(Invalid, match="64 KiB"):
        rows([ToolOffer(name="t", inputSchema={"a": "x" * 70_000})])
