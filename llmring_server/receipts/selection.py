"""Call selection: which calls a receipt certifies, read in order of their ids and in pages."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

import asyncpg

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.db.repository import Repository
from llmring_server.errors import InvalidRequest
from llmring_server.receipts.models import ReceiptRequest
from llmring_server.usage.models import MAX_CALL_AGE
from llmring_verify.canonical_json import MAX_SAFE_INTEGER

# The largest number of calls in a receipt. It keeps the statement far from its timeout.
MAX_CALLS = 1_000_000
# The same for uncertified calls, where one receipt follows another.
MAX_UNCERTIFIED_CALLS = 250_000
# Calls are read and inserted in batches of this many.
BATCH_SIZE = 500

ONLY_UNCOUNTABLE_CALLS = (
    "The remaining calls have 2^53 tokens or more each and cannot be certified."
)

_BEGINNING_OF_TIME = datetime(1971, 1, 1, tzinfo=UTC)
_END_OF_TIME = datetime(9998, 1, 1, tzinfo=UTC)
_UUID_WITH_TIME = 7

Rows = Sequence[asyncpg.Record]
RowStream = AsyncGenerator[asyncpg.Record]


class UncertifiedDay(NamedTuple):
    """A day, the number of its calls, and how many of them at most are in no receipt."""

    day: datetime
    calls: int
    uncertified: int


@dataclass(slots=True)
class UncertifiedCalls:
    """The limits of a receipt of uncertified calls, and how far the calls have been read.

    A receipt has at most `max_calls` calls and at most 2^53 tokens. A call that has more tokens
    than that is skipped, and its day stays open.
    """

    max_calls: int
    has_more: bool = False
    accepted: int = 0
    skipped: int = 0
    _days_read: list[UncertifiedDay] = field(default_factory=list)
    _days_with_skipped_calls: set[datetime] = field(default_factory=set)
    _stopped_on: datetime = _END_OF_TIME
    _tokens: int = 0
    _cached_tokens: int = 0

    def add_days(self, days: Sequence[UncertifiedDay]) -> None:
        """Add days whose calls are read next."""
        self._days_read += days

    def accept(self, row: asyncpg.Record) -> bool:
        """Return whether the receipt certifies this call.

        Calls come in order of time. The first call that exceeds a limit ends the receipt: neither
        that call nor a later one is accepted.
        """
        if self.has_more:
            return False
        tokens = (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
        total = self._tokens + tokens
        total_cached = self._cached_tokens + row["cached_input_tokens"]
        if self.accepted + self.skipped == self.max_calls:
            self._stop_before(row)
            return False
        if tokens > MAX_SAFE_INTEGER:
            self.skipped += 1
            self._days_with_skipped_calls.add(_day_of(row))
            return False
        if max(total, total_cached) > MAX_SAFE_INTEGER:
            self._stop_before(row)
            return False
        self.accepted += 1
        self._tokens, self._cached_tokens = total, total_cached
        return True

    def _stop_before(self, row: asyncpg.Record) -> None:
        self.has_more = True
        self._stopped_on = _day_of(row)

    def closed_days(self) -> list[UncertifiedDay]:
        """Return the days that have no uncertified calls left."""
        return [
            day
            for day in self._days_read
            if day.day < self._stopped_on and day.day not in self._days_with_skipped_calls
        ]


def _day_of(row: asyncpg.Record) -> datetime:
    logged_at: datetime = row["logged_at"]
    return logged_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


class CallSelection(Repository):
    """Selects the calls that a receipt certifies."""

    row_kind = "Call"
    sql = "receipts/selection"

    async def pages(
        self, project_id: ProjectId, request: ReceiptRequest, uncertified: UncertifiedCalls
    ) -> AsyncGenerator[Rows]:
        """Yield the selected calls in pages; raise InvalidRequest if they are too many.

        `uncertified` is filled if the request selects uncertified calls. Read to the end: a stream
        that is closed before rolls back what its transaction has written meanwhile.
        """
        match request.selected_by():
            case "uncertified":
                stream = self._uncertified_calls(project_id, uncertified)
            case "ids":
                stream = self._calls_by_id(project_id, request.log_ids or [])
            case "period" | "conversation":
                stream = self._calls_in_period(
                    project_id, *_period_of(request), request.conversation_id
                )
        async with aclosing(stream) as rows, aclosing(_in_pages(rows)) as pages:
            async for page in pages:
                yield page
        if uncertified.skipped and not uncertified.accepted:
            raise InvalidRequest(ONLY_UNCOUNTABLE_CALLS)

    async def call(self, project_id: ProjectId, log_id: UUID) -> asyncpg.Record:
        """Return one call; raise NotFound if it is not stored any more."""
        return await self._fetch_one(
            "calls_by_id", project_id=project_id, ids=[log_id], times=[moment_of(log_id)]
        )

    async def close_days(self, project_id: ProjectId, uncertified: UncertifiedCalls) -> None:
        """Close the days that have no uncertified calls left, so that they are not read again."""
        if closed := uncertified.closed_days():
            await self._fetch_all(
                "close_days",
                project_id=project_id,
                days=[day.day for day in closed],
                calls=[day.calls for day in closed],
            )

    async def _uncertified_calls(
        self, project_id: ProjectId, uncertified: UncertifiedCalls
    ) -> RowStream:
        rows = await self._fetch_all("open_days", project_id=project_id)
        days = [UncertifiedDay(**row) for row in rows]
        for group in _groups_of_days(days, uncertified.max_calls):
            # Another group is read only if no call of the groups before was accepted.
            if uncertified.accepted:
                uncertified.has_more = True
            if uncertified.has_more:
                return
            uncertified.add_days(group)
            stream = self._stream(
                "uncertified_calls",
                project_id=project_id,
                days=[day.day for day in group],
                max_calls=uncertified.max_calls,
            )
            async with aclosing(stream) as rows_of_group:
                # Read to the end, although nothing is accepted after `has_more`.
                async for row in rows_of_group:
                    if uncertified.accept(row):
                        yield row

    def _calls_by_id(self, project_id: ProjectId, log_ids: Sequence[UUID]) -> RowStream:
        # By their numbers: to compare UUIDs themselves takes three times as long.
        ids = sorted(set(log_ids), key=attrgetter("int"))
        times = [moment_of(id) for id in ids]
        return self._stream("calls_by_id", project_id=project_id, ids=ids, times=times)

    async def _calls_in_period(
        self,
        project_id: ProjectId,
        since: datetime,
        until: datetime,
        conversation_id: UUID | None,
    ) -> RowStream:
        stream = self._stream(
            "calls_in_period",
            project_id=project_id,
            since=since,
            until=until,
            conversation_id=str(conversation_id) if conversation_id else None,
            max_calls=MAX_CALLS,
        )
        async with aclosing(stream) as rows:
            async for row in rows:
                if row["call_count"] > MAX_CALLS:
                    raise InvalidRequest(
                        f"More than {MAX_CALLS:,} calls: certify them in smaller parts."
                    )
                yield row


def _period_of(request: ReceiptRequest) -> tuple[datetime, datetime]:
    """Return the times between which the calls are, the end excluded."""
    conversation_id = request.conversation_id
    if conversation_id is None:
        return request.bounds()
    if conversation_id.version != _UUID_WITH_TIME:
        return _BEGINNING_OF_TIME, _END_OF_TIME
    # A call may have a time this long before its conversation was created.
    return moment_of(conversation_id) - MAX_CALL_AGE, _END_OF_TIME


def _groups_of_days(
    days: Sequence[UncertifiedDay], max_calls: int
) -> Iterator[list[UncertifiedDay]]:
    """Split days into groups that end as soon as they have `max_calls` uncertified calls."""
    group: list[UncertifiedDay] = []
    for day in days:
        group.append(day)
        if sum(member.uncertified for member in group) >= max_calls:
            yield group
            group = []
    if group:
        yield group


async def _in_pages(rows: AsyncIterator[asyncpg.Record]) -> AsyncGenerator[Rows]:
    page = []
    async for row in rows:
        page.append(row)
        if len(page) == BATCH_SIZE:
            yield page
            page = []
    if page:
        yield page
