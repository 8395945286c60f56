"""Executions of MCP tools: recorded once, listed newest first, summarized."""

from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import orjson

from llmring_server.core import worker
from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of, new_id_and_time
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.strict_json import dump_bounded_json
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Retention, Table
from llmring_server.errors import NotFound
from llmring_server.mcp.models import ExecutionPage, NewToolExecution, ToolExecution, ToolStats
from llmring_server.usage.idempotency import IdempotencyKey, IdempotencyKeys, fingerprint

# Of an input, and of an output.
MAX_PAYLOAD_BYTES = 2 * 1024 * 1024


class McpExecutions(Repository):
    """The executions of every project's tools. This server never executes a tool."""

    row_kind = "Tool"
    sql = "mcp/executions"
    replica_reads = frozenset({"history", "stats", "get_tool"})
    tables = (Table("executions", "MCP executions", "erase_executions", schema="mcp"),)
    retention = (Retention("delete_expired_executions", "executions", "executions.expire"),)

    def __init__(self, database: Database, idempotency_keys: IdempotencyKeys) -> None:
        super().__init__(database)
        self._idempotency_keys = idempotency_keys

    async def record(
        self,
        project_id: ProjectId,
        tool_id: UUID,
        new: NewToolExecution,
        idempotency_key: str | None = None,
    ) -> tuple[ToolExecution, bool]:
        """Record an execution, once for each idempotency key.

        Return the execution, and whether an earlier request with the same key recorded it.
        """
        # Chosen before the first attempt: a retry after a lost connection records nothing twice.
        id_and_time = new_id_and_time()
        key = None
        if idempotency_key:
            request = await worker.run(
                lambda: fingerprint("execution", tool_id, new),
                is_large=worker.are_large([new.input, new.output]),
            )
            key = IdempotencyKey.of(idempotency_key, request)
        return await self._retry(
            partial(self._record_once, project_id, tool_id, id_and_time, new, key)
        )

    async def history(
        self, project_id: ProjectId, tool_id: UUID, page: ExecutionPage | None = None
    ) -> list[ToolExecution]:
        """Return a page of executions, newest first.

        It is shorter than its limit if they are large. Only an empty page is the last one.
        """
        page = page or ExecutionPage()
        rows = await self._fetch_all(
            "history",
            project_id=project_id,
            tool_id=tool_id,
            last_id=page.after(project_id, tool_id.bytes).last_id,
            limit=page.limit,
            offset=page.offset,
            max_bytes=MAX_PAGE_BYTES,
        )
        if not rows:
            await self._require_tool(project_id, tool_id)
        return [ToolExecution.from_row(row, self._read_json) for row in rows]

    async def stats(self, project_id: ProjectId, tool_id: UUID, days: int = 30) -> ToolStats:
        """Summarize the executions of the last days."""
        first_id = _first_id_at(datetime.now(UTC) - timedelta(days=days))
        async with self._database.long_statement(project_id):
            row = await self._fetch_one(
                "stats", project_id=project_id, tool_id=tool_id, first_id=first_id
            )
        if not row["count"]:
            await self._require_tool(project_id, tool_id)
        return ToolStats(
            tool_id,
            days,
            count=row["count"],
            errors=row["errors"],
            p50_ms=row["p50_ms"],
            p95_ms=row["p95_ms"],
        )

    async def _record_once(
        self,
        project_id: ProjectId,
        tool_id: UUID,
        proposed: tuple[UUID, datetime],
        new: NewToolExecution,
        key: IdempotencyKey | None,
    ) -> tuple[ToolExecution, bool]:
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            id, executed_at, _ = await inside._idempotency_keys.get_or_insert(
                project_id, key, *proposed, None
            )
            execution = _execution(id, executed_at, tool_id, new)
            is_replay = id != proposed[0]
            if not is_replay:
                await inside._insert(project_id, execution)
        return execution, is_replay

    async def _insert(self, project_id: ProjectId, execution: ToolExecution) -> None:
        input_json, output_json = await worker.run(
            lambda: _payload(execution),
            is_large=worker.are_large([execution.input, execution.output]),
        )
        size = len(input_json.encode()) + len(orjson.dumps(execution.error))
        if output_json is not None:
            size += len(output_json.encode())
        logged_at = None if execution.log_id is None else moment_of(execution.log_id)
        known = await self._fetch_one(
            "record",
            project_id=project_id,
            tool_id=execution.tool_id,
            id=execution.id,
            executed_at=execution.executed_at,
            conversation_id=execution.conversation_id,
            log_id=execution.log_id,
            logged_at=logged_at,
            size=size,
            duration_ms=execution.duration_ms,
            status=execution.status,
            error=execution.error,
            input=input_json,
            output=output_json,
        )
        for kind in ("tool", "conversation", "call"):
            if not known[kind]:
                raise NotFound.of(kind.capitalize())

    async def _require_tool(self, project_id: ProjectId, tool_id: UUID) -> None:
        """Raise NotFound unless there is such a tool."""
        await self._fetch_one("get_tool", project_id=project_id, tool_id=tool_id)


def _payload(execution: ToolExecution) -> tuple[str, str | None]:
    """Return the input and the output of an execution as JSON."""
    input_json = dump_bounded_json(execution.input, "input", MAX_PAYLOAD_BYTES)
    if execution.output is None:
        return input_json, None
    return input_json, dump_bounded_json(execution.output, "output", MAX_PAYLOAD_BYTES)


def _execution(
    id: UUID, executed_at: datetime, tool_id: UUID, new: NewToolExecution
) -> ToolExecution:
    return ToolExecution(
        id=id,
        tool_id=tool_id,
        conversation_id=new.conversation_id,
        log_id=new.log_id,
        input=new.input,
        output=new.output,
        error=new.error,
        status=new.status or ("error" if new.error else "ok"),
        duration_ms=new.duration_ms,
        executed_at=executed_at,
    )


def _first_id_at(at: datetime) -> UUID:
    """Return the smallest UUIDv7 of this millisecond."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
