"""Import: the calls of an export, stored again as they were, each of them once.

`read_export` reads a file line by line. `CallImport` stores its calls in batches that commit on
their own. An import that was interrupted can be started again: calls that are stored stay as they
are.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from io import BufferedReader
from itertools import islice
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, Self
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, Field, ValidationError, model_validator

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.core.ids import EPOCH, moment_of, new_id
from llmring_server.core.providers import normal_provider
from llmring_server.core.strict_json import (
    NOT_BLANK,
    JsonObject,
    dump_bounded_json,
    json_default,
    parse_json,
)
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.errors import InvalidRequest, RingError
from llmring_server.pricing.price_book import PricedCall
from llmring_server.pricing.rerating import Rerating
from llmring_server.usage.call_record import MAX_METADATA_BYTES, CallRecord
from llmring_server.usage.csv_text import unquote_formula
from llmring_server.usage.models import DETAILS, MAX_CLOCK_SKEW, CallDetails, Label, Status
from llmring_server.usage.rollups import Rollups
from llmring_server.usage.service import Usage

BATCH_SIZE = 1000
# A line has 64 KiB of metadata, and labels.
MAX_LINE_BYTES = 1024 * 1024
# Reasons that are kept for the report; all rejected lines are counted.
MAX_ERRORS = 20
# Sums are moved to rollups after so many batches, so that the fast table stays small.
BATCHES_BETWEEN_MOVES = 100

DAY = timedelta(hours=24)
MILLISECOND = timedelta(milliseconds=1)
UUID_WITH_TIME = 7

# A day with many calls takes a while to count. Only the first batch that has calls of it waits.
TIMEOUTS = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '10s'"

Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
# With the places and the range of its column; CSV has amounts as text.
Amount = Annotated[
    Decimal, Field(gt=-(10**9), lt=10**9, max_digits=20, decimal_places=10, strict=False)
]
Source = Literal["client", "override", "registry", "offline", "unpriced"]
ExportFormat = Literal["jsonl", "csv"]


class ImportedCall(BaseModel, strict=True):
    """A line of an export. Where the cost comes from decides whether there is one.

    Older exports have a cost of 0 for unpriced calls. Without `first_cost`, the call was not
    re-rated.
    """

    id: Annotated[UUID, Field(strict=False)]
    logged_at: Annotated[AwareDatetime, Field(strict=False)]
    provider: Annotated[Label, Field(pattern=NOT_BLANK)]
    model: Annotated[Label, Field(pattern=NOT_BLANK)]
    alias: Label | None = None
    profile: Label | None = None
    origin: Label | None = None
    id_at_origin: Annotated[str, Field(max_length=1024)] | None = None
    status: Status = "ok"
    latency_ms: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    input_tokens: Count | None
    output_tokens: Count | None
    cached_input_tokens: Count | None = None
    cost: Annotated[Amount, Field(ge=0)] | None = None
    cost_source: Source
    adjustment: Amount | None = None
    first_cost: Annotated[Amount, Field(ge=0)] | None = None
    first_cost_source: Source | None = None
    details: CallDetails | None = None
    metadata: JsonObject | None = None
    usage_known: bool | None = None

    @model_validator(mode="after")
    def _check_time(self) -> Self:
        if self.id.version != UUID_WITH_TIME:
            raise ValueError("id: must be a UUID of version 7, as in an export")
        if not timedelta() <= self.logged_at - moment_of(self.id) < MILLISECOND:
            raise ValueError("logged_at: must lie in the millisecond that the id contains")
        if self.logged_at > datetime.now(UTC) + MAX_CLOCK_SKEW:
            raise ValueError("logged_at: must not lie more than 10 minutes ahead")
        return self

    @model_validator(mode="after")
    def _check_costs(self) -> Self:
        if self.first_cost_source is None:
            self.first_cost, self.first_cost_source = self.cost, self.cost_source
        if self.cost_source == "unpriced":
            self.cost = None
        elif self.cost is None:
            raise ValueError(f"cost: is missing, but cost_source is {self.cost_source}")
        if self.first_cost_source == "unpriced":
            self.first_cost = None
        elif self.first_cost is None:
            raise ValueError(
                f"first_cost: is missing, but first_cost_source is {self.first_cost_source}"
            )
        if self.cost is None and self.first_cost is not None:
            raise ValueError("cost_source: is unpriced, but first_cost_source is not")
        if self.adjustment is not None and self.adjustment != self.cost_change:
            raise ValueError("adjustment: must be cost minus first_cost")
        return self

    @model_validator(mode="after")
    def _check_usage(self) -> Self:
        if self.usage_known is False:
            self.input_tokens = self.output_tokens = None
        elif self.input_tokens is not None or self.output_tokens is not None:
            self.input_tokens = self.input_tokens or 0
            self.output_tokens = self.output_tokens or 0
        elif self.usage_known:
            raise ValueError("usage_known: is true, but input_tokens and output_tokens are missing")
        return self

    @property
    def cost_change(self) -> Decimal:
        """What re-rating added to the first cost."""
        return (self.cost or Decimal(0)) - (self.first_cost or Decimal(0))

    def row(self) -> dict[str, Any]:
        """Return the call as `insert_calls` takes it: as it was before re-rating."""
        metadata = dump_bounded_json(self.metadata or {}, "metadata", MAX_METADATA_BYTES)
        row: dict[str, Any] = {
            "id": self.id,
            "logged_at": self.logged_at,
            "cost": None if self.first_cost is None else str(self.first_cost),
            "cost_source": self.first_cost_source,
            "status": self.status,
            "provider": self.provider,
            "model": self.model,
            "profile": self.profile or "default",
            "alias": self.alias,
            "origin": self.origin,
            "id_at_origin": self.id_at_origin,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_input_tokens": self.cached_input_tokens or 0,
            "latency_ms": self.latency_ms,
            "metadata": orjson.Fragment(metadata),
        }
        normal_name = normal_provider(self.provider)
        if normal_name != self.provider:
            row["normal_provider"] = normal_name
        if self.details and (details := self.details.model_dump(exclude_none=True)):
            row["details"] = details
        return row

    def adjustment_row(self) -> dict[str, Any] | None:
        """Return all re-ratings of the call as one adjustment; None if there were none.

        Exports contain no prices, so that of the adjustment is not known.
        """
        before = (self.first_cost, self.first_cost_source)
        if (self.cost, self.cost_source) == before:
            return None
        return {
            "logged_at": self.logged_at,
            "id": self.id,
            "amount": self.cost_change,
            "was_unpriced": self.first_cost is None,
            "cost": self.cost,
            "cost_source": self.cost_source,
            "price": None,
        }


def day_of(moment: datetime) -> datetime:
    """Return the beginning of a UTC day."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


class CallToStore(NamedTuple):
    """A valid call of an export, as two rows."""

    id: UUID
    logged_at: datetime
    first_cost: Decimal | None
    row: Mapping[str, Any]
    # The UTC day of the call.
    day: datetime
    adjustment: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, call: ImportedCall) -> Self:
        row, day = call.row(), day_of(call.logged_at)
        return cls(call.id, call.logged_at, call.first_cost, row, day, call.adjustment_row())

    def record(self, project_id: ProjectId) -> CallRecord:
        row = orjson.dumps({"project_id": project_id, **self.row}, json_default)
        quote = PricedCall(self.first_cost, None)
        return CallRecord(project_id, self.id, self.logged_at, quote, None, row)


class ExportLine(NamedTuple):
    """A line of a file, by its number: a call, or the reason why it is none."""

    number: int
    call: CallToStore | None
    error: str = ""
    # Members that an import does not know, and does not store.
    unknown: Sequence[str] = ()


# Reading.

_FIELDS = frozenset(ImportedCall.model_fields)
# Others can be computed.
_KNOWN = _FIELDS | {"conversation_id"}
_REQUIRED = frozenset(
    name for name, field in ImportedCall.model_fields.items() if field.is_required()
)

# The columns of CSV that are not text.
_INTEGERS = {"latency_ms", "input_tokens", "output_tokens", "cached_input_tokens"}
_JSON = {"details", "metadata"}
_BOOLEANS = {"true": True, "false": False}
_OTHERS = {"id", "logged_at", "cost", "adjustment", "first_cost"}


def with_peek(file: Any) -> Any:
    """Return a binary file whose first bytes can be looked at without reading them."""
    return file if hasattr(file, "peek") else BufferedReader(file)


def read_export(file: BinaryIO, file_format: ExportFormat | None = None) -> Iterator[ExportLine]:
    """Yield the calls of an export in JSON lines or CSV; by default, its first byte decides.

    InvalidRequest if this is not an export.
    """
    buffered = with_peek(file)
    if file_format is None:
        start = buffered.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        file_format = "jsonl" if start[:1] in {b"{", b""} else "csv"
    return _read_jsonl(buffered) if file_format == "jsonl" else _read_csv(buffered)


def _read_jsonl(file: BinaryIO) -> Iterator[ExportLine]:
    lines = iter(partial(file.readline, MAX_LINE_BYTES + 1), b"")
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_BYTES:
            _skip_line(file, line)
            yield ExportLine(number, None, f"is longer than {MAX_LINE_BYTES:,} bytes")
        elif text := line.removeprefix(b"\xef\xbb\xbf").strip():
            yield _line(number, partial(_parse_json, text))


def _skip_line(file: BinaryIO, line: bytes) -> None:
    """Read to the end of a line that was read in part."""
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE_BYTES)


def _parse_json(text: bytes) -> Mapping[str, Any]:
    value = parse_json(text)
    if not isinstance(value, dict):
        raise InvalidRequest("is not a JSON object")
    return value


def _read_csv(file: BinaryIO) -> Iterator[ExportLine]:
    # Text that is not UTF-8 becomes characters that are refused.
    lines = iter(partial(file.readline, MAX_LINE_BYTES), b"")
    rows = csv.reader(line.decode(errors="surrogateescape") for line in lines)
    header = [name.removeprefix("\ufeff") for name in next(rows, [])]
    if missing := _REQUIRED.difference(header):
        raise InvalidRequest(
            f"This is not an export of calls: it has no columns {', '.join(sorted(missing))}."
        )
    return _read_rows(header, rows)


def _read_rows(header: Sequence[str], rows: Any) -> Iterator[ExportLine]:
    while True:
        # A quoted cell may contain line breaks: a row begins after the last line of the one before.
        number = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as exc:
            yield ExportLine(number, None, f"is not CSV: {exc}")
            continue
        if cells:
            yield _line(number, partial(_parse_cells, header, cells))


def _parse_cells(header: Sequence[str], cells: Sequence[str]) -> Mapping[str, Any]:
    if len(cells) != len(header):
        raise InvalidRequest(f"has {len(cells)} cells, and the header {len(header)}")
    return {
        name: _parse_cell(name, cell) for name, cell in zip(header, cells, strict=True) if cell
    } | {name: None for name, cell in zip(header, cells, strict=True) if not cell}


def _parse_cell(name: str, cell: str) -> Any:
    if "\0" in cell:
        raise InvalidRequest(f"{name}: must not contain the character U+0000")
    if name in _JSON:
        return parse_json(cell.encode(errors="surrogateescape"))
    if name in _INTEGERS:
        return int(cell) if re.fullmatch(r"[0-9]{1,16}", cell) else cell
    if name == "usage_known":
        return _BOOLEANS.get(cell, cell)
    return cell if name in _OTHERS else unquote_formula(cell)


def _line(number: int, parse: Callable[[], Mapping[str, Any]]) -> ExportLine:
    try:
        members = parse()
        known = {name: value for name, value in members.items() if name in _FIELDS}
        call = CallToStore.of(ImportedCall.model_validate(known))
    except RingError as exc:
        # What is said of the body of a request is said of a line here.
        error = str(exc).replace("The body is", "is").removeprefix("body: ")
        return ExportLine(number, None, error)
    except ValidationError as exc:
        return ExportLine(number, None, _first_error(exc))
    return ExportLine(number, call, unknown=_unknown(members))


def _unknown(members: Mapping[str, Any]) -> list[str]:
    """Return the names of members that are not stored, those within the details by path."""
    unknown = [] if members.keys() <= _KNOWN else sorted(members.keys() - _KNOWN)
    details = members.get("details") or {}
    if details.keys() <= DETAILS:
        return unknown
    return unknown + [f"details.{name}" for name in sorted(details.keys() - DETAILS)]


def _first_error(exc: ValidationError) -> str:
    """Return the first reason why a line is no call, without its values."""
    error = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    message = error["msg"].removeprefix("Value error, ")
    path = ".".join(map(str, error["loc"]))
    return f"{path}: {message}" if path else message


# Storing.


@dataclass
class ImportReport:
    """What an import has done so far.

    `known` calls were stored before. `counted` ones are of days whose calls were dropped while
    their totals stayed: they are in the totals already, and are not stored again.
    """

    stored: int = 0
    known: int = 0
    counted: int = 0
    rejected: int = 0
    # The first of the rejected lines, and why.
    errors: list[str] = field(default_factory=list)
    # Members of lines that were not stored.
    unknown: set[str] = field(default_factory=set)

    @property
    def lines(self) -> int:
        return self.stored + self.known + self.counted + self.rejected

    def add_line(self, line: ExportLine) -> None:
        """Note what is not stored of a line."""
        self.unknown.update(line.unknown)
        if line.call is None:
            self.rejected += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(f"line {line.number}: {line.error}")


class _Day(NamedTuple):
    """What a project has of a day before the import: see the statement `days`."""

    has_daily_only: bool
    is_counted: bool


@dataclass
class ImportRun:
    """The import of a project: who started it, and the days that it has met."""

    project_id: ProjectId
    actor: Actor
    dry_run: bool
    # Of the audit event, and of the adjustments.
    id: UUID = field(default_factory=new_id)
    days: dict[datetime, _Day] = field(default_factory=dict)
    recorded: bool = False


class NewCalls(NamedTuple):
    """The calls of a batch that were not stored before.

    `counted` ones are of days whose calls were dropped while their totals stayed: they are in the
    totals already, and are not stored.
    """

    stored: Sequence[CallToStore]
    counted: Sequence[CallToStore]


class CallImport(Repository):
    """Stores the calls of exports, for the operator: of any age, and as they were.

    Costs are taken from the export and not computed. A call that is stored is not changed. Where
    maintenance has dropped calls and left daily totals, there are only daily totals afterwards.
    """

    sql = "usage/transfer"

    def __init__(
        self,
        database: Database,
        usage: Usage,
        rollups: Rollups,
        rerating: Rerating,
        audit: AuditLog,
    ) -> None:
        super().__init__(database)
        self._usage = usage
        self._rollups = rollups
        self._rerating = rerating
        self._audit = audit

    async def run(
        self,
        project_id: ProjectId,
        lines: Iterable[ExportLine],
        *,
        actor: Actor,
        dry_run: bool = False,
        progress: Callable[[ImportReport], None] | None = None,
    ) -> ImportReport:
        """Store the calls of an export, batch by batch, and report on all of its lines.

        With `dry_run`, nothing is changed. `progress` is called after each batch. The audit event
        is committed with the first batch that stores calls.
        """
        report = ImportReport()
        run = ImportRun(project_id, actor, dry_run)
        lines = iter(lines)
        batches = 0
        while batch := list(islice(lines, BATCH_SIZE)):
            await self._add_batch(run, batch, report)
            batches += 1
            if batches % BATCHES_BETWEEN_MOVES == 0:
                await self.move_sums(run)
            if progress:
                progress(report)
        await self.move_sums(run)
        return report

    async def move_sums(self, run: ImportRun) -> None:
        """Move the sums of calls that were stored from the fast table, so that it stays small."""
        if not run.dry_run and not self._database.in_caller_transaction:
            await self._rollups.move_to_rollups()

    async def _add_batch(
        self, run: ImportRun, lines: list[ExportLine], report: ImportReport
    ) -> None:
        calls: dict[UUID, CallToStore] = {}
        valid = 0
        for line in lines:
            report.add_line(line)
            if line.call:
                valid += 1
                calls.setdefault(line.call.id, line.call)
        new = await self.store(run, list(calls.values()))
        report.stored += len(new.stored)
        report.counted += len(new.counted)
        report.known += valid - len(new.stored) - len(new.counted)

    async def store(self, run: ImportRun, calls: Sequence[CallToStore]) -> NewCalls:
        """Store a batch of calls with different ids, in one transaction; return those that are new.

        With `run.dry_run`, only return them. After some batches, await `move_sums`.
        """
        return await self._retry(partial(self._store, run, calls))

    async def _store(self, run: ImportRun, calls: Sequence[CallToStore]) -> NewCalls:
        async with self._database.transaction() as transaction:
            if not self._database.in_caller_transaction:
                await transaction.execute(TIMEOUTS)
                transaction.timeout = None
            inside = self.with_database(transaction)
            new = await inside._new_calls(run, calls)
            await inside._read_days(run, new)
            to_store = [call for call in new if not run.days[call.day].is_counted]
            if to_store and not run.dry_run:
                await inside._insert(run, to_store)
        run.recorded = run.recorded or bool(to_store)
        return NewCalls(to_store, [call for call in new if run.days[call.day].is_counted])

    async def _new_calls(self, run: ImportRun, calls: Sequence[CallToStore]) -> list[CallToStore]:
        """Return the calls that are not stored yet, and keep others from storing them meanwhile."""
        await self._fetch_all("lock_import", project_id=run.project_id)
        times = [moment_of(call.id) for call in calls]
        rows = await self._fetch_all(
            "stored_calls",
            project_id=run.project_id,
            ids=[call.id for call in calls],
            times=times,
            since=min(times, default=EPOCH),
            until=max(times, default=EPOCH) + MILLISECOND,
        )
        stored = {row["id"] for row in rows}
        return [call for call in calls if call.id not in stored]

    async def _read_days(self, run: ImportRun, calls: Sequence[CallToStore]) -> None:
        """Look up the days that this import has not met, before it changes them."""
        days = sorted({call.day for call in calls} - run.days.keys())
        if days:
            rows = await self._fetch_all("days", project_id=run.project_id, days=days)
            for row in rows:
                run.days[row["day"]] = _Day(row["has_daily_only"], row["is_counted"])

    async def _insert(self, run: ImportRun, calls: Sequence[CallToStore]) -> None:
        if not run.recorded:
            await self._audit.record(run.actor, "calls.import", str(run.id), run.project_id)
        await self._usage.insert_stored([call.record(run.project_id) for call in calls])
        adjustments = [
            {"project_id": run.project_id, "run": run.id, **call.adjustment}
            for call in calls
            if call.adjustment
        ]
        if adjustments:
            await self._rerating.insert_adjustments(adjustments)
        days = sorted({call.day for call in calls if run.days[call.day].has_daily_only})
        if days:
            await self._fetch_all("move_to_days", project_id=run.project_id, days=days)
            await self._fetch_all(
                "delete_quarter_hours_of_days", project_id=run.project_id, days=days
            )
