"""MCP: the servers that a project's clients talk to, what those offer, and what their tools did."""

from typing import NamedTuple, Self

from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.mcp.capabilities import McpCapabilities
from llmring_server.mcp.executions import McpExecutions
from llmring_server.mcp.servers import McpServers


class Mcp(NamedTuple):
    """All that is kept of MCP."""

    servers: McpServers
    capabilities: McpCapabilities
    executions: McpExecutions

    @property
    def services(self) -> tuple[Repository, ...]:
        """The services, in the order in which a project is erased."""
        return self.executions, self.capabilities, self.servers

    def with_database(self, database: Database) -> Self:
        return type(self)(*(each.with_database(database) for each in self))  # type: ignore[arg-type]
