"""Import of a database of llmring-server 0.1: all of its data, each row once, and a comparison.

Batches commit on their own, and ids follow from the rows: an import that was interrupted at any
point is continued by starting it again. Rows that are stored are not changed.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import orjson

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.core.ids import new_id
from llmring_server.core.strict_json import json_default
from llmring_server.core.worker import in_worker
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.errors import InvalidRequest
from llmring_server.imports.llmring_rows import (
    UNCONVERTIBLE,
    Conversion,
    Refused,
    Row,
    is_storable_cost,
    reason_of,
)
from llmring_server.imports.llmring_source import LlmringSource, Totals
from llmring_server.mcp.secrets import SecretBox
from llmring_server.settings import Settings
from llmring_server.usage.transfer import (
    BATCHES_BETWEEN_MOVES,
    TIMEOUTS,
    CallImport,
    CallToStore,
    ImportRun,
)

Batch = TypeVar("Batch")
Item = TypeVar("Item")
_CallsOfProject: TypeAlias = tuple[ProjectId, Sequence[CallToStore]]
# A row of the source, and as JSON how it is stored.
_RowToStore: TypeAlias = tuple[asyncpg.Record, bytes]

CALLS_PER_BATCH = 5000
# Of other kinds, whose rows may be large. A statement has as many, or as much.
ROWS_PER_BATCH = 200
MAX_STATEMENT_BYTES = 4 * 1024 * 1024
# That a report names for each reason.
MAX_IDS = 3

DROPPED = "its day's calls were deleted here, and the daily totals were kept: it is counted there"
DROPPED_UNSURE = (
    "calls of its day were deleted here, and the daily totals that were kept are not those of all"
    " calls there: whether they count it is unknown. Import everything before `db maintain"
    " --retain` deletes calls here; to get these, import into a new database"
)
SAME_ID = "its id follows from another row, too"
CHANGED = (
    "texts or a state that differ from those there, since they were changed after they were stored:"
    " kept as they are here"
)
STAYS_UNPRICED = (
    "a cost of 0 that was stored as unpriced before, and stays so: calls that are stored are not"
    " changed"
)
NOT_STORABLE = "the database refuses one of its values"
WITHOUT_AMOUNTS = (
    "a negative number of tokens, or a cost that is negative or too large: the row is stored"
    " without it"
)
TAKEN = "another row with its id is stored"
# What the statements that count a source leave out.
MAX_COUNTED_COST = Decimal(10) ** 100
_NOT_STORED = (InvalidRequest, asyncpg.IntegrityConstraintViolationError)
# Rows whose ids follow from the old ones are read in the order of this, and then of their time.
_PARENTS = {"messages": "conversation_id", "executions": "tool_id"}
NO_CONVERSATION = "its conversation is not stored"
NO_SERVER = "its server is not stored, or offers another one of this name"
NO_TOOL = "its tool is not stored"


class _Rows(NamedTuple):
    """How rows of a kind are stored, and why a row is not that was sent."""

    convert: Callable[[Conversion, asyncpg.Record], Row]
    insert: str
    stored: str
    if_missing: str


_CAPABILITIES = ("insert_capabilities", "stored_capabilities", NO_SERVER)
# All kinds but calls.
_ROWS: Mapping[str, _Rows] = {
    "conversations": _Rows(
        Conversion.conversation, "insert_conversations", "stored_conversations", TAKEN
    ),
    "messages": _Rows(Conversion.message, "insert_messages", "stored_messages", NO_CONVERSATION),
    "templates": _Rows(Conversion.template, "insert_templates", "stored_templates", TAKEN),
    "servers": _Rows(Conversion.server, "insert_servers", "stored_servers", TAKEN),
    "tools": _Rows(Conversion.tool, *_CAPABILITIES),
    "resources": _Rows(Conversion.resource, *_CAPABILITIES),
    "prompts": _Rows(Conversion.prompt, *_CAPABILITIES),
    "executions": _Rows(Conversion.execution, "insert_executions", "stored_executions", NO_TOOL),
}


@dataclass
class KindReport:
    """What was read of a kind of rows, what of it is stored here now, and why others are not."""

    kind: str
    source: Totals
    here: Totals = field(default_factory=Totals)
    read: int = 0
    stored: int = 0
    # By reason.
    refused: dict[str, Totals] = field(default_factory=dict)
    # The first ids of the rows of each reason.
    ids: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def known(self) -> int:
        """How many rows were stored before."""
        return self.here.rows - self.stored

    @property
    def difference(self) -> Totals:
        return self.source - self.here

    @property
    def unexplained(self) -> Totals:
        """The difference that no reason explains. It is 0."""
        rest = self.difference
        for totals in self.refused.values():
            rest -= totals
        return rest

    def refuse(self, reason: str, row: asyncpg.Record) -> None:
        self.refuse_amounts(reason, row["id"], *_amounts(self.kind, row))

    def refuse_amounts(
        self, reason: str, id: object, tokens: int | None, cost: Decimal | None, rows: int = 1
    ) -> None:
        self.refused.setdefault(reason, Totals()).add(tokens, cost, rows)
        ids = self.ids.setdefault(reason, [])
        if len(ids) < MAX_IDS:
            ids.append(id)


@dataclass
class LlmringReport:
    """The comparison of an import: by kind of rows, and what was stored with a change."""

    kinds: list[KindReport] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def is_complete(self) -> bool:
        """Whether everything that was read is stored."""
        return all(kind.difference == Totals() for kind in self.kinds)


@dataclass
class _SeenIds:
    """The ids of one millisecond: rows are read in the order of their time, which ids contain."""

    scope: object = None
    ids: set[UUID] = field(default_factory=set)

    def add(self, owner: object, id: UUID) -> bool:
        """Note the id of a row of this owner; return whether it is new."""
        scope = (owner, id.int >> 80)
        if scope != self.scope:
            self.scope, self.ids = scope, set()
        known = len(self.ids)
        self.ids.add(id)
        return len(self.ids) > known


@dataclass
class _Run:
    """One import: its source, how rows are stored, and who started it."""

    source: LlmringSource
    conversion: Conversion
    actor: Actor
    dry_run: bool
    progress: Callable[[KindReport], None] | None
    id: UUID = field(default_factory=new_id)
    recorded: bool = False
    seen: _SeenIds = field(default_factory=_SeenIds)
    # Calls that are not stored because calls of their day were dropped here, and the first id.
    dropped: dict[tuple[ProjectId, datetime], tuple[Totals, UUID]] = field(default_factory=dict)

    def show(self, report: KindReport, rows: int) -> None:
        report.read += rows
        if self.progress:
            self.progress(report)


class LlmringImport(Repository):
    """Stores the data of an llmring-server 0.1, for the operator."""

    sql = "imports/llmring"

    def __init__(
        self, database: Database, call_import: CallImport, audit: AuditLog, settings: Settings
    ) -> None:
        super().__init__(database)
        self._call_import = call_import
        self._audit = audit
        self._level = settings.conversation_content
        self._secret_box = SecretBox(settings.sealing_keys)

    async def run(  # noqa: PLR0913, they are the options
        self,
        source: LlmringSource,
        *,
        actor: Actor,
        without_owner: ProjectId | None = None,
        zero_cost_is_free: bool = False,
        dry_run: bool = False,
        progress: Callable[[KindReport], None] | None = None,
    ) -> LlmringReport:
        """Store all rows of the source, and compare both sides.

        Rows without an owner go to the project `without_owner`. A call that used tokens and has the
        cost 0 is unpriced, unless `zero_cost_is_free`. With `dry_run`, nothing is changed, and the
        report says what would be stored. `progress` is called after each batch.
        """
        if source.has_credentials:
            # Raise InvalidRequest before anything is stored, unless they can be encrypted.
            _ = self._secret_box.current_key_id
        if source.without_owner and without_owner is None:
            raise InvalidRequest(
                f"{source.without_owner:,} rows have no API key and no project: name a project for"
                " them"
            )
        conversion = Conversion(without_owner, self._level, self._secret_box, zero_cost_is_free)
        run = _Run(source, conversion, actor, dry_run, progress)
        report = LlmringReport(notes=conversion.notes)
        for kind, totals in source.totals.items():
            kind_report = KindReport(kind, totals)
            report.kinds.append(kind_report)
            if kind == "calls":
                await self._import_calls(run, kind_report)
            else:
                await self._import_rows(run, kind_report)
            if kind == "messages" and not dry_run:
                await self._raise_totals(run, report.kinds[-2])
        return report

    async def _import_calls(self, run: _Run, report: KindReport) -> None:
        project: ImportRun | None = None
        batches = 0

        async def converted() -> AsyncGenerator[tuple[int, list[_CallsOfProject]]]:
            async for rows in run.source.batches("calls", CALLS_PER_BATCH):
                yield len(rows), await in_worker(partial(_convert_calls, run, report, rows))

        async with aclosing(_one_ahead(converted())) as ahead:
            async for rows, projects in ahead:
                for project_id, calls in projects:
                    if project is None or project.project_id != project_id:
                        project = ImportRun(project_id, run.actor, run.dry_run)
                    await self._store_calls(run, project, report, calls)
                    batches += 1
                    if batches % BATCHES_BETWEEN_MOVES == 0:
                        await self._call_import.move_sums(project)
                run.show(report, rows)
        if project:
            await self._call_import.move_sums(project)
        await self._explain_dropped(run, report)

    async def _explain_dropped(self, run: _Run, report: KindReport) -> None:
        """Tell of calls whose days were dropped whether the totals of these days count them."""
        for (project_id, day), (calls, first_id) in run.dropped.items():
            row = await self._fetch_one("dropped_calls", project_id=project_id, day=day)
            is_counted = (calls.rows, calls.tokens) == (row["rows"], row["tokens"])
            reason = DROPPED if is_counted else DROPPED_UNSURE
            report.refuse_amounts(reason, first_id, calls.tokens, calls.cost, calls.rows)

    async def _store_calls(
        self,
        run: _Run,
        project: ImportRun,
        report: KindReport,
        calls: Sequence[CallToStore],
    ) -> None:
        try:
            new = await self._call_import.store(project, calls)
        except _NOT_STORED:
            if len(calls) == 1:
                [call] = calls
                tokens = _tokens_of(call)
                report.refuse_amounts(NOT_STORABLE, call.id, tokens, call.first_cost)
                return
            for half in _halves(calls):
                await self._store_calls(run, project, report, half)
            return
        report.stored += len(new.stored)
        for call in new.counted:
            day = (project.project_id, call.day)
            totals, _ = run.dropped.setdefault(day, (Totals(), call.id))
            totals.add(_tokens_of(call), call.first_cost)
        if project.dry_run:
            dropped = {call.id for call in new.counted}
            for call in calls:
                if call.id not in dropped:
                    report.here.add(_tokens_of(call), call.first_cost)
            return
        # Read back: the report tells what is stored, not what was sent.
        row = await self._fetch_one(
            "sum_calls",
            project_id=project.project_id,
            since=calls[0].logged_at,
            until=calls[-1].logged_at,
            ids=[call.id for call in calls],
        )
        report.here += Totals(row["rows"], row["tokens"], row["cost"])
        if run.conversion.zero_cost_is_free and row["unpriced"]:
            run.conversion.notes[STAYS_UNPRICED] += row["unpriced"]

    async def _import_rows(self, run: _Run, report: KindReport) -> None:
        kind = _ROWS[report.kind]

        async def converted() -> AsyncGenerator[tuple[int, list[_RowToStore]]]:
            async for rows in run.source.batches(report.kind, ROWS_PER_BATCH):
                yield len(rows), await in_worker(partial(_convert_rows, run, report, rows))

        async with aclosing(_one_ahead(converted())) as ahead:
            async for rows, to_store in ahead:
                for part in _parts(to_store):
                    await self._store_part(run, kind, report, part)
                run.show(report, rows)

    async def _store_part(
        self, run: _Run, kind: _Rows, report: KindReport, part: Sequence[_RowToStore]
    ) -> None:
        array = b"[%b]" % b",".join(encoded for _, encoded in part)
        try:
            inserted, here = await self._retry(partial(self._store_rows, run, kind, array))
        except _NOT_STORED:
            if len(part) == 1:
                report.refuse(NOT_STORABLE, part[0][0])
                return
            for half in _halves(part):
                await self._store_part(run, kind, report, half)
            return
        report.stored += inserted
        for position, (row, _) in enumerate(part):
            if position not in here and not run.dry_run:
                report.refuse(kind.if_missing, row)
                continue
            if position not in here:
                report.stored += 1
            elif here[position]["is_changed"]:
                run.conversion.notes[CHANGED] += 1
            tokens, cost = _amounts(report.kind, row)
            if report.kind == "messages":
                tokens, cost = _storable_amounts(report, row)
            if position in here and not run.dry_run:
                tokens, cost = here[position]["tokens"], here[position]["cost"]
            report.here.add(tokens, cost)

    async def _raise_totals(self, run: _Run, report: KindReport) -> None:
        """Raise totals of conversations that lack messages which were deleted there; compare them.

        That is so if an import stopped between a conversation and its messages.
        """
        async with aclosing(run.source.batches("conversation_totals", CALLS_PER_BATCH)) as batches:
            async for rows in batches:
                array = await in_worker(partial(_convert_totals, run, rows))
                row = await self._retry(partial(self._raise_totals_of, array))
                report.here.add(row["tokens"], row["cost"], rows=0)

    async def _raise_totals_of(self, array: bytes) -> asyncpg.Record:
        async with self._database.transaction() as transaction:
            if not self._database.in_caller_transaction:
                await transaction.execute(TIMEOUTS)
                transaction.timeout = None
            inside = self.with_database(transaction)
            await inside._fetch_all("raise_totals", rows=array)
            return await inside._fetch_one("stored_totals", rows=array)

    async def _store_rows(
        self, run: _Run, kind: _Rows, array: bytes
    ) -> tuple[int, dict[int, asyncpg.Record]]:
        """Store rows in one transaction; return how many are new, and which are stored now."""
        async with self._database.transaction() as transaction:
            if not self._database.in_caller_transaction:
                await transaction.execute(TIMEOUTS)
                transaction.timeout = None
            inside = self.with_database(transaction)
            inserted = 0
            if not run.dry_run:
                inserted = (await inside._fetch_one(kind.insert, rows=array))["inserted"]
                if inserted and not run.recorded:
                    await inside._audit.record(run.actor, "data.import", f"llmring {run.id}")
            here = await inside._fetch_all(kind.stored, rows=array)
        run.recorded = run.recorded or inserted > 0
        return inserted, {row["position"]: row for row in here}


def _owner(row: asyncpg.Record) -> tuple[str | None, str | None]:
    return row["api_key_id"], None if row["api_key_id"] else row["project_id"]


def _convert_calls(
    run: _Run, report: KindReport, rows: Sequence[asyncpg.Record]
) -> list[_CallsOfProject]:
    """Return the calls that can be stored, by project; note the reasons why others cannot."""
    projects: list[_CallsOfProject] = []
    for _, group in groupby(rows, _owner):
        of_owner = list(group)
        try:
            project_id = run.conversion.project_of(of_owner[0], len(of_owner))
        except Refused as exc:
            for row in of_owner:
                report.refuse(str(exc), row)
            continue
        calls: list[CallToStore] = []
        for row in of_owner:
            try:
                call = run.conversion.call(row)
            except (Refused, *UNCONVERTIBLE) as exc:
                report.refuse(reason_of(exc), row)
                continue
            if run.seen.add(project_id, call.id):
                calls.append(call)
            else:
                report.refuse(SAME_ID, row)
        if calls:
            projects.append((project_id, calls))
    return projects


def _convert_rows(
    run: _Run, report: KindReport, rows: Sequence[asyncpg.Record]
) -> list[_RowToStore]:
    convert = _ROWS[report.kind].convert
    converted = []
    for row in rows:
        try:
            stored = convert(run.conversion, row)
            encoded = orjson.dumps(stored, json_default)
        except (Refused, *UNCONVERTIBLE) as exc:
            report.refuse(reason_of(exc), row)
            continue
        parent = _PARENTS.get(report.kind)
        if parent and not run.seen.add((report.kind, row[parent]), UUID(str(stored["id"]))):
            report.refuse(SAME_ID, row)
        else:
            converted.append((row, encoded))
    return converted


def _convert_totals(run: _Run, rows: Sequence[asyncpg.Record]) -> bytes:
    """Return the totals of conversations as JSON. Those that cannot be stored are left out."""
    totals = []
    for row in rows:
        cost = row["total_cost"]
        with suppress(Refused):
            totals.append(
                {
                    "project_id": run.conversion.project_of(row, 0),
                    "id": row["id"],
                    "message_count": max(row["message_count"] or 0, 0),
                    "total_input_tokens": max(row["total_input_tokens"] or 0, 0),
                    "total_output_tokens": max(row["total_output_tokens"] or 0, 0),
                    "total_cost": cost if _is_amount(cost) and cost > 0 else 0,
                }
            )
    return orjson.dumps(totals, json_default)


async def _one_ahead(batches: AsyncGenerator[Batch]) -> AsyncGenerator[Batch]:
    """Yield batches. While one is used, the next is prepared."""
    async with aclosing(batches):
        following = asyncio.ensure_future(anext(batches, None))
        try:
            while (batch := await following) is not None:
                following = asyncio.ensure_future(anext(batches, None))
                yield batch
        finally:
            following.cancel()
            await asyncio.wait([following])


def _tokens_of(call: CallToStore) -> int:
    tokens: int = call.row["input_tokens"] + call.row["output_tokens"]
    return tokens


def _amounts(kind: str, row: asyncpg.Record) -> tuple[int | None, Decimal | None]:
    """Return the tokens and the cost of a row, as the totals of its kind count them."""
    if kind == "conversations":
        tokens = max(row["total_input_tokens"] or 0, 0) + max(row["total_output_tokens"] or 0, 0)
        cost = row["total_cost"]
        return tokens, cost if _is_amount(cost) and cost > 0 else None
    if kind not in {"calls", "messages"}:
        return None, None
    tokens = (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
    return tokens, row["cost"] if _is_amount(row["cost"]) else None


def _is_amount(cost: Decimal | None) -> bool:
    """Tell whether the totals of a source count a cost."""
    return cost is not None and cost.is_finite() and abs(cost) < MAX_COUNTED_COST


def _storable_amounts(report: KindReport, row: asyncpg.Record) -> tuple[int | None, Decimal | None]:
    """Return the tokens and the cost that a message is stored with; report what it is without."""
    tokens, cost = _amounts("messages", row)
    stored_tokens = max(row["input_tokens"] or 0, 0) + max(row["output_tokens"] or 0, 0)
    stored_cost = cost if cost is not None and is_storable_cost(cost) else None
    missing = Totals(0, (tokens or 0) - stored_tokens, (cost or Decimal(0)) - (stored_cost or 0))
    if missing != Totals():
        report.refuse_amounts(WITHOUT_AMOUNTS, row["id"], missing.tokens, missing.cost, rows=0)
    return stored_tokens, stored_cost


def _halves(rows: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """Return two halves, to find the row that the database refuses."""
    middle = len(rows) // 2
    return rows[:middle], rows[middle:]


def _parts(
    rows: Sequence[_RowToStore],
) -> Iterator[list[_RowToStore]]:
    """Yield rows in parts of at most `MAX_STATEMENT_BYTES`, or of one row."""
    part: list[_RowToStore] = []
    size = 0
    for row in rows:
        if part and size + len(row[1]) > MAX_STATEMENT_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row[1])
    if part:
        yield part
