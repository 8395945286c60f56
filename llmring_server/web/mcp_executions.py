"""What tools of MCP servers did, over HTTP."""

from typing import Annotated
from uuid import UUID

from llmring_server.mcp_executions import Days, Done, Execution, History, ToolStats
from llmring_server.web.call import Call, Key
from llmring_server.web.paging import link
from llmring_server.web.usage import REPLAYED


async def record_execution(call: Call, id: UUID, body: Done, key: Key) -> Execution:
    """Record what a tool did, once if it brings an Idempotency-Key; we never execute any."""
    execution, replayed = await call.ring.mcp.executions.record(call.tenant, id, body, key)
    if replayed:
        call.says = REPLAYED
    return execution


async def list_executions(
    call: Call, id: UUID, query: History
) -> Annotated[list[Execution], "Link"]:
    """List what a tool did, the newest first, a page at a time; fewer where they are large."""
    found = await call.ring.mcp.executions.history(call.tenant, id, query)
    if found:
        call.says = link(query, query.next(call.tenant, found[-1]))
    return found


async def tool_stats(call: Call, id: UUID, query: Days) -> ToolStats:
    """Tell how often a tool was used, how often it failed, and how long it took."""
    return await call.ring.mcp.executions.stats(call.tenant, id, query.days)
