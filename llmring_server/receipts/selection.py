"""How the calls are read that a receipt is wanted of: in order, a page at a time, from a cursor."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.db.repository import Repository
from llmring_server.errors import InvalidRequest
from llmring_server.receipts.models import ReceiptRequest
from llmring_verify.canonical_json import MAX_SAFE_INTEGER

_NEVER = datetime.max.replace(tzinfo=UTC)


class UncertifiedDay(NamedTuple):
    """A day, how many calls it has by now, and how many of them may be in no receipt."""

    day: datetime
    requests: int
    fresh: int


def parts(days: Sequence[UncertifiedDay], most: int) -> Iterator[list[UncertifiedDay]]:
    """Split days so that no part has more than `most` fresh calls and one day's."""
    part: list[UncertifiedDay] = []
    for each in days:
        part.append(each)
        if sum(day.fresh for day in part) >= most:
            yield part
            part = []
    if part:
        yield part


@dataclass(slots=True)
class UncertifiedCalls:
    """How far it was read. What JSON cannot count is left out, and its days stay open."""

    most: int
    days: list[UncertifiedDay] = field(default_factory=list)
    more: bool = False
    uncountable: int = 0
    taken: int = 0
    _used: int = 0
    _cached: int = 0
    _open: set[datetime] = field(default_factory=set)
    _until: datetime = _NEVER

    def takes(self, row: asyncpg.Record) -> bool:
        """Take a call, if JSON can count it; none from the first on that is too much."""
        used, cached = row["input_tokens"] + row["output_tokens"], row["cached_input_tokens"]
        if self.taken + self.uncountable == self.most:
            self._end(row)
        elif used > MAX_SAFE_INTEGER:
            self.uncountable += 1
            self._open.add(_day(row))
        elif max(self._used + used, self._cached + cached) > MAX_SAFE_INTEGER:
            self._end(row)
        if self.more or used > MAX_SAFE_INTEGER:
            return False
        self._used, self._cached = self._used + used, self._cached + cached
        self.taken += 1
        return True

    def _end(self, row: asyncpg.Record) -> None:
        self.more, self._until = True, min(self._until, _day(row))

    def done(self) -> list[UncertifiedDay]:
        """Return the days of which nothing is left."""
        ended = [each for each in self.days if each.day < self._until]
        return [each for each in ended if each.day not in self._open]


def _day(row: asyncpg.Record) -> datetime:
    moment: datetime = row["logged_at"]
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


# A receipt is of no more calls than MOST, or of REST where one comes after another: that keeps
# the statement far from its limit of time. So many are read and written at once.
MAX_CALLS, MAX_UNCERTIFIED_CALLS, BATCH_SIZE = 1_000_000, 250_000, 500


UNCOUNTABLE = "The calls that are left have 2^53 tokens or more each: they cannot be certified."


Rows = Sequence[asyncpg.Record]


class CallSelection(Repository):
    """Finds what is to be certified."""

    sql = "receipts/receipts"

    async def _read(
        self, project_id: ProjectId, wanted: ReceiptRequest, take: Callable[[Rows], Awaitable[None]]
    ) -> UncertifiedCalls:
        """Pass the calls that are wanted on, a page at a time; Invalid if they are too many."""
        rest = UncertifiedCalls(MAX_UNCERTIFIED_CALLS)
        if wanted.rest:
            found = self._rest(project_id, rest)
        elif ids := wanted.named():
            found = self._stream(
                "named", project_id=project_id, ids=ids, times=[*map(moment_of, ids)]
            )
        else:
            found = _not_too_many(
                self._stream("calls", project_id=project_id, most=MAX_CALLS, **wanted.where())
            )
        async with aclosing(found) as rows, aclosing(_paged(rows)) as pages:
            async for page in pages:
                await take(page)
        if rest.uncountable and not rest.taken:
            raise InvalidRequest(UNCOUNTABLE)
        return rest

    async def _rest(
        self, project_id: ProjectId, rest: UncertifiedCalls
    ) -> AsyncGenerator[asyncpg.Record]:
        for part in parts(
            [
                UncertifiedDay(**row)
                for row in await self._fetch_all("open_days", project_id=project_id)
            ],
            MAX_UNCERTIFIED_CALLS,
        ):
            if rest.taken:
                rest.more = True
            if rest.more:
                return
            rest.days += part
            days = [each.day for each in part]
            async with aclosing(
                self._stream("rest", project_id=project_id, days=days, most=MAX_UNCERTIFIED_CALLS)
            ) as rows:
                # To its end: a stream that is left takes back what was written meanwhile.
                async for row in rows:
                    if rest.takes(row):
                        yield row

    async def _close(self, project_id: ProjectId, rest: UncertifiedCalls) -> None:
        if done := rest.done():
            days, requests = [each.day for each in done], [each.requests for each in done]
            await self._fetch_all("close_days", project_id=project_id, days=days, requests=requests)


async def _not_too_many(
    found: AsyncGenerator[asyncpg.Record],
) -> AsyncGenerator[asyncpg.Record]:
    async with aclosing(found) as rows:
        async for row in rows:
            if row["calls"] > MAX_CALLS:
                raise InvalidRequest(
                    f"More than {MAX_CALLS:,} calls: certify them in smaller parts."
                )
            yield row


async def _paged(rows: AsyncIterator[asyncpg.Record]) -> AsyncGenerator[Rows]:
    page = []
    async for row in rows:
        page.append(row)
        if len(page) == BATCH_SIZE:
            yield page
            page = []
    if page:
        yield page
