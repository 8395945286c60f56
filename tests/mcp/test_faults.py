"""Executions when things go wrong in between: nothing lost, nothing doubled."""

import asyncio

import pytest

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.errors import RequestInProgress
from llmring_server.mcp.executions import ExecutionPage, NewExecution
from tests.mcp.test_executions import tool_of
from tests.support.connections import terminate_connections


async def test_connections_that_die_lose_and_double_no_execution(
    settings: Settings, project_id: ProjectId, ring: Ring
) -> None:
    tool = await tool_of(ring, project_id)
    async with Ring.open(settings.model_copy(update={"acquire_timeout": 30})) as mortal:
        record = mortal.mcp.executions.record
        work = [record(project_id, tool, NewExecution(input={"n": n})) for n in range(40)]
        work += [
            record(project_id, tool, NewExecution(input={"n": n}), f"key {n}")
            for n in range(40, 80)
        ]
        running = [asyncio.create_task(each) for each in work]
        for _ in range(3):
            await asyncio.sleep(0.05)
            await terminate_connections(settings)
        told = await asyncio.gather(*running)
    stored = await ring.mcp.executions.history(project_id, tool, ExecutionPage(limit=1000))
    assert sorted(each.input["n"] for each in stored) == list(range(80))
    assert {each.id for each in stored} == {execution.id for execution, _ in told}


async def test_a_twin_that_does_not_end_is_a_conflict(
    settings: Settings, project_id: ProjectId, ring: Ring
) -> None:
    tool, done = await tool_of(ring, project_id), NewExecution(input={})
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as other:
        async with other.db.transaction() as tx:
            first, _ = await other.within(tx).mcp.executions.record(project_id, tool, done, "held")
            with pytest.raises(RequestInProgress):
                await other.mcp.executions.record(project_id, tool, done, "held")
        assert await other.mcp.executions.record(project_id, tool, done, "held") == (first, True)
