"""What tools of MCP servers did: recorded once, read back from the newest on, added up."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, Field

from llmring_server.bounded import Json, check, written
from llmring_server.claims import Claim, Claims, fingerprint
from llmring_server.database import Database
from llmring_server.entry import Status
from llmring_server.ids import moment_of, new_id
from llmring_server.pages import PAGE_BYTES, Paged, Place
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant

# Of an input, an output.
LONGEST = 2 * 1024 * 1024


class Done(BaseModel, strict=True):
    """What a tool did; its status is `error` if there is one and nothing else is said."""

    input: Json
    output: Json | None = None
    error: Annotated[str, Field(max_length=10_000), AfterValidator(check)] | None = None
    duration_ms: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    status: Status | None = None
    conversation_id: Annotated[UUID, Field(strict=False)] | None = None
    log_id: Annotated[UUID, Field(strict=False)] | None = None


@dataclass(slots=True)
class Execution:
    """What a tool did once; `log_id` is the call of the model that asked for it."""

    id: UUID
    tool_id: UUID
    conversation_id: UUID | None
    log_id: UUID | None
    input: dict[str, Any]
    output: dict[str, Any] | None
    error: str | None
    status: Status
    duration_ms: int | None
    executed_at: datetime

    @classmethod
    def of(cls, row: asyncpg.Record) -> Self:
        found = dict(row)
        for name in ("input", "output"):
            found[name] = found[name] and orjson.loads(found[name])
        return cls(**found)

    @classmethod
    def made(cls, id: UUID, tool_id: UUID, done: Done) -> Self:
        status = done.status or ("error" if done.error else "ok")
        fields = done.model_dump() | {"status": status}
        return cls(id, tool_id, executed_at=moment_of(id), **fields)


class History(Paged):
    """A page of a tool's executions, the newest first."""

    limit: int = Field(100, ge=1, le=1000)

    def next(self, tenant: Tenant, last: Execution) -> str:
        return self.following(tenant, Place(last.executed_at, last.id), last.tool_id.bytes)


class Days(BaseModel):
    """Of how many days."""

    days: int = Field(30, ge=1, le=400)


@dataclass(slots=True)
class ToolStats:
    """How often a tool was used, how often it failed, and how long it took."""

    tool_id: UUID
    days: int
    count: int
    errors: int
    p50_ms: int | None
    p95_ms: int | None


class McpExecutions(Repository):
    """The executions of every tenant's tools. We never execute any."""

    noun = "mcp_executions"

    def __init__(self, database: Database, claims: Claims) -> None:
        super().__init__(database)
        self._claims = claims

    async def record(
        self, tenant: Tenant, tool_id: UUID, done: Done, key: str | None = None
    ) -> tuple[Execution, bool]:
        """Record what a tool did; a `key` that was used before gives the first answer again.

        Return it, and whether it is such an answer.
        """
        first = new_id()
        claim = Claim.of(key, fingerprint("execution", tool_id, done))

        async def once() -> tuple[Execution, bool]:
            async with self._database.transaction() as transaction:
                inside = self.on(transaction)
                id, _ = await inside._claims.first(tenant, claim, first, None)
                execution = Execution.made(id, tool_id, done)
                if id == first:
                    await inside._record(tenant, execution)
                return execution, id != first

        return await self._persist(once)

    async def history(
        self, tenant: Tenant, tool_id: UUID, page: History | None = None
    ) -> list[Execution]:
        """Return a page, the newest first; fewer than its limit where they are large."""
        page = page or History()
        bounds = {"limit": page.limit, "offset": page.offset, "most": PAGE_BYTES}
        last_id = page.after(tenant, tool_id.bytes).last_id
        found = await self._all(
            "history", tenant=tenant, tool_id=tool_id, last_id=last_id, **bounds
        )
        if not found:
            await self._one("tool", tenant=tenant, tool_id=tool_id)
        return [Execution.of(row) for row in found]

    async def stats(self, tenant: Tenant, tool_id: UUID, days: int = 30) -> ToolStats:
        """Add up the executions of the last so many days."""
        at = {"tenant": tenant, "tool_id": tool_id}
        since = datetime.now(UTC) - timedelta(days=days)
        found = await self._one("stats", since=_first_id(since), **at)
        if not found["count"]:
            await self._one("tool", **at)
        return ToolStats(tool_id, days, **found)

    async def _record(self, tenant: Tenant, execution: Execution) -> None:
        texts = [
            each if each is None else written(each, name, LONGEST)
            for name, each in (("input", execution.input), ("output", execution.output))
        ]
        fields = {name: getattr(execution, name) for name in Execution.__slots__}
        fields |= {"input": texts[0], "output": texts[1]}
        fields["size"] = sum(len((text or "").encode()) for text in texts)
        fields["size"] += len(orjson.dumps(execution.error))
        logged_at = execution.log_id and moment_of(execution.log_id)
        await self._one("record", tenant=tenant, logged_at=logged_at, **fields)


def _first_id(at: datetime) -> UUID:
    """Return the first id that a UUIDv7 of that millisecond might be."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
