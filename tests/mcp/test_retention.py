"""What is kept of MCP, and for how long."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.maintenance import maintain
from llmring_server.mcp.executions import NewExecution
from llmring_server.mcp.models import CapabilityPage, RefreshRequest, Tool, ToolIn
from tests.mcp.test_executions import tool_of
from tests.mcp.test_servers import SERVER


async def test_old_executions_are_forgotten_when_their_project_says_so(
    owner: AsyncDatabaseManager,
) -> None:
    ring = Ring(owner)
    project_ids = [
        (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).project_id for _ in range(2)
    ]
    tools = [await tool_of(ring, project_id) for project_id in project_ids]
    for project_id, each in zip(project_ids, tools, strict=True):
        for _ in range(5):
            await ring.mcp.executions.record(project_id, each, NewExecution(input={}))
    at = datetime.now(UTC) - timedelta(days=31)
    aged = f"UPDATE {owner.schema}_mcp.executions SET executed_at = $1 WHERE project_id = ANY ($2)"  # noqa: S608, our own
    await owner.execute(aged, at, project_ids)
    recent, _ = await ring.mcp.executions.record(project_ids[0], tools[0], NewExecution(input={}))
    assert (await maintain(owner, actor=LIBRARY)).deleted["executions"] == 0
    await ring.projects.retain(project_ids[0], 30, actor=LIBRARY)
    assert (await maintain(owner, actor=LIBRARY)).deleted["executions"] == 5
    assert await ring.mcp.executions.history(project_ids[0], tools[0]) == [recent]
    assert len(await ring.mcp.executions.history(project_ids[1], tools[1])) == 5
    assert moment_of(recent.id) == recent.executed_at


async def gone_for(days: int, owner: AsyncDatabaseManager, project_id: ProjectId) -> None:
    """Offer tools that went so long ago: one that was used, one that was not, one that is back."""
    ring = Ring(owner)
    server = await ring.mcp.servers.register(project_id, SERVER)

    async def offer(*names: str) -> list[Tool]:
        offers = RefreshRequest(tools=[ToolIn(name=name) for name in names])
        return (await ring.mcp.capabilities.refresh(project_id, server.id, offers)).tools

    *_, used = await offer("back", "there", "unused", "used")
    await ring.mcp.executions.record(project_id, used.id, NewExecution(input={}))
    await offer("there")
    aged = f"UPDATE {owner.schema}_mcp.capabilities SET gone_at = $1 WHERE gone_at < now()"  # noqa: S608, our own
    await owner.execute(
        f"{aged} AND project_id = $2", datetime.now(UTC) - timedelta(days=days), project_id
    )
    await offer("back", "there")


async def test_what_is_offered_no_longer_is_forgotten_unless_it_has_a_history(
    owner: AsyncDatabaseManager,
) -> None:
    ring = Ring(owner)
    project_ids = [
        ProjectId(uuid4()),
        (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).project_id,
    ]
    for days, project_id in zip((401, 31), project_ids, strict=True):
        await gone_for(days, owner, project_id)

    async def names_of(project_id: ProjectId) -> list[str]:
        every = CapabilityPage(all=True)
        return [each.name for each in await ring.mcp.capabilities.list(project_id, "tool", every)]

    assert (await maintain(owner, actor=LIBRARY)).deleted["capabilities"] == 1
    assert await names_of(project_ids[0]) == ["back", "there", "used"]
    assert await names_of(project_ids[1]) == ["back", "there", "unused", "used"]
    await ring.projects.retain(project_ids[1], 30, actor=LIBRARY)
    assert (await maintain(owner, actor=LIBRARY)).deleted["capabilities"] == 1
    assert await names_of(project_ids[1]) == ["back", "there", "used"]
