"""Retention of MCP executions and removed capabilities."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.maintenance import maintain
from llmring_server.mcp import (
    CapabilityPage,
    CapabilityRefresh,
    McpTool,
    NewToolExecution,
    OfferedTool,
)
from tests.support.mcp import NEW_SERVER, make_tool_of


async def test_old_executions_are_deleted_if_their_project_limits_retention(
    owner: AsyncDatabaseManager,
) -> None:
    ring = Ring(owner)
    project_ids = [
        (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).project_id for _ in range(2)
    ]
    tools = [await make_tool_of(ring, project_id) for project_id in project_ids]
    for project_id, tool in zip(project_ids, tools, strict=True):
        for _ in range(5):
            await ring.mcp.executions.record(project_id, tool, NewToolExecution(input={}))
    at = datetime.now(UTC) - timedelta(days=31)
    update = f"UPDATE {owner.schema}_mcp.executions SET executed_at = $1"  # noqa: S608, our own
    await owner.execute(f"{update} WHERE project_id = ANY ($2)", at, project_ids)
    recent, _ = await ring.mcp.executions.record(
        project_ids[0], tools[0], NewToolExecution(input={})
    )
    assert (await maintain(owner, actor=LIBRARY)).deleted["executions"] == 0
    await ring.projects.retain(project_ids[0], 30, actor=LIBRARY)
    assert (await maintain(owner, actor=LIBRARY)).deleted["executions"] == 5
    assert await ring.mcp.executions.history(project_ids[0], tools[0]) == [recent]
    assert len(await ring.mcp.executions.history(project_ids[1], tools[1])) == 5
    assert timedelta() <= recent.executed_at - moment_of(recent.id) < timedelta(milliseconds=1)


async def make_removed_tools(days: int, owner: AsyncDatabaseManager, project_id: ProjectId) -> None:
    """Offer four tools, of which `unused` and `used` were removed so many days ago.

    `used` has an execution; `back` was removed, too, and offered again.
    """
    ring = Ring(owner)
    server = await ring.mcp.servers.register(project_id, NEW_SERVER)

    async def offer(*names: str) -> list[McpTool]:
        request = CapabilityRefresh(tools=[OfferedTool(name=name) for name in names])
        return (await ring.mcp.capabilities.refresh(project_id, server.id, request)).tools

    *_, used = await offer("back", "there", "unused", "used")
    await ring.mcp.executions.record(project_id, used.id, NewToolExecution(input={}))
    await offer("there")
    at = datetime.now(UTC) - timedelta(days=days)
    update = f"UPDATE {owner.schema}_mcp.capabilities SET removed_at = $1"  # noqa: S608, our own
    await owner.execute(f"{update} WHERE removed_at < now() AND project_id = $2", at, project_id)
    await offer("back", "there")


async def test_removed_capabilities_without_executions_are_deleted(
    owner: AsyncDatabaseManager,
) -> None:
    ring = Ring(owner)
    project_ids = [
        ProjectId(uuid4()),
        (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).project_id,
    ]
    for days, project_id in zip((401, 31), project_ids, strict=True):
        await make_removed_tools(days, owner, project_id)

    async def names_of(project_id: ProjectId) -> list[str]:
        page = CapabilityPage(all=True)
        return [tool.name for tool in await ring.mcp.capabilities.list(project_id, "tool", page)]

    assert (await maintain(owner, actor=LIBRARY)).deleted["capabilities"] == 1
    assert await names_of(project_ids[0]) == ["back", "there", "used"]
    assert await names_of(project_ids[1]) == ["back", "there", "unused", "used"]
    await ring.projects.retain(project_ids[1], 30, actor=LIBRARY)
    assert (await maintain(owner, actor=LIBRARY)).deleted["capabilities"] == 1
    assert await names_of(project_ids[1]) == ["back", "there", "used"]
