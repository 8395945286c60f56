"""MCP servers, their tools, resources and prompts, and the executions of their tools.

A catalog for clients of the Model Context Protocol. This server connects to no MCP server and
executes no tool: clients do, and report what they found.
"""

from dataclasses import dataclass

from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.mcp.capabilities import McpCapabilities
from llmring_server.mcp.executions import McpExecutions
from llmring_server.mcp.models import (
    Acknowledgement,
    CapabilityContent,
    CapabilityPage,
    CapabilityRefresh,
    CapabilityRefreshResult,
    ExecutionPage,
    McpPrompt,
    McpResource,
    McpServer,
    McpServerUpdate,
    McpTool,
    NewContent,
    NewMcpServer,
    NewTool,
    NewToolExecution,
    OfferedPrompt,
    OfferedResource,
    OfferedTool,
    ServerPage,
    ToolExecution,
    ToolPage,
    ToolStats,
)
from llmring_server.mcp.servers import McpServers

__all__ = [
    "Acknowledgement",
    "CapabilityContent",
    "CapabilityPage",
    "CapabilityRefresh",
    "CapabilityRefreshResult",
    "ExecutionPage",
    "Mcp",
    "McpCapabilities",
    "McpExecutions",
    "McpPrompt",
    "McpResource",
    "McpServer",
    "McpServerUpdate",
    "McpServers",
    "McpTool",
    "NewContent",
    "NewMcpServer",
    "NewTool",
    "NewToolExecution",
    "OfferedPrompt",
    "OfferedResource",
    "OfferedTool",
    "ServerPage",
    "ToolExecution",
    "ToolPage",
    "ToolStats",
]


@dataclass(frozen=True)
class Mcp:
    """The MCP services: `ring.mcp.servers`, `.capabilities` and `.executions`."""

    servers: McpServers
    capabilities: McpCapabilities
    executions: McpExecutions

    @property
    def services(self) -> tuple[Repository, ...]:
        """The services, in the order in which a project is erased."""
        return self.executions, self.capabilities, self.servers

    def with_database(self, database: Database) -> "Mcp":
        """Return these services working on `database`."""
        return Mcp(
            servers=self.servers.with_database(database),
            capabilities=self.capabilities.with_database(database),
            executions=self.executions.with_database(database),
        )
