"""MCP capabilities: the tools, resources and prompts that servers offer.

A refresh replaces all capabilities of a server at once; those that stay keep their ids. A tool's
definition is compared by digest with the one that was last acknowledged.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from hashlib import sha256
from typing import Any, Literal, Self
from uuid import UUID

import asyncpg
import orjson
import rfc8785

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.core.ids import new_id
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.strict_json import dump_bounded_json, encode_json
from llmring_server.core.time_slices import TimeSlices
from llmring_server.core.worker import in_worker
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Retention, Table
from llmring_server.errors import Conflict, InvalidRequest, QuotaExceeded
from llmring_server.mcp.models import (
    CapabilityContent,
    CapabilityKind,
    CapabilityNames,
    CapabilityPage,
    CapabilityRefresh,
    CapabilityRefreshResult,
    JsonReaders,
    McpServer,
    McpServerRef,
    McpTool,
    NewTool,
    OfferedCapability,
    capability_from_row,
    label_of,
    too_many,
)
from llmring_server.mcp.prompts import argument_spec, check_arguments, render_prompt
from llmring_server.settings import Settings

MAX_DEFINITION_BYTES = 64 * 1024
# Icons may be in the definition itself, as data URLs.
MAX_MEMBERS_BYTES = 512 * 1024
MAX_CONTENT_BYTES = 2 * 1024 * 1024

# How long inactive capabilities are kept where the project sets no retention.
INACTIVE_CAPABILITY_DAYS = 400

# Larger integers are not exact as 64-bit floating-point numbers, which JSON readers use.
_MAX_EXACT_INTEGER = 2**53


class McpCapabilities(Repository):
    """The tools, resources and prompts of every project's servers."""

    sql = "mcp/capabilities"
    replica_reads = frozenset({"list"})
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

    def __init__(self, database: Database, audit: AuditLog, settings: Settings) -> None:
        super().__init__(database)
        self._audit = audit
        self._read = JsonReaders()
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        self._max_capabilities = settings.max_mcp_capabilities
        self._max_definition_bytes = settings.max_mcp_definition_bytes

    def with_unparsed_json(self) -> Self:
        other = super().with_unparsed_json()
        # They become members of a response, beside others.
        other._read = JsonReaders(orjson.Fragment, bytes)
        return other

    async def refresh(
        self, project_id: ProjectId, server_id: UUID, request: CapabilityRefresh
    ) -> CapabilityRefreshResult:
        """Replace all capabilities of a server, or change nothing; those that stay keep their ids.

        Refreshes of one server are applied one after the other. QuotaExceeded if the server would
        offer more than one server may, and more than it does now.
        """
        # Computing many digests takes seconds.
        capabilities = await in_worker(lambda: rows_as_json(request.capabilities()))
        counts = orjson.dumps(request.counts()).decode()
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._fetch_one(
                "lock_server", "Server", project_id=project_id, server_id=server_id
            )
            before = await inside._totals(project_id, server_id)
            server_row = await inside._fetch_one(
                "mark_refreshed",
                "Server",
                project_id=project_id,
                server_id=server_id,
                counts=counts,
            )
            rows = await inside._fetch_all(
                "replace_capabilities",
                project_id=project_id,
                server_id=server_id,
                capabilities=capabilities,
            )
            self._check_quota(before, await inside._totals(project_id, server_id))
        server = McpServer.from_row(project_id, server_row, self._read_json)
        result = await self._refresh_result(project_id, server, rows)
        result.warnings = request.not_kept()
        return result

    async def add_tool(self, project_id: ProjectId, new: NewTool) -> McpTool:
        """Add a tool to a server; Conflict if its name is taken.

        QuotaExceeded if the server then offers more than one server may.
        """
        capabilities = rows_as_json([new])
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._fetch_one(
                "lock_server", "Server", project_id=project_id, server_id=new.server_id
            )
            before = await inside._totals(project_id, new.server_id)
            added = await inside._fetch_all(
                "add_tool",
                project_id=project_id,
                server_id=new.server_id,
                capabilities=capabilities,
            )
            if not added:
                raise Conflict("The server already has a tool with this name.")
            self._check_quota(before, await inside._totals(project_id, new.server_id))
            await inside._fetch_one(
                "update_counts", "Server", project_id=project_id, server_id=new.server_id
            )
            tool: McpTool = await inside.get(project_id, "tool", added[0]["id"])
        return tool

    async def list(
        self, project_id: ProjectId, kind: CapabilityKind, page: CapabilityPage | None = None
    ) -> list[Any]:
        """Return a page of capabilities, by name; a page of large ones ends early.

        All that a server offers, if `page` names the server and neither a limit nor a cursor.
        """
        page = page or CapabilityPage()
        params = {"changed": False} | page.model_dump(exclude={"cursor"})
        max_bytes: int | None = MAX_PAGE_BYTES
        if page.is_complete:
            params["limit"] = max_bytes = None
        rows = await self._fetch_all(
            "list",
            project_id=project_id,
            kind=kind,
            max_bytes=max_bytes,
            **params,
            **page.position(project_id, kind),
        )
        return [self._capability(project_id, kind, row) for row in rows]

    async def get(self, project_id: ProjectId, kind: CapabilityKind, id: UUID) -> Any:
        """Return a capability, without its content."""
        row = await self._fetch_one(
            "get", kind.capitalize(), project_id=project_id, kind=kind, id=id, with_content=False
        )
        return self._capability(project_id, kind, row)

    async def get_content(
        self, project_id: ProjectId, kind: CapabilityKind, id: UUID
    ) -> CapabilityContent:
        """Return a capability with its recorded content."""
        row = await self._fetch_one(
            "get", kind.capitalize(), project_id=project_id, kind=kind, id=id, with_content=True
        )
        return CapabilityContent(
            self._capability(project_id, kind, row),
            content=None if row["content"] is None else self._read.value(row["content"]),
            recorded_at=row["content_recorded_at"],
        )

    async def set_content(
        self, project_id: ProjectId, kind: CapabilityKind, id: UUID, content: Any
    ) -> CapabilityContent:
        """Record the content of a resource or a prompt."""
        text = dump_bounded_json(content, "content", MAX_CONTENT_BYTES)
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._fetch_one(
                "set_content",
                kind.capitalize(),
                project_id=project_id,
                kind=kind,
                id=id,
                content=text,
            )
            return await inside.get_content(project_id, kind, id)

    async def render_prompt(
        self, project_id: ProjectId, id: UUID, arguments: Mapping[str, Any]
    ) -> CapabilityContent:
        """Render a prompt; InvalidRequest if arguments are missing or unknown."""
        prompt, content, recorded_at = await self.get_content(project_id, "prompt", id)
        spec = argument_spec(prompt.arguments)
        check_arguments(spec, arguments)
        return CapabilityContent(prompt, render_prompt(content, spec, arguments), recorded_at)

    async def acknowledge(
        self, project_id: ProjectId, id: UUID, definition_sha256: str, *, actor: Actor
    ) -> McpTool:
        """Acknowledge a tool's definition; Conflict if it has changed since it was reviewed."""
        digest = bytes.fromhex(definition_sha256)
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            acknowledged = await inside._fetch_all(
                "acknowledge", project_id=project_id, id=id, digest=digest
            )
            tool: McpTool = await inside.get(project_id, "tool", id)
            if not acknowledged:
                raise Conflict("The definition changed since you read it; review it again.")
            await inside._audit.record(actor, "mcp.tool.acknowledge", str(id), project_id)
        return tool

    def _capability(self, project_id: ProjectId, kind: CapabilityKind, row: asyncpg.Record) -> Any:
        server = McpServerRef.from_row(row)
        return capability_from_row(project_id, kind, row, server, self._read)

    async def _refresh_result(
        self, project_id: ProjectId, server: McpServer, rows: Sequence[asyncpg.Record]
    ) -> CapabilityRefreshResult:
        server_ref = McpServerRef(server.id, server.name, server.url)
        active: defaultdict[str, list[Any]] = defaultdict(list)
        names: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        slices = TimeSlices()
        for row in rows:
            kind = row["kind"]
            if row["is_active"]:
                active[kind].append(
                    capability_from_row(project_id, kind, row, server_ref, self._read)
                )
            if row["change"]:
                names[row["change"], kind].append(row["name"])
            await slices.pause()

        def changes(change: str) -> CapabilityNames:
            return CapabilityNames(
                tools=names[change, "tool"],
                resources=names[change, "resource"],
                prompts=names[change, "prompt"],
            )

        return CapabilityRefreshResult(
            server,
            tools=active["tool"],
            resources=active["resource"],
            prompts=active["prompt"],
            added=changes("added"),
            changed=changes("changed"),
            removed=changes("removed"),
        )

    async def _totals(self, project_id: ProjectId, server_id: UUID) -> asyncpg.Record:
        return await self._fetch_one("totals", project_id=project_id, server_id=server_id)

    def _check_quota(self, before: asyncpg.Record, after: asyncpg.Record) -> None:
        """Raise QuotaExceeded if a server offers more than one server may, and more than before.

        Clients refresh with the lists that they read, so complete lists must fit in a response. A
        server that offers more since before there was a quota, or before it was lowered, still can
        be refreshed.
        """
        for kind in ("tools", "resources", "prompts"):
            if after[kind] > max(self._max_capabilities, before[kind]):
                raise too_many(kind, after[kind], self._max_capabilities)
        if after["bytes"] > max(self._max_definition_bytes, before["bytes"]):
            raise QuotaExceeded(
                "The definitions of an MCP server's tools, resources and prompts must be at most"
                f" {self._max_definition_bytes // 1024:,} KiB of JSON together, and these would be"
                f" {-(-after['bytes'] // 1024):,} KiB: shorten them, remove some, or register"
                " another server for some of them."
            )


def rows_as_json(capabilities: Sequence[OfferedCapability]) -> str:
    """Return capabilities as statements take them: a JSON array of rows.

    InvalidRequest if two have the same name, or if one is too large.
    """
    names = set()
    for capability in capabilities:
        name = capability.kind, capability.to_row().name
        if name in names:
            raise InvalidRequest(f"{label_of(*name)}: the name occurs twice")
        names.add(name)
    return encode_json([stored_row(capability) for capability in capabilities]).decode()


def stored_row(capability: OfferedCapability) -> dict[str, Any]:
    """Return a capability as statements take it; InvalidRequest if it is too large."""
    row = capability.to_row()
    members = capability.members
    label = label_of(capability.kind, row.name)
    # What is too large is rejected before its digest is computed, which takes longer.
    definition = dump_bounded_json(row.definition, f"{label}: definition", MAX_DEFINITION_BYTES)
    members_json = dump_bounded_json(members, f"{label}: other members", MAX_MEMBERS_BYTES)
    dump_bounded_json(row.content, f"{label}: content", MAX_CONTENT_BYTES)
    return row._asdict() | {
        "id": str(new_id()),
        "kind": capability.kind,
        "members": members or None,
        "digest": definition_digest(capability).hex(),
        "digest_v1": definition_digest(capability, version=1).hex(),
        "size": len((definition + members_json).encode())
        + len(orjson.dumps(capability.description)),
    }


def definition_digest(capability: OfferedCapability, version: Literal[1, 2] = 2) -> bytes:
    """Return the SHA-256 of a definition, without its content, as canonical JSON (RFC 8785).

    Version 1 covers the fields that this server interprets, version 2 also all other members, and
    all digits of numbers. For definitions without such, both are the same.
    """
    # Clients store this digest, which covers the names of the fields: they must not change.
    names = type(capability).model_fields.keys() - {"content", "server_id"}
    definition = {name: getattr(capability, name) for name in names}
    if version == 1:
        return sha256(rfc8785.dumps(_interoperable(definition))).digest()
    return sha256(_canonical(definition | capability.members)).digest()


def _interoperable(value: Any) -> Any:
    """Return a JSON value with numbers as all JSON readers have them: of 64 bits."""
    if isinstance(value, dict):
        return {key: _interoperable(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_interoperable(member) for member in value]
    if isinstance(value, Decimal):
        return float(value)
    if type(value) is int and abs(value) >= _MAX_EXACT_INTEGER:
        return float(value)
    return value


def _canonical(value: Any) -> bytes:
    """Write canonical JSON (RFC 8785), and numbers that it would round with all their digits."""
    if isinstance(value, dict):
        # In the order of UTF-16, as RFC 8785 has it.
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return b"{%b}" % b",".join(
            rfc8785.dumps(key) + b":" + _canonical(value[key]) for key in keys
        )
    if isinstance(value, list | tuple):
        return b"[%b]" % b",".join(map(_canonical, value))
    if isinstance(value, Decimal) or (type(value) is int and abs(value) >= _MAX_EXACT_INTEGER):
        exact = Decimal(value)
        # RFC 8785 writes the shortest digits that a reader takes for the same float.
        if Decimal(repr(float(value))) != exact:
            return encode_json(exact)
    return rfc8785.dumps(_interoperable(value))
