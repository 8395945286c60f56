"""MCP servers: where they are, and, sealed, what opens them."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, Field

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.core.ids import moment_of, new_id
from llmring_server.core.pagination import MAX_PAGE_BYTES, PageParams, Position
from llmring_server.core.strict_json import JsonObject, check_json, dump_bounded_json
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import DecryptionFailed, InvalidRequest
from llmring_server.mcp.secrets import MAX_SECRET_BYTES, SecretBox
from llmring_server.mcp.urls import host_of, is_public
from llmring_server.settings import Settings

Transport = Literal["stdio", "http", "websocket"]


# No user or password: those belong to `auth_config`, which is sealed.
_URL = (
    r"^((https?|wss?)://[^\s\x00-\x20\x7f@\\/?#]+([/?#][^\s\x00-\x20\x7f]*)?"
    r"|stdio://[^\x00-\x1f\x7f]*[^\s\x00-\x20\x7f][^\x00-\x1f\x7f]*)$"
)


def _leads_somewhere(url: str) -> str:
    named = url.startswith("stdio:") or host_of(url)
    if not named or not re.fullmatch(_URL.strip("^$"), url):
        raise ValueError(
            "write http://host, https://host, ws://host or wss://host, with a port and a path if"
            " you like but no user, or stdio://command"
        )
    return url


Label = Annotated[str, Field(max_length=255, pattern=r"\S"), AfterValidator(check_json)]


# The pattern is for the description; in words, the complaint can be read.
Url = Annotated[
    str,
    Field(max_length=1000, json_schema_extra={"pattern": _URL}),
    AfterValidator(_leads_somewhere),
]


CLEARABLE = {"auth_config", "capabilities"}


CONFIGURED = {"configured": True}


class NewServer(BaseModel, strict=True):
    """A server to register; `auth_config` is what a client must show to it, and kept sealed."""

    name: Label
    url: Url
    transport_type: Transport
    auth_config: JsonObject | None = None
    capabilities: JsonObject | None = None


class ServerChange(BaseModel, strict=True):
    """What is to be different; null is as good as absent, unless it is to clear a field."""

    name: Label | None = None
    url: Url | None = None
    transport_type: Transport | None = None
    auth_config: JsonObject | None = None
    capabilities: JsonObject | None = None
    is_active: bool | None = None

    def given(self, *, clears: bool) -> list[str]:
        """Name what is to be different."""
        return [
            name
            for name in sorted(self.model_fields_set)
            if getattr(self, name) is not None or (clears and name in CLEARABLE)
            # A client that sends back what it was told has not seen the secret.
            if name != "auth_config" or self.auth_config != CONFIGURED
        ]


class ActiveFilter(PageParams):
    """Which of them: those that are active, those that are not, or `all`."""

    limit: int = Field(1000, ge=1, le=1000)
    is_active: bool = True
    all: bool = False


class ServerPage(ActiveFilter):
    """A page of servers, the newest first."""

    def next(self, project_id: ProjectId, last: "McpServer") -> str:
        return self.following(project_id, Position(last.created_at, last.id), b"servers")


class SecretConfigured(BaseModel):
    """That there is a secret: it is read at `/secret`, and nowhere else."""

    configured: Literal[True] = True


@dataclass(slots=True)
class McpServer:
    """An MCP server that clients talk to; we never do."""

    id: UUID
    name: str
    url: str
    transport_type: Transport
    auth_config: SecretConfigured | None
    capabilities: dict[str, Any] | None
    is_active: bool
    created_at: datetime
    updated_at: datetime
    refreshed_at: datetime | None
    project_id: ProjectId
    api_key_id: None = None

    @classmethod
    def of(cls, project_id: ProjectId, row: asyncpg.Record) -> Self:
        found = dict(row)
        found["auth_config"] = SecretConfigured() if found.pop("has_secret") else None
        found["capabilities"] = found["capabilities"] and orjson.loads(found["capabilities"])
        return cls(**found, project_id=project_id)


AT_ONCE = 500


class McpServers(Repository):
    """The MCP servers of every project. We never call any of them."""

    sql = "mcp/servers"
    tables = (Table("servers", "MCP servers", "erase_servers", ("UPDATE", "DELETE"), "mcp"),)

    def __init__(self, database: Database, audit: AuditLog, settings: Settings) -> None:
        super().__init__(database)
        self._audit = audit
        self._sealing = SecretBox(settings.sealing_keys)
        self._only_public = settings.mcp_urls == "public"

    async def register(self, project_id: ProjectId, new: NewServer) -> McpServer:
        """Register a server, whose id tells when."""
        id = new_id()
        given = self._given(project_id, id, new)
        return await self._server("register", project_id, id=id, created_at=moment_of(id), **given)

    async def get(self, project_id: ProjectId, id: UUID) -> McpServer:
        return await self._server("get", project_id, id=id)

    async def list(self, project_id: ProjectId, page: ServerPage | None = None) -> list[McpServer]:
        """Return a page of servers, the newest first; fewer than its limit where they are large."""
        page = page or ServerPage()
        wanted = page.model_dump(include={"all", "is_active", "limit", "offset"})
        last_id = page.after(project_id, b"servers").last_id
        wanted |= {"last_id": last_id, "most": MAX_PAGE_BYTES}
        rows = await self._fetch_all("list", project_id=project_id, **wanted)
        return [McpServer.of(project_id, row) for row in rows]

    async def change(self, project_id: ProjectId, id: UUID, change: ServerChange) -> McpServer:
        """Change what is said and not null."""
        return await self._change(project_id, id, change, change.given(clears=False))

    async def amend(self, project_id: ProjectId, id: UUID, change: ServerChange) -> McpServer:
        """Change what is said; null clears what can be nothing."""
        return await self._change(project_id, id, change, change.given(clears=True))

    async def delete(self, project_id: ProjectId, id: UUID) -> None:
        """Delete a server, what it offers, and what its tools did."""
        await self._fetch_one("delete", project_id=project_id, id=id)

    async def secret(
        self, project_id: ProjectId, id: UUID, *, actor: Actor
    ) -> dict[str, Any] | None:
        """Return what opens a server, if anything does; the audit is told."""
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            row = await here._fetch_one("secret", project_id=project_id, id=id)
            await here._audit.record(actor, "mcp.secret.read", str(id), project_id)
        found: dict[str, Any] | None = (
            self._sealing.open(project_id, id, row["secret"]) if row["secret"] else None
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
            project_id, id, was = ProjectId(row["project_id"]), row["id"], row["secret"]
            try:
                secret = self._sealing.seal(project_id, id, self._sealing.open(project_id, id, was))
            except DecryptionFailed:
                stuck += 1
                continue
            async with self._database.transaction() as inside:
                here = self.with_database(inside)
                changed = await here._fetch_all(
                    "reseal", project_id=project_id, id=id, secret=secret, was=was
                )
                if changed and not resealed:
                    await here._audit.record(actor, "mcp.secrets.reseal", "all")
            resealed += bool(changed)
        return resealed, stuck

    async def _stale(self, key: bytes) -> AsyncIterator[Any]:
        last: Sequence[UUID | None] = (None, None)
        place = ("last_project_id", "last_id")
        while rows := await self._fetch_all(
            "stale", key=key, limit=AT_ONCE, **dict(zip(place, last, strict=True))
        ):
            for row in rows:
                yield row
            last = rows[-1]["project_id"], rows[-1]["id"]

    async def _change(
        self, project_id: ProjectId, id: UUID, change: ServerChange, given: Sequence[str]
    ) -> McpServer:
        if not given:
            return await self.get(project_id, id)
        fields = self._given(project_id, id, change) | {"is_active": change.is_active}
        return await self._server("change", project_id, id=id, given=given, **fields)

    def _given(
        self, project_id: ProjectId, id: UUID, said: NewServer | ServerChange
    ) -> dict[str, Any]:
        if said.url and self._only_public and not is_public(said.url):
            raise InvalidRequest("url: must name a public host, as this server's operator asks")
        known, secret = said.capabilities, said.auth_config
        return {
            "name": said.name,
            "url": said.url,
            "transport_type": said.transport_type,
            "capabilities": known
            if known is None
            else dump_bounded_json(known, "capabilities", MAX_SECRET_BYTES),
            "secret": self._sealing.seal(project_id, id, secret)
            if secret and secret != CONFIGURED
            else None,
        }

    async def _server(self, statement: str, project_id: ProjectId, **params: Any) -> McpServer:
        return McpServer.of(
            project_id, await self._fetch_one(statement, project_id=project_id, **params)
        )
