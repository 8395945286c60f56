"""MCP: the servers that a tenant's clients talk to, what those offer, and what their tools did."""

from typing import NamedTuple, Self

from llmring_server.database import Database
from llmring_server.mcp_capabilities import McpCapabilities
from llmring_server.mcp_executions import McpExecutions
from llmring_server.mcp_servers import McpServers


class Mcp(NamedTuple):
    """All that is kept of MCP."""

    servers: McpServers
    capabilities: McpCapabilities
    executions: McpExecutions

    def on(self, database: Database) -> Self:
        return type(self)(*(each.on(database) for each in self))  # type: ignore[arg-type]
