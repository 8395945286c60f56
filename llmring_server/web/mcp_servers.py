"""MCP servers, over HTTP."""

from typing import Annotated, Any
from uuid import UUID

from typing_extensions import TypedDict

from llmring_server.mcp_capability import Refreshed
from llmring_server.mcp_offer import Offers
from llmring_server.mcp_server import NewServer, Server, ServerChange, Servers
from llmring_server.web.call import Call
from llmring_server.web.paging import link


class Removed(TypedDict):
    """That a server is gone."""

    message: str


class Secret(TypedDict):
    """What a client must show to a server."""

    auth_config: dict[str, Any] | None


async def register_server(call: Call, body: NewServer) -> Server:
    """Register an MCP server; we never call it."""
    return await call.ring.mcp.servers.register(call.tenant, body)


async def list_servers(call: Call, query: Servers) -> Annotated[list[Server], "Link"]:
    """List MCP servers, the newest first, a page at a time; fewer where they are large."""
    found = await call.ring.mcp.servers.list(call.tenant, query)
    if found:
        call.says = link(query, query.next(call.tenant, found[-1]))
    return found


async def get_server(call: Call, id: UUID) -> Server:
    """Show an MCP server, without what opens it."""
    return await call.ring.mcp.servers.get(call.tenant, id)


async def change_server(call: Call, id: UUID, body: ServerChange) -> Server:
    """Change what is given and not null."""
    return await call.ring.mcp.servers.change(call.tenant, id, body)


async def amend_server(call: Call, id: UUID, body: ServerChange) -> Server:
    """Change what is given; null clears what can be nothing."""
    return await call.ring.mcp.servers.amend(call.tenant, id, body)


async def delete_server(call: Call, id: UUID) -> Removed:
    """Delete a server, what it offers, and what its tools did."""
    await call.ring.mcp.servers.delete(call.tenant, id)
    return {"message": "Server deleted successfully"}


async def get_secret(call: Call, id: UUID) -> Secret:
    """Show what opens a server; the audit is told."""
    return {"auth_config": await call.ring.mcp.servers.secret(call.tenant, id, actor=call.actor)}


async def refresh_server(call: Call, id: UUID, body: Offers) -> Refreshed:
    """Replace all that a server offers, or nothing; what stays keeps its id and its history."""
    return await call.ring.mcp.capabilities.refresh(call.tenant, id, body)
