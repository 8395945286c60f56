"""What tools of MCP servers did: recorded once, read back from the newest on, added up."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, Field

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of, new_id
from llmring_server.core.pagination import MAX_PAGE_BYTES, PageParams, Position
from llmring_server.core.strict_json import JsonObject, check_json, dump_bounded_json
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Retention, Table
from llmring_server.usage.idempotency import IdempotencyKey, IdempotencyKeys, fingerprint
from llmring_server.usage.models import Status

# Of an input, an output.
LONGEST = 2 * 1024 * 1024


class NewExecution(BaseModel, strict=True):
    """What a tool did; its status is `error` if there is one and nothing else is said."""

    input: JsonObject
    output: JsonObject | None = None
    error: Annotated[str, Field(max_length=10_000), AfterValidator(check_json)] | None = None
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
    def made(cls, id: UUID, tool_id: UUID, done: NewExecution) -> Self:
        status = done.status or ("error" if done.error else "ok")
        fields = done.model_dump() | {"status": status}
        return cls(id, tool_id, executed_at=moment_of(id), **fields)


class ExecutionPage(PageParams):
    """A page of a tool's executions, the newest first."""

    limit: int = Field(100, ge=1, le=1000)

    def next(self, project_id: ProjectId, last: Execution) -> str:
        return self.following(project_id, Position(last.executed_at, last.id), last.tool_id.bytes)


class ToolStatsQuery(BaseModel):
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
    """The executions of every project's tools. We never execute any."""

    sql = "mcp/executions"
    tables = (Table("executions", "MCP executions", "erase_executions", schema="mcp"),)
    retention = (Retention("delete_expired_executions", "executions", "executions.expire"),)

    def __init__(self, database: Database, claims: IdempotencyKeys) -> None:
        super().__init__(database)
        self._claims = claims

    async def record(
        self, project_id: ProjectId, tool_id: UUID, done: NewExecution, key: str | None = None
    ) -> tuple[Execution, bool]:
        """Record what a tool did; a `key` that was used before gives the first answer again.

        Return it, and whether it is such an answer.
        """
        first = new_id()
        claim = IdempotencyKey.of(key, fingerprint("execution", tool_id, done))

        async def once() -> tuple[Execution, bool]:
            async with self._database.transaction() as transaction:
                inside = self.with_database(transaction)
                id, _ = await inside._claims.first(project_id, claim, first, None)
                execution = Execution.made(id, tool_id, done)
                if id == first:
                    await inside._record(project_id, execution)
                return execution, id != first

        return await self._retry(once)

    async def history(
        self, project_id: ProjectId, tool_id: UUID, page: ExecutionPage | None = None
    ) -> list[Execution]:
        """Return a page, the newest first; fewer than its limit where they are large."""
        page = page or ExecutionPage()
        bounds = {"limit": page.limit, "offset": page.offset, "most": MAX_PAGE_BYTES}
        last_id = page.after(project_id, tool_id.bytes).last_id
        found = await self._fetch_all(
            "history", project_id=project_id, tool_id=tool_id, last_id=last_id, **bounds
        )
        if not found:
            await self._fetch_one("tool", project_id=project_id, tool_id=tool_id)
        return [Execution.of(row) for row in found]

    async def stats(self, project_id: ProjectId, tool_id: UUID, days: int = 30) -> ToolStats:
        """Add up the executions of the last so many days."""
        at = {"project_id": project_id, "tool_id": tool_id}
        since = datetime.now(UTC) - timedelta(days=days)
        found = await self._fetch_one("stats", since=_first_id(since), **at)
        if not found["count"]:
            await self._fetch_one("tool", **at)
        return ToolStats(tool_id, days, **found)

    async def _record(self, project_id: ProjectId, execution: Execution) -> None:
        texts = [
            each if each is None else dump_bounded_json(each, name, LONGEST)
            for name, each in (("input", execution.input), ("output", execution.output))
        ]
        fields = {name: getattr(execution, name) for name in Execution.__slots__}
        fields |= {"input": texts[0], "output": texts[1]}
        fields["size"] = sum(len((text or "").encode()) for text in texts)
        fields["size"] += len(orjson.dumps(execution.error))
        logged_at = execution.log_id and moment_of(execution.log_id)
        await self._fetch_one("record", project_id=project_id, logged_at=logged_at, **fields)


def _first_id(at: datetime) -> UUID:
    """Return the first id that a UUIDv7 of that millisecond might be."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
