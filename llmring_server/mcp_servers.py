"""MCP servers: where they are, and, sealed, what opens them."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from llmring_server.bounded import written
from llmring_server.caller import Actor, Auditing
from llmring_server.database import Database
from llmring_server.errors import Invalid, Sealed
from llmring_server.ids import moment_of, new_id
from llmring_server.mcp_server import CONFIGURED, NewServer, Server, ServerChange, Servers
from llmring_server.pages import PAGE_BYTES
from llmring_server.reach import is_public
from llmring_server.repository import Repository
from llmring_server.sealing import LONGEST, Sealing
from llmring_server.settings import Settings
from llmring_server.tenant import Tenant

AT_ONCE = 500


class McpServers(Repository):
    """The MCP servers of every tenant. We never call any of them."""

    noun = "mcp_servers"

    def __init__(self, database: Database, audit: Auditing, settings: Settings) -> None:
        super().__init__(database)
        self._audit = audit
        self._sealing = Sealing(settings.sealing_keys)
        self._only_public = settings.mcp_urls == "public"

    async def register(self, tenant: Tenant, new: NewServer) -> Server:
        """Register a server, whose id tells when."""
        id = new_id()
        given = self._given(tenant, id, new)
        return await self._server("register", tenant, id=id, created_at=moment_of(id), **given)

    async def get(self, tenant: Tenant, id: UUID) -> Server:
        return await self._server("get", tenant, id=id)

    async def list(self, tenant: Tenant, page: Servers | None = None) -> list[Server]:
        """Return a page of servers, the newest first; fewer than its limit where they are large."""
        page = page or Servers()
        wanted = page.model_dump(include={"all", "is_active", "limit", "offset"})
        last_id = page.after(tenant, b"servers").last_id
        wanted |= {"last_id": last_id, "most": PAGE_BYTES}
        rows = await self._all("list", tenant=tenant, **wanted)
        return [Server.of(tenant, row) for row in rows]

    async def change(self, tenant: Tenant, id: UUID, change: ServerChange) -> Server:
        """Change what is said and not null."""
        return await self._change(tenant, id, change, change.given(clears=False))

    async def amend(self, tenant: Tenant, id: UUID, change: ServerChange) -> Server:
        """Change what is said; null clears what can be nothing."""
        return await self._change(tenant, id, change, change.given(clears=True))

    async def delete(self, tenant: Tenant, id: UUID) -> None:
        """Delete a server, what it offers, and what its tools did."""
        await self._one("delete", tenant=tenant, id=id)

    async def secret(self, tenant: Tenant, id: UUID, *, actor: Actor) -> dict[str, Any] | None:
        """Return what opens a server, if anything does; the audit is told."""
        async with self._database.transaction() as inside:
            here = self.on(inside)
            row = await here._one("secret", tenant=tenant, id=id)
            await here._audit.record(actor, "mcp.secret.read", str(id), tenant)
        found: dict[str, Any] | None = (
            self._sealing.open(tenant, id, row["secret"]) if row["secret"] else None
        )
        return found

    async def reseal(self, *, actor: Actor) -> tuple[int, int]:
        """Encrypt with the first key each secret that another key encrypted, while serving goes on.

        Return the number of these secrets, and the number of those that no key can decrypt. The
        audit event is committed with the first secret.
        """
        key = self._sealing.head
        resealed = stuck = 0
        async for row in self._stale(key):
            tenant, id, was = Tenant(row["tenant"]), row["id"], row["secret"]
            try:
                secret = self._sealing.seal(tenant, id, self._sealing.open(tenant, id, was))
            except Sealed:
                stuck += 1
                continue
            async with self._database.transaction() as inside:
                here = self.on(inside)
                changed = await here._all("reseal", tenant=tenant, id=id, secret=secret, was=was)
                if changed and not resealed:
                    await here._audit.record(actor, "mcp.secrets.reseal", "all")
            resealed += bool(changed)
        return resealed, stuck

    async def _stale(self, key: bytes) -> AsyncIterator[Any]:
        last: Sequence[UUID | None] = (None, None)
        place = ("last_tenant", "last_id")
        while rows := await self._all(
            "stale", key=key, limit=AT_ONCE, **dict(zip(place, last, strict=True))
        ):
            for row in rows:
                yield row
            last = rows[-1]["tenant"], rows[-1]["id"]

    async def _change(
        self, tenant: Tenant, id: UUID, change: ServerChange, given: Sequence[str]
    ) -> Server:
        if not given:
            return await self.get(tenant, id)
        fields = self._given(tenant, id, change) | {"is_active": change.is_active}
        return await self._server("change", tenant, id=id, given=given, **fields)

    def _given(self, tenant: Tenant, id: UUID, said: NewServer | ServerChange) -> dict[str, Any]:
        if said.url and self._only_public and not is_public(said.url):
            raise Invalid("url: must name a public host, as this server's operator asks")
        known, secret = said.capabilities, said.auth_config
        return {
            "name": said.name,
            "url": said.url,
            "transport_type": said.transport_type,
            "capabilities": known if known is None else written(known, "capabilities", LONGEST),
            "secret": self._sealing.seal(tenant, id, secret)
            if secret and secret != CONFIGURED
            else None,
        }

    async def _server(self, statement: str, tenant: Tenant, **params: Any) -> Server:
        return Server.of(tenant, await self._one(statement, tenant=tenant, **params))
