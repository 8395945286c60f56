"""What MCP servers offer: refreshed as a whole, pinned by digest, under ids that stay."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.strict_json import dump_bounded_json
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Retention, Table
from llmring_server.errors import Conflict
from llmring_server.mcp.models import (
    LONGEST,
    MAX_CAPABILITIES,
    Capability,
    CapabilityContent,
    CapabilityPage,
    Kind,
    NewTool,
    RefreshRequest,
    RefreshResult,
    ServerRef,
    Tool,
    capability_of_row,
    capability_rows,
)
from llmring_server.mcp.prompts import argument_specs, check_arguments, render_prompt
from llmring_server.mcp.servers import McpServer

# How long inactive capabilities are kept where the project sets no retention.
INACTIVE_CAPABILITY_DAYS = 400


class McpCapabilities(Repository):
    """The tools, resources and prompts of every project's servers."""

    sql = "mcp/capabilities"
    tables = (Table("capabilities", "MCP capabilities", "erase_capabilities", ("UPDATE",), "mcp"),)
    # After the executions: a capability with a history is kept.
    retention = (
        Retention(
            "delete_expired_capabilities",
            "capabilities",
            "capabilities.expire",
            {"days": INACTIVE_CAPABILITY_DAYS},
        ),
    )

    def __init__(self, database: Database, audit: AuditLog) -> None:
        super().__init__(database)
        self._audit = audit

    async def refresh(
        self, project_id: ProjectId, server_id: UUID, offers: RefreshRequest
    ) -> RefreshResult:
        """Replace all that a server offers, or nothing; what stays keeps its id."""
        at = {"project_id": project_id, "server_id": server_id}
        # Digests of many definitions take seconds, which nobody else should wait for.
        given = await asyncio.to_thread(capability_rows, offers.all())
        counts = orjson.dumps(offers.counts()).decode()
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._fetch_one("server", **at)
            server = McpServer.of(
                project_id, await inside._fetch_one("refreshed", counts=counts, **at)
            )
            found = await inside._fetch_all("replace", given=given, **at)
        return _refreshed(project_id, server, found)

    async def add(self, project_id: ProjectId, new: NewTool) -> Tool:
        """Add a tool to what a server offers; Conflict if there is one of that name, or no room."""
        at, given = {"project_id": project_id, "server_id": new.server_id}, capability_rows([new])
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._fetch_one("server", **at)
            made = await inside._fetch_all("add", given=given, **at)
            if not made:
                raise Conflict("The server offers a tool of that name already.")
            offered = await inside._fetch_one("recount", **at)
            # Clients send back the page that they were told: what is not on it would be removed.
            if offered["tools"] > MAX_CAPABILITIES or offered["size"] > MAX_PAGE_BYTES:
                raise Conflict("The server offers as many tools as one page can hold.")
            tool: Tool = await inside.get(project_id, "tool", made[0]["id"])
        return tool

    async def list(
        self, project_id: ProjectId, kind: Kind, page: CapabilityPage | None = None
    ) -> list[Any]:
        """Return a page in the order of names; fewer than its limit where they are large."""
        page = page or CapabilityPage()
        wanted = {"changed": False} | page.model_dump(exclude={"cursor"})
        wanted |= page.place(project_id, kind)
        found = await self._fetch_all(
            "list", project_id=project_id, kind=kind, most=MAX_PAGE_BYTES, **wanted
        )
        return [capability_of_row(project_id, kind, row, _whose(row)) for row in found]

    async def get(self, project_id: ProjectId, kind: Kind, id: UUID) -> Any:
        row = await self._fetch_one("get", project_id=project_id, kind=kind, id=id, whole=False)
        return capability_of_row(project_id, kind, row, _whose(row))

    async def stored(self, project_id: ProjectId, kind: Kind, id: UUID) -> CapabilityContent:
        """Return it with what was recorded of its content."""
        row = await self._fetch_one("get", project_id=project_id, kind=kind, id=id, whole=True)
        content = row["content"] and orjson.loads(row["content"])
        return CapabilityContent(
            capability_of_row(project_id, kind, row, _whose(row)), content, row["content_at"]
        )

    async def keep(
        self, project_id: ProjectId, kind: Kind, id: UUID, content: Any
    ) -> CapabilityContent:
        """Record what is in a resource, or what a prompt says."""
        text = dump_bounded_json(content, "content", LONGEST)
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._fetch_one("keep", project_id=project_id, kind=kind, id=id, content=text)
            return await inside.stored(project_id, kind, id)

    async def render(
        self, project_id: ProjectId, id: UUID, arguments: Mapping[str, Any]
    ) -> CapabilityContent:
        """Fill a prompt in; Invalid unless the arguments are those that it takes."""
        prompt, content, at = await self.stored(project_id, "prompt", id)
        takes = argument_specs(prompt.arguments)
        check_arguments(takes, arguments)
        return CapabilityContent(prompt, render_prompt(content, takes, arguments), at)

    async def acknowledge(
        self, project_id: ProjectId, id: UUID, definition_sha256: str, *, actor: Actor
    ) -> Tool:
        """Agree to a tool's definition; Conflict if it has become another one meanwhile."""
        digest = bytes.fromhex(definition_sha256)
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            agreed = await inside._fetch_all(
                "acknowledge", project_id=project_id, id=id, digest=digest
            )
            tool: Tool = await inside.get(project_id, "tool", id)
            if not agreed:
                raise Conflict("The definition is another one by now: look at it again.")
            await inside._audit.record(actor, "mcp.tool.acknowledge", str(id), project_id)
        return tool


def _whose(row: asyncpg.Record) -> ServerRef:
    return ServerRef(row["server_id"], row["server_name"], row["server_url"])


def _refreshed(
    project_id: ProjectId, server: McpServer, found: list[asyncpg.Record]
) -> RefreshResult:
    refreshed, whose = RefreshResult(server), ServerRef(server.id, server.name, server.url)
    for row in found:
        plural = f"{row['kind']}s"
        if row["is_active"]:
            one: Capability = capability_of_row(project_id, row["kind"], row, whose)
            getattr(refreshed, plural).append(one)
        if row["became"]:
            getattr(getattr(refreshed, row["became"]), plural).append(row["name"])
    return refreshed
