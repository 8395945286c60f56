"""MCP servers: where they are, and their credentials, encrypted."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.core.ids import new_id_and_time
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.strict_json import dump_bounded_json
from llmring_server.db.database import Database
from llmring_server.db.quotas import Quota
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import DecryptionFailed, InvalidRequest
from llmring_server.mcp.models import (
    SECRET_PLACEHOLDER,
    McpServer,
    McpServerUpdate,
    NewMcpServer,
    ServerPage,
)
from llmring_server.mcp.secrets import SecretBox
from llmring_server.mcp.urls import is_public
from llmring_server.settings import Settings

MAX_CAPABILITIES_BYTES = 64 * 1024
REENCRYPT_BATCH_SIZE = 500


class McpServers(Repository):
    """The MCP servers of every project. This server never connects to any of them."""

    row_kind = "Server"
    sql = "mcp/servers"
    replica_reads = frozenset({"list"})
    tables = (Table("servers", "MCP servers", "erase_servers", ("UPDATE", "DELETE"), "mcp"),)

    def __init__(self, database: Database, audit: AuditLog, settings: Settings) -> None:
        super().__init__(database)
        self._audit = audit
        self._quota = Quota(
            database,
            settings.max_mcp_servers,
            setting="LLMRING_MAX_MCP_SERVERS",
            kind="MCP servers",
            remedy="delete some",
        )
        self._secret_box = SecretBox(settings.sealing_keys)
        self._public_urls_only = settings.mcp_urls == "public"

    def configure(self, settings: Settings) -> None:
        self._quota.limit = settings.max_mcp_servers
        self._public_urls_only = settings.mcp_urls == "public"

    async def register(self, project_id: ProjectId, new: NewMcpServer) -> McpServer:
        """Register a server. Its id, a UUIDv7, holds the time of its creation."""
        id, created_at = new_id_and_time()
        columns = self._columns(project_id, id, new)
        slot = self._quota.slot(project_id)
        async with slot, self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            row = await inside._quota.add(
                project_id,
                lambda: inside._fetch_all(
                    "register",
                    project_id=project_id,
                    id=id,
                    created_at=created_at,
                    quota=self._quota.limit,
                    **columns,
                ),
            )
        return McpServer.from_row(project_id, row)

    async def get(self, project_id: ProjectId, id: UUID) -> McpServer:
        """Return a server, without its credentials."""
        return await self._fetch_server("get", project_id, id=id)

    async def list(self, project_id: ProjectId, page: ServerPage | None = None) -> list[McpServer]:
        """Return a page of servers, newest first; a page of large servers ends early."""
        page = page or ServerPage()
        rows = await self._fetch_all(
            "list",
            project_id=project_id,
            all=page.all,
            is_active=page.is_active,
            last_id=page.after(project_id, b"servers").last_id,
            limit=page.limit,
            offset=page.offset,
            max_bytes=MAX_PAGE_BYTES,
        )
        return [McpServer.from_row(project_id, row, self._read_json) for row in rows]

    async def update(self, project_id: ProjectId, id: UUID, update: McpServerUpdate) -> McpServer:
        """Change a server's fields; null is ignored."""
        return await self._update(project_id, id, update, update.changed_fields(null_clears=False))

    async def patch(self, project_id: ProjectId, id: UUID, update: McpServerUpdate) -> McpServer:
        """Change a server's fields; null clears `auth_config` and `capabilities`."""
        return await self._update(project_id, id, update, update.changed_fields(null_clears=True))

    async def delete(self, project_id: ProjectId, id: UUID) -> None:
        """Delete a server with its capabilities and their executions."""
        await self._fetch_one("delete", project_id=project_id, id=id)

    async def read_secret(
        self, project_id: ProjectId, id: UUID, *, actor: Actor
    ) -> dict[str, Any] | None:
        """Return a server's credentials, if it has any, and record that in the audit log."""
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            row = await inside._fetch_one("get_secret", project_id=project_id, id=id)
            await inside._audit.record(actor, "mcp.secret.read", str(id), project_id)
        if row["secret"] is None:
            return None
        secret: dict[str, Any] = self._secret_box.decrypt(project_id, id, row["secret"])
        return secret

    async def reencrypt_secrets(self, *, actor: Actor) -> tuple[int, int]:
        """Encrypt with the first key the secrets that another key encrypted.

        Return the number of these secrets, and the number of those that no key can decrypt. Other
        processes may read and change secrets meanwhile. The audit event is committed with the first
        secret.
        """
        reencrypted = undecryptable = 0
        async for row in self._secrets_of_other_keys(self._secret_box.current_key_id):
            project_id, id, old_secret = ProjectId(row["project_id"]), row["id"], row["secret"]
            try:
                plain = self._secret_box.decrypt(project_id, id, old_secret)
            except DecryptionFailed:
                undecryptable += 1
                continue
            new_secret = self._secret_box.encrypt(project_id, id, plain)
            async with self._database.transaction() as transaction:
                inside = self.with_database(transaction)
                replaced = await inside._fetch_all(
                    "replace_secret",
                    project_id=project_id,
                    id=id,
                    old_secret=old_secret,
                    new_secret=new_secret,
                )
                if replaced and not reencrypted:
                    await inside._audit.record(actor, "mcp.secrets.reseal", "all")
            reencrypted += len(replaced)
        return reencrypted, undecryptable

    async def _secrets_of_other_keys(self, key_id: bytes) -> AsyncIterator[asyncpg.Record]:
        last_project_id: UUID | None = None
        last_id: UUID | None = None
        while rows := await self._fetch_all(
            "secrets_of_other_keys",
            key_id=key_id,
            last_project_id=last_project_id,
            last_id=last_id,
            limit=REENCRYPT_BATCH_SIZE,
        ):
            for row in rows:
                yield row
            last_project_id, last_id = rows[-1]["project_id"], rows[-1]["id"]

    async def _update(
        self,
        project_id: ProjectId,
        id: UUID,
        update: McpServerUpdate,
        changed_fields: Sequence[str],
    ) -> McpServer:
        if not changed_fields:
            return await self.get(project_id, id)
        columns = self._columns(project_id, id, update)
        return await self._fetch_server(
            "update",
            project_id,
            id=id,
            changed_fields=changed_fields,
            is_active=update.is_active,
            **columns,
        )

    def _columns(
        self, project_id: ProjectId, id: UUID, server: NewMcpServer | McpServerUpdate
    ) -> dict[str, Any]:
        """Return the columns that a request fills in, checked and, of secrets, encrypted."""
        if server.url and self._public_urls_only and not is_public(server.url):
            raise InvalidRequest("url: must name a public host (LLMRING_MCP_URLS=public)")
        capabilities = secret = None
        if server.capabilities is not None:
            capabilities = dump_bounded_json(
                server.capabilities, "capabilities", MAX_CAPABILITIES_BYTES
            )
        if server.auth_config and server.auth_config != SECRET_PLACEHOLDER:
            secret = self._secret_box.encrypt(project_id, id, server.auth_config)
        return {
            "name": server.name,
            "url": server.url,
            "transport_type": server.transport_type,
            "capabilities": capabilities,
            "secret": secret,
        }

    async def _fetch_server(
        self, statement: str, project_id: ProjectId, **params: Any
    ) -> McpServer:
        row = await self._fetch_one(statement, project_id=project_id, **params)
        return McpServer.from_row(project_id, row, self._read_json)
