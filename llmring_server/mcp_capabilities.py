"""What MCP servers offer: refreshed as a whole, pinned by digest, under ids that stay."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from llmring_server.bounded import written
from llmring_server.caller import Actor, Auditing
from llmring_server.database import Database
from llmring_server.errors import Conflict
from llmring_server.mcp_capability import (
    Capabilities,
    Capability,
    Refreshed,
    Stored,
    Tool,
    Whose,
    told,
)
from llmring_server.mcp_offer import LONGEST, MOST, Kind, NewTool, Offers, rows
from llmring_server.mcp_prompt import check, declared, filled
from llmring_server.mcp_server import Server
from llmring_server.pages import PAGE_BYTES
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant


class McpCapabilities(Repository):
    """The tools, resources and prompts of every tenant's servers."""

    noun = "mcp_capabilities"

    def __init__(self, database: Database, audit: Auditing) -> None:
        super().__init__(database)
        self._audit = audit

    async def refresh(self, tenant: Tenant, server_id: UUID, offers: Offers) -> Refreshed:
        """Replace all that a server offers, or nothing; what stays keeps its id."""
        at = {"tenant": tenant, "server_id": server_id}
        # Digests of many definitions take seconds, which nobody else should wait for.
        given = await asyncio.to_thread(rows, offers.all())
        counts = orjson.dumps(offers.counts()).decode()
        async with self._database.transaction() as transaction:
            inside = self.on(transaction)
            await inside._one("server", **at)
            server = Server.of(tenant, await inside._one("refreshed", counts=counts, **at))
            found = await inside._all("replace", given=given, **at)
        return _refreshed(tenant, server, found)

    async def add(self, tenant: Tenant, new: NewTool) -> Tool:
        """Add a tool to what a server offers; Conflict if there is one of that name, or no room."""
        at, given = {"tenant": tenant, "server_id": new.server_id}, rows([new])
        async with self._database.transaction() as transaction:
            inside = self.on(transaction)
            await inside._one("server", **at)
            made = await inside._all("add", given=given, **at)
            if not made:
                raise Conflict("The server offers a tool of that name already.")
            offered = await inside._one("recount", **at)
            # Clients send back the page that they were told: what is not on it would be removed.
            if offered["tools"] > MOST or offered["size"] > PAGE_BYTES:
                raise Conflict("The server offers as many tools as one page can hold.")
            tool: Tool = await inside.get(tenant, "tool", made[0]["id"])
        return tool

    async def list(self, tenant: Tenant, kind: Kind, page: Capabilities | None = None) -> list[Any]:
        """Return a page in the order of names; fewer than its limit where they are large."""
        page = page or Capabilities()
        wanted = {"changed": False} | page.model_dump(exclude={"cursor"})
        wanted |= page.place(tenant, kind)
        found = await self._all("list", tenant=tenant, kind=kind, most=PAGE_BYTES, **wanted)
        return [told(tenant, kind, row, _whose(row)) for row in found]

    async def get(self, tenant: Tenant, kind: Kind, id: UUID) -> Any:
        row = await self._one("get", tenant=tenant, kind=kind, id=id, whole=False)
        return told(tenant, kind, row, _whose(row))

    async def stored(self, tenant: Tenant, kind: Kind, id: UUID) -> Stored:
        """Return it with what was recorded of its content."""
        row = await self._one("get", tenant=tenant, kind=kind, id=id, whole=True)
        content = row["content"] and orjson.loads(row["content"])
        return Stored(told(tenant, kind, row, _whose(row)), content, row["content_at"])

    async def keep(self, tenant: Tenant, kind: Kind, id: UUID, content: Any) -> Stored:
        """Record what is in a resource, or what a prompt says."""
        text = written(content, "content", LONGEST)
        async with self._database.transaction() as transaction:
            inside = self.on(transaction)
            await inside._one("keep", tenant=tenant, kind=kind, id=id, content=text)
            return await inside.stored(tenant, kind, id)

    async def render(self, tenant: Tenant, id: UUID, arguments: Mapping[str, Any]) -> Stored:
        """Fill a prompt in; Invalid unless the arguments are those that it takes."""
        prompt, content, at = await self.stored(tenant, "prompt", id)
        takes = declared(prompt.arguments)
        check(takes, arguments)
        return Stored(prompt, filled(content, takes, arguments), at)

    async def acknowledge(
        self, tenant: Tenant, id: UUID, definition_sha256: str, *, actor: Actor
    ) -> Tool:
        """Agree to a tool's definition; Conflict if it has become another one meanwhile."""
        digest = bytes.fromhex(definition_sha256)
        async with self._database.transaction() as transaction:
            inside = self.on(transaction)
            agreed = await inside._all("acknowledge", tenant=tenant, id=id, digest=digest)
            tool: Tool = await inside.get(tenant, "tool", id)
            if not agreed:
                raise Conflict("The definition is another one by now: look at it again.")
            await inside._audit.record(actor, "mcp.tool.acknowledge", str(id), tenant)
        return tool


def _whose(row: asyncpg.Record) -> Whose:
    return Whose(row["server_id"], row["server_name"], row["server_url"])


def _refreshed(tenant: Tenant, server: Server, found: list[asyncpg.Record]) -> Refreshed:
    refreshed, whose = Refreshed(server), Whose(server.id, server.name, server.url)
    for row in found:
        plural = f"{row['kind']}s"
        if row["is_active"]:
            one: Capability = told(tenant, row["kind"], row, whose)
            getattr(refreshed, plural).append(one)
        if row["became"]:
            getattr(getattr(refreshed, row["became"]), plural).append(row["name"])
    return refreshed
