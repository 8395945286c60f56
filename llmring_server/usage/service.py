"""Usage: the log of LLM calls, written once, and read as lists, exports and statistics."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

import asyncpg

from llmring_server.core.events import CallLogged
from llmring_server.core.fair_queue import FairSlots, SlotLimits
from llmring_server.core.identity import ProjectId
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.server_stats import CommitQueueStats
from llmring_server.core.time_slices import TimeSlices
from llmring_server.core.warnings import (
    RequestWarning,
    unknown_field_warnings,
    unknown_fields_error,
)
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import (
    InvalidRequest,
    LockTimeout,
    RingError,
    traceback_without_values,
)
from llmring_server.pricing.price_book import EMPTY_PRICE_BOOK, PriceBook
from llmring_server.pricing.service import Pricing
from llmring_server.settings import Settings
from llmring_server.usage.call_record import (
    TWO_KEYS,
    CallRecord,
    prepare_call,
    prepare_calls,
)
from llmring_server.usage.group_commit import GroupCommit, GroupCommitLimits, write_each
from llmring_server.usage.idempotency import (
    FirstUse,
    IdempotencyKey,
    IdempotencyKeys,
    batch_item_key,
    require_same_request,
)
from llmring_server.usage.models import (
    CALL_FIELDS,
    Call,
    CallFilter,
    CallPage,
    ExportedCall,
    LogResult,
    NewCall,
)
from llmring_server.usage.stats import (
    MAX_PERIODS,
    StatsQuery,
    StatsWindow,
    UsageStats,
    mark_partial_periods,
)

Outcome = TypeVar("Outcome", LogResult, LogResult | RingError)

_logger = logging.getLogger(__name__)


class Usage(Repository):
    """The log of LLM calls of every project."""

    sql = ("usage/calls", "usage/stats")
    replica_reads = frozenset({"list_calls", "export_calls", "stats"})
    tables = (Table("usage_logs", "calls", "erase_calls"),)
    delete_with_calls = ("delete_unpartitioned",)

    def __init__(  # noqa: PLR0913, they are all of it
        self,
        database: Database,
        limits: GroupCommitLimits,
        prices: Pricing,
        move_sums: Callable[[], None],
        idempotency_keys: IdempotencyKeys,
        *,
        strict_fields: bool = False,
    ) -> None:
        super().__init__(database)
        self._group_commit = GroupCommit(self._write, limits)
        self._concurrent_commits = limits.concurrent_commits
        # A batch is a statement of its own, so that the calls of others do not wait for it.
        self._batch_slots = FairSlots(self._slot_limits, limits.queue, database.acquire_timeout)
        self._prices = prices
        # Starts background work on the pool, even if this repository is within a transaction.
        self._move_sums = move_sums
        self._idempotency_keys = idempotency_keys
        self._strict_fields = strict_fields

    def configure(self, settings: Settings) -> None:
        self._strict_fields = settings.strict_fields

    async def log(self, project_id: ProjectId, call: NewCall, key: str | None = None) -> LogResult:
        """Store a call once: committed on return, or with the caller's transaction.

        A repeated `key` returns the first result. InvalidRequest if the key came with another call
        before, or if the call has another key; RequestInProgress while its first use is undecided.
        With the setting `strict_fields`, InvalidRequest also if the call has unknown fields.
        """
        if key and call.idempotency_key and key != call.idempotency_key:
            raise InvalidRequest(
                "idempotency_key: the call and the request have different keys; give one, not both"
            )
        unknown_fields = call.unknown_fields
        warnings = self._warnings(unknown_fields) if unknown_fields else []
        if call.cost is not None:
            book = EMPTY_PRICE_BOOK
        else:
            book = self._prices.cached_book() or await self._prices.book()
        record = prepare_call(project_id, call, book, key or call.idempotency_key)
        if record.quote.price and not self._prices.is_stored(record.quote.price):
            await self._prices.insert_prices([record.quote.price])
        if self._database.in_caller_transaction:
            result = _raise_first_error(await self._insert_records([record]))[0]
        else:
            result = await self._group_commit(project_id, record)
        return result._replace(warnings=warnings) if warnings else result

    async def log_many(
        self, project_id: ProjectId, calls: Sequence[NewCall], key: str | None = None
    ) -> list[LogResult]:
        """Store all calls in one commit, or none; a `key` is that of the batch as a whole.

        Overloaded if the queue of batches, or the project's share of it, is full.
        """
        async with self._database.slot(self._batch_slots, project_id, len(calls)):
            warnings: list[list[RequestWarning]] = []
            records: list[CallRecord] = []
            slices = TimeSlices()
            for index, call in enumerate(calls):
                warnings.append(self._warnings(call.unknown_fields, index))
                await slices.pause()
            for record in prepare_calls(project_id, calls, await self._book_for(calls), key):
                records.append(record)
                await slices.pause()
            await self._keep_prices(records)
            results = await self._retry(lambda: self._insert_all(records))
            self._announce(records, results)
        return [*map(_with_warnings, results, warnings)]

    async def log_each(
        self, project_id: ProjectId, calls: Sequence[NewCall | RingError], key: str | None = None
    ) -> list[LogResult | RingError]:
        """Store in one commit each call that can be stored, and return the outcome of each.

        The outcome of what is already an error is this error. A `key` becomes a key for each index;
        with it, no call may have its own. Overloaded if the queue of batches, or the project's
        share of it, is full.
        """
        items: list[tuple[CallRecord, list[RequestWarning]] | RingError] = []
        async with self._database.slot(self._batch_slots, project_id, len(calls)):
            slices = TimeSlices()
            for index, call in enumerate(calls):
                items.append(await self._prepare_item(project_id, index, call, key))
                await slices.pause()
            records = [item[0] for item in items if not isinstance(item, RingError)]
            await self._keep_prices(records)
            written = iter(await write_each(self._write_or_retry, records) if records else ())
        return [
            item
            if isinstance(item, RingError)
            else _with_warnings(_result_or_ring_error(next(written)), item[1])
            for item in items
        ]

    async def price_call(
        self, project_id: ProjectId, call: NewCall, id: UUID, logged_at: datetime
    ) -> CallRecord:
        """Price a call and prepare it for `insert`, in a transaction with other changes."""
        book = await self._book_for([call])
        return prepare_call(project_id, call, book, id_and_time=(id, logged_at))

    async def insert(self, record: CallRecord) -> None:
        """Store a prepared call."""
        await self._keep_prices([record])
        _raise_first_error(await self._insert_records([record]))

    async def insert_stored(self, records: Sequence[CallRecord]) -> None:
        """Store calls again that were stored elsewhere before: their prices are not inserted."""
        _raise_first_error(await self._insert_records(records))

    async def logs(self, project_id: ProjectId, page: CallPage | None = None) -> list[Call]:
        """Return a page of calls, newest first; `page.next` returns the cursor of the next page.

        It is shorter than its limit if the calls are large. Only an empty page is the last one.
        """
        page = page or CallPage()
        database = self._database
        async with database.long_statement(project_id) if page.has_filter else nullcontext():
            rows = await self._fetch_all(
                "list_calls",
                project_id=project_id,
                **page.params(),
                **page.after(project_id)._asdict(),
                limit=page.limit,
                offset=page.offset,
                max_bytes=MAX_PAGE_BYTES,
            )
        return Call.from_rows(rows, self._read_json)

    def export(
        self, project_id: ProjectId, calls: CallFilter | None = None
    ) -> AsyncGenerator[ExportedCall]:
        """Yield all calls that the filter selects, newest first, from one snapshot.

        The `cost` of an unpriced call is None here, and so are the tokens of a call whose usage is
        unknown. The generator holds a transaction. Use `contextlib.aclosing` if you may stop early.
        """
        calls = calls or CallFilter()
        rows = self._stream("export_calls", project_id=project_id, **calls.params())
        return ExportedCall.from_stream(rows, self._read_json)

    async def stats(self, project_id: ProjectId, query: StatsQuery | None = None) -> UsageStats:
        """Report on a time range: by default the last 30 days, by UTC day.

        Of months whose calls maintenance has dropped, only whole UTC days are left. There, a range
        that ends in the last second of a day contains the day. InvalidRequest if the range cuts
        another one, or asks for hours or days of other time zones.
        """
        query = query or StatsQuery()
        window = query.window()
        row = await self._fetch_stats(project_id, query, window)
        if row["cuts_daily_only"]:
            window = query.window(complete_days=True)
            row = await self._fetch_stats(project_id, query, window)
        daily_only_until = row["daily_only_until"]
        if daily_only_until and not window.by_utc_day:
            raise InvalidRequest(
                f"Only daily UTC totals are kept before {daily_only_until:%Y-%m-%d}:"
                " use a later start_date, or tz=UTC without group_by=hour."
            )
        if row["cuts_daily_only"]:
            raise InvalidRequest(
                f"Only daily UTC totals are kept before {daily_only_until:%Y-%m-%d}:"
                " use a later start_date, or whole days (dates without a time)."
            )
        stats = UsageStats.model_validate_json(row["stats"])
        if len(stats.by_day) > MAX_PERIODS:
            raise InvalidRequest(
                f"More than {MAX_PERIODS:,} periods have calls:"
                " use a shorter time range, or group_by=week or month."
            )
        mark_partial_periods(stats.by_day, query, window, datetime.now(UTC))
        return stats

    async def _fetch_stats(
        self, project_id: ProjectId, query: StatsQuery, window: StatsWindow
    ) -> asyncpg.Record:
        async with self._database.long_statement(project_id):
            return await self._fetch_one(
                "stats",
                project_id=project_id,
                group_by=query.group_by,
                top=query.top,
                max_periods=MAX_PERIODS + 1,
                offset_changes=[change.since for change in window.offsets],
                utc_offsets=[change.utc_offset for change in window.offsets],
                cut_days=window.cut_days,
                **window.segments._asdict(),
            )

    def commit_queue(self) -> CommitQueueStats:
        """Return how many calls wait to be stored and are being stored."""
        return self._group_commit.stats()

    async def aclose(self) -> None:
        """Wait until all calls that wait for a commit are stored."""
        await self._group_commit.drain()

    def _slot_limits(self) -> SlotLimits:
        """Return how many batches are written at once; most connections are for others."""
        slots = min(2 * self._concurrent_commits, self._database.connections_for(0.2))
        return SlotLimits(slots, max(1, slots // 2))

    async def _prepare_item(
        self, project_id: ProjectId, index: int, call: NewCall | RingError, key: str | None
    ) -> tuple[CallRecord, list[RequestWarning]] | RingError:
        """Prepare a call of a batch, with its warnings; or return why it cannot be stored."""
        try:
            if isinstance(call, RingError):
                return call
            if key and call.idempotency_key:
                raise InvalidRequest(TWO_KEYS)
            warnings = self._warnings(call.unknown_fields)
            item_key = batch_item_key(key, index) if key else call.idempotency_key
            book = await self._book_for([call])
            return prepare_call(project_id, call, book, item_key), warnings
        except RingError as exc:
            return exc

    def _warnings(
        self, unknown_fields: Sequence[str], index: int | None = None
    ) -> list[RequestWarning]:
        """Return warnings of a call's unknown fields; raise InvalidRequest if these are refused."""
        if unknown_fields and self._strict_fields:
            raise unknown_fields_error(unknown_fields, CALL_FIELDS, index)
        return unknown_field_warnings(unknown_fields, CALL_FIELDS) if unknown_fields else []

    async def _book_for(self, calls: Iterable[NewCall]) -> PriceBook:
        if all(call.cost is not None for call in calls):
            return EMPTY_PRICE_BOOK
        return await self._prices.book()

    async def _keep_prices(self, records: Iterable[CallRecord]) -> None:
        if prices := [record.quote.price for record in records if record.quote.price]:
            await self._prices.insert_prices(prices)

    async def _insert_all(self, records: Sequence[CallRecord]) -> list[LogResult]:
        """Insert all calls or none."""
        has_keys = any(record.idempotency_key for record in records)
        if self._database.connection is None and not has_keys:
            # The statement stores all or none. Only with keys it may return errors.
            return _raise_first_error(await self._insert_records(records))
        async with self._database.transaction() as inside:
            return _raise_first_error(await self.with_database(inside)._insert_records(records))

    async def _write_or_retry(self, records: Sequence[CallRecord]) -> list[LogResult | RingError]:
        return await self._retry(lambda: self._write(records))

    async def _write(self, records: Sequence[CallRecord]) -> list[LogResult | RingError]:
        """Write calls, each of which has its own outcome."""
        try:
            outcomes = await self._insert_in_savepoint(records)
        except LockTimeout:
            # The statement takes keys and other locks, and the database names the one it waited for
            # only in the text of its message. Inserting the keys one by one identifies it.
            if not any(record.idempotency_key for record in records):
                raise
            outcomes = await self._insert_around_locked_keys(records)
        # Read here: without subscribers, not even a function is called.
        if self._database.events.has_subscribers:
            self._announce(records, outcomes)
        return outcomes

    def _announce(
        self, records: Sequence[CallRecord], outcomes: Sequence[LogResult | RingError]
    ) -> None:
        """Announce the calls that were stored, unless they are in a caller's transaction."""
        if self._database.announces:
            self._database.events.announce(
                [
                    call_logged(record)
                    for record, outcome in zip(records, outcomes, strict=True)
                    if isinstance(outcome, LogResult) and not outcome.replayed
                ]
            )

    async def _insert_in_savepoint(
        self, records: Sequence[CallRecord]
    ) -> list[LogResult | RingError]:
        """Insert calls so that, in a transaction, an error does not end the transaction."""
        if self._database.connection is None:
            return await self._insert_records(records)
        async with self._database.transaction() as inside:
            return await self.with_database(inside)._insert_records(records)

    async def _insert_records(
        self, records: Sequence[CallRecord], *, keys_inserted: bool = False
    ) -> list[LogResult | RingError]:
        in_caller_transaction = self._database.in_caller_transaction
        if not in_caller_transaction:
            self._move_sums()
        rows = await self._fetch_all(
            "insert_calls",
            calls=b"[%b]" % b",".join([record.row for record in records]),
            in_caller_transaction=in_caller_transaction,
            keys_inserted=keys_inserted,
        )
        new_keys = {row["id"] for row in rows}
        duplicates = [
            record for record in records if record.idempotency_key and record.id not in new_keys
        ]
        if keys_inserted or not duplicates:
            return [_stored(record) for record in records]
        first_results = await self._first_results(duplicates)
        return [first_results.get(record.id) or _stored(record) for record in records]

    async def _first_results(
        self, duplicates: Sequence[CallRecord]
    ) -> dict[UUID, LogResult | RingError]:
        """Return the results of the first uses of these calls' keys, or why they cannot be used."""
        keys = {
            record.id: (record.project_id, record.idempotency_key.key)
            for record in duplicates
            if record.idempotency_key
        }
        first_uses = await self._idempotency_keys.first_uses_for_calls(keys.values())
        return {
            record.id: _idempotency_result(
                record, record.idempotency_key, first_uses.get(keys[record.id])
            )
            for record in duplicates
            if record.idempotency_key
        }

    async def _insert_around_locked_keys(
        self, records: Sequence[CallRecord]
    ) -> list[LogResult | RingError]:
        """Insert each call with a key by itself: a transaction that does not end may hold a key."""
        without_key = [record for record in records if record.idempotency_key is None]
        stored = await self._insert_in_savepoint(without_key) if without_key else []
        results = dict(zip((record.id for record in without_key), stored, strict=True))
        for record in records:
            if record.idempotency_key:
                results[record.id] = await self._insert_one(record, record.idempotency_key)
        return [results[record.id] for record in records]

    async def _insert_one(
        self, record: CallRecord, idempotency_key: IdempotencyKey
    ) -> LogResult | RingError:
        """Insert a key, then its call, to distinguish a lock on the key from any other lock."""
        try:
            async with self._database.transaction() as transaction:
                inside = self.with_database(transaction)
                timeout = await inside._fetch_one("shorten_lock_timeout")
                is_new = await inside._idempotency_keys.insert(
                    record.project_id, idempotency_key, record.id, record.logged_at
                )
                await inside._fetch_all("restore_lock_timeout", previous=timeout["previous"])
                if is_new:
                    return (await inside._insert_records([record], keys_inserted=True))[0]
                return (await inside._first_results([record]))[record.id]
        except RingError as exc:
            return exc


def call_logged(record: CallRecord) -> CallLogged:
    """Return the event of a call that was stored."""
    return CallLogged(
        project_id=record.project_id,
        call_id=record.id,
        logged_at=record.logged_at,
        cost=_stored(record).cost,
        cost_source=record.quote.source,
    )


def _stored(record: CallRecord) -> LogResult:
    return LogResult(record.id, record.logged_at, record.quote.cost, record.quote.source)


def _idempotency_result(
    record: CallRecord, idempotency_key: IdempotencyKey, first_use: FirstUse | None
) -> LogResult | RingError:
    try:
        first_use = require_same_request(first_use, idempotency_key)
    except RingError as exc:
        return exc
    return LogResult(
        first_use["id"],
        first_use["logged_at"],
        first_use["cost"],
        first_use["cost_source"],
        replayed=first_use["id"] != record.id,
    )


def _with_warnings(outcome: Outcome, warnings: list[RequestWarning]) -> Outcome:
    if warnings and isinstance(outcome, LogResult):
        return outcome._replace(warnings=warnings)
    return outcome


def _result_or_ring_error(outcome: LogResult | Exception) -> LogResult | RingError:
    """Return an outcome of `write_each`; a bug of ours is an internal error of its call."""
    if isinstance(outcome, LogResult | RingError):
        return outcome
    _logger.error("a call cannot be stored: %s", traceback_without_values(outcome))
    return RingError()


def _raise_first_error(results: Sequence[LogResult | RingError]) -> list[LogResult]:
    """Return the results, or raise the first that is an error."""
    for result in results:
        if isinstance(result, RingError):
            raise result
    return [result for result in results if isinstance(result, LogResult)]
