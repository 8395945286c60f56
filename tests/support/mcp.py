"""MCP servers, tools and executions for tests, through the API and through a ring."""

from typing import Any
from uuid import UUID

import httpx
import orjson

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.mcp import CapabilityRefresh, NewMcpServer, OfferedTool

MCP = "/api/v1/mcp"
SERVERS = f"{MCP}/servers"

SERVER: dict[str, Any] = {
    "name": "calc",
    "url": "http://localhost:8080/mcp",
    "transport_type": "http",
}
NEW_SERVER = NewMcpServer(**SERVER)

ADD = {
    "name": "add",
    "description": "Adds",
    "inputSchema": {"type": "object", "required": ["a"], "properties": {"a": {"minimum": 0.5}}},
}
README = {"uri": "file:///README", "name": "readme", "mimeType": "text/plain"}
GREET = {"name": "greet", "arguments": [{"name": "who", "required": True}, {"name": "how"}]}
ALL = {"tools": [ADD, {"name": "sub"}], "resources": [README], "prompts": [GREET]}

Json = dict[str, Any]


async def register(client: httpx.AsyncClient, **fields: Any) -> str:
    """Register a server; return its path."""
    response = await client.post(SERVERS, json=SERVER | fields)
    assert response.status_code == 200, response.text
    return f"{SERVERS}/{response.json()['id']}"


async def refresh(client: httpx.AsyncClient, path: str, **capabilities: Any) -> Json:
    """Refresh the server at this path; return the result."""
    response = await client.post(f"{path}/refresh", json=capabilities)
    assert response.status_code == 200, response.text
    result: Json = response.json()
    return result


async def list_capabilities(client: httpx.AsyncClient, kind: str, query: str = "") -> list[Json]:
    """List `tools`, `resources` or `prompts`."""
    capabilities: list[Json] = (await client.get(f"{MCP}/{kind}{query}")).json()
    return capabilities


def json_bytes(*values: Any) -> int:
    """Return what values take as JSON."""
    return sum(len(orjson.dumps(value)) for value in values)


async def make_tool(client: httpx.AsyncClient) -> str:
    """Register a server with a tool; return the tool's path."""
    [tool] = (await refresh(client, await register(client), tools=[ADD]))["tools"]
    return f"{MCP}/tools/{tool['id']}"


async def make_tool_of(ring: Ring, project_id: ProjectId) -> UUID:
    """Register a server with a tool; return the tool's id."""
    server = await ring.mcp.servers.register(project_id, NEW_SERVER)
    request = CapabilityRefresh(tools=[OfferedTool(name="t")])
    return (await ring.mcp.capabilities.refresh(project_id, server.id, request)).tools[0].id
