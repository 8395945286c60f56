"""What is kept of MCP, and for how long."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.caller import LIBRARY
from llmring_server.ids import moment_of
from llmring_server.maintenance import maintain
from llmring_server.mcp_capability import Capabilities, Tool
from llmring_server.mcp_executions import Done
from llmring_server.mcp_offer import Offers, ToolOffer
from llmring_server.tenant import Tenant
from tests.test_mcp_executions import tool_of
from tests.test_mcp_servers import SERVER


async def test_old_executions_are_forgotten_when_their_project_says_so(
    owner: AsyncDatabaseManager,
) -> None:
    ring = Ring(owner)
    tenants = [
        (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).tenant for _ in range(2)
    ]
    tools = [await tool_of(ring, tenant) for tenant in tenants]
    for tenant, each in zip(tenants, tools, strict=True):
        for _ in range(5):
            await ring.mcp.executions.record(tenant, each, Done(input={}))
    at = datetime.now(UTC) - timedelta(days=31)
    aged = f"UPDATE {owner.schema}_mcp.executions SET executed_at = $1 WHERE tenant = ANY ($2)"  # noqa: S608, our own
    await owner.execute(aged, at, tenants)
    recent, _ = await ring.mcp.executions.record(tenants[0], tools[0], Done(input={}))
    assert (await maintain(owner, actor=LIBRARY)).executions == 0
    await ring.projects.retain(tenants[0], 30, actor=LIBRARY)
    assert (await maintain(owner, actor=LIBRARY)).executions == 5
    assert await ring.mcp.executions.history(tenants[0], tools[0]) == [recent]
    assert len(await ring.mcp.executions.history(tenants[1], tools[1])) == 5
    assert moment_of(recent.id) == recent.executed_at


async def gone_for(days: int, owner: AsyncDatabaseManager, tenant: Tenant) -> None:
    """Offer tools that went so long ago: one that was used, one that was not, one that is back."""
    ring = Ring(owner)
    server = await ring.mcp.servers.register(tenant, SERVER)

    async def offer(*names: str) -> list[Tool]:
        offers = Offers(tools=[ToolOffer(name=name) for name in names])
        return (await ring.mcp.capabilities.refresh(tenant, server.id, offers)).tools

    *_, used = await offer("back", "there", "unused", "used")
    await ring.mcp.executions.record(tenant, used.id, Done(input={}))
    await offer("there")
    aged = f"UPDATE {owner.schema}_mcp.capabilities SET gone_at = $1 WHERE gone_at < now()"  # noqa: S608, our own
    await owner.execute(f"{aged} AND tenant = $2", datetime.now(UTC) - timedelta(days=days), tenant)
    await offer("back", "there")


async def test_what_is_offered_no_longer_is_forgotten_unless_it_has_a_history(
    owner: AsyncDatabaseManager,
) -> None:
    ring = Ring(owner)
    tenants = [Tenant(uuid4()), (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).tenant]
    for days, tenant in zip((401, 31), tenants, strict=True):
        await gone_for(days, owner, tenant)

    async def names_of(tenant: Tenant) -> list[str]:
        every = Capabilities(all=True)
        return [each.name for each in await ring.mcp.capabilities.list(tenant, "tool", every)]

    assert (await maintain(owner, actor=LIBRARY)).capabilities == 1
    assert await names_of(tenants[0]) == ["back", "there", "used"]
    assert await names_of(tenants[1]) == ["back", "there", "unused", "used"]
    await ring.projects.retain(tenants[1], 30, actor=LIBRARY)
    assert (await maintain(owner, actor=LIBRARY)).capabilities == 1
    assert await names_of(tenants[1]) == ["back", "there", "used"]
