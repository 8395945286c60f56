"""What was called, when, by whom, at what cost: written once, read back."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from uuid import UUID

from llmring_server.core.identity import ProjectId
from llmring_server.core.pagination import Position
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import InvalidRequest, LockTimeout, RingError
from llmring_server.pricing.price_book import EMPTY_PRICE_BOOK, PriceBook, Pricing
from llmring_server.usage.call_record import CallRecord, prepare_call, prepare_calls
from llmring_server.usage.group_commit import GroupCommit, GroupCommitLimits
from llmring_server.usage.idempotency import (
    FirstUse,
    IdempotencyKey,
    IdempotencyKeys,
    require_same_request,
)
from llmring_server.usage.models import Call, CallFilter, CallPage, LogResult, NewCall
from llmring_server.usage.stats import Stats, StatsQuery


class Usage(Repository):
    """The log of LLM calls of every project."""

    sql = "usage/usage"
    tables = (Table("usage_logs", "calls", "erase_calls"),)
    delete_with_calls = ("delete_unpartitioned",)

    def __init__(
        self,
        database: Database,
        bounds: GroupCommitLimits,
        prices: Pricing,
        fold_if_due: Callable[[], None],
        claims: IdempotencyKeys,
    ) -> None:
        super().__init__(database)
        self._combine = GroupCommit(self._write, bounds)
        self._prices = prices
        # Begins background work on the pool, whatever transaction this repository is in.
        self._fold_if_due = fold_if_due
        self._claims = claims

    async def log(self, project_id: ProjectId, entry: NewCall, key: str | None = None) -> LogResult:
        """Store `entry` once: committed on return, or with the caller's transaction.

        A `key` that the project used before gives the first answer again, or Invalid if it came
        with another entry; InProgress while its first use is undecided.
        """
        book = EMPTY_PRICE_BOOK if entry.cost is not None else await self._prices.book()
        call = prepare_call(project_id, entry, book, key or entry.idempotency_key)
        if call.quote.price:
            await self._prices.keep([call.quote.price])
        if self._database.in_caller_transaction:
            return _granted(await self._store([call]))[0]
        return await self._combine(call)

    async def log_many(
        self, project_id: ProjectId, entries: Sequence[NewCall], key: str | None = None
    ) -> list[LogResult]:
        """Store all `entries` in one commit, or none; `key` stands for the batch as it is."""
        calls = list(prepare_calls(project_id, entries, await self._book(entries), key))
        await self._keep(calls)
        return await self._retry(lambda: self._store_together(calls))

    async def rated(self, project_id: ProjectId, entry: NewCall, id: UUID) -> CallRecord:
        """Make `entry` ready to be stored in a transaction with other things: `store` does."""
        return prepare_call(project_id, entry, await self._book([entry]), id=id)

    async def store(self, call: CallRecord) -> None:
        await self._keep([call])
        _granted(await self._store([call]))

    async def logs(self, project_id: ProjectId, page: CallPage | None = None) -> list[Call]:
        """Return a page of calls, newest first; `page.next` makes the cursor of the next one."""
        page = page or CallPage()
        rows = await self._fetch_all(
            "logs",
            project_id=project_id,
            **page.where(),
            **page.after(project_id)._asdict(),
            limit=page.limit,
            offset=page.offset,
        )
        return [Call.of(row) for row in rows]

    async def export(
        self, project_id: ProjectId, labels: CallFilter | None = None
    ) -> AsyncGenerator[Call]:
        """Yield every call that `labels` name, newest first, from one snapshot.

        It holds a transaction: whoever may leave before the end uses `contextlib.aclosing`.
        """
        labels = labels or CallFilter()
        place = Position(None, None)._asdict()
        rows = self._stream(
            "logs", project_id=project_id, **labels.where(), **place, limit=None, offset=0
        )
        async with aclosing(rows):
            async for row in rows:
                yield Call.of(row)

    async def stats(self, project_id: ProjectId, window: StatsQuery | None = None) -> Stats:
        """Report on `window`: the last 30 days by UTC day, unless it says otherwise.

        Of months that maintenance has forgotten, whole UTC days are left: a day that such a
        window cuts is not counted, and other days or hours are Invalid.
        """
        window = window or StatsQuery()
        row = await self._fetch_one(
            "stats",
            project_id=project_id,
            grain=window.group_by,
            tz=window.tz,
            **window.cuts()._asdict(),
        )
        if row["coarse_until"] and not window.by_utc_day:
            raise InvalidRequest(
                f"Before {row['coarse_until']:%Y-%m-%d} only sums of UTC days are kept:"
                " ask from then on, or with tz=UTC and not by hour."
            )
        return Stats.model_validate_json(row["stats"])

    async def aclose(self) -> None:
        """Wait until all calls that wait are stored."""
        await self._combine.drain()

    async def _book(self, entries: Iterable[NewCall]) -> PriceBook:
        return (
            await self._prices.book()
            if any(each.cost is None for each in entries)
            else EMPTY_PRICE_BOOK
        )

    async def _keep(self, calls: Iterable[CallRecord]) -> None:
        if prices := [call.quote.price for call in calls if call.quote.price]:
            await self._prices.keep(prices)

    async def _store_together(self, calls: Sequence[CallRecord]) -> list[LogResult]:
        async with self._database.transaction() as inside:
            return _granted(await self.with_database(inside)._store(calls))

    async def _write(self, calls: Sequence[CallRecord]) -> list[LogResult | RingError]:
        try:
            return await self._store(calls)
        except LockTimeout:
            # The statement takes keys and other locks. Which one it waited for, the database tells
            # only in prose: whoever takes the keys one by one finds out.
            if not any(call.claim for call in calls):
                raise
            return await self._store_apart(calls)

    async def _store(
        self, calls: Sequence[CallRecord], *, holds_keys: bool = False
    ) -> list[LogResult | RingError]:
        if not self._database.in_caller_transaction:
            self._fold_if_due()
        entries = f"[{b','.join(call.row for call in calls).decode()}]"
        borrowed = self._database.in_caller_transaction
        rows = await self._fetch_all(
            "log", entries=entries, borrowed=borrowed, holds_keys=holds_keys
        )
        stored = {row["id"] for row in rows}
        repeats = [call for call in calls if call.claim and call.id not in stored]
        if holds_keys or not repeats:
            return [_stored(call) for call in calls]
        answers = await self._repeated(repeats)
        return [answers.get(call.id) or _stored(call) for call in calls]

    async def _repeated(self, calls: Sequence[CallRecord]) -> dict[UUID, LogResult | RingError]:
        """Return the first answers to the keys of `calls`, or why they cannot have them."""
        uses = {call.id: (call.project_id, call.claim.key) for call in calls if call.claim}
        first_uses = await self._claims.first_uses(uses.values())
        return {
            call.id: _first_answer(call, call.claim, first_uses.get(uses[call.id]))
            for call in calls
            if call.claim
        }

    async def _store_apart(self, calls: Sequence[CallRecord]) -> list[LogResult | RingError]:
        """Store around a lock: some key may be held by a transaction that does not end."""
        free = [call for call in calls if call.claim is None]
        stored = await self._store(free) if free else []
        outcomes = dict(zip((call.id for call in free), stored, strict=True))
        for call in calls:
            if call.claim:
                outcomes[call.id] = await self._store_alone(call, call.claim)
        return [outcomes[call.id] for call in calls]

    async def _store_alone(self, call: CallRecord, claim: IdempotencyKey) -> LogResult | RingError:
        """Take the key of one call, then store it: a lock on the key is told from any other."""
        try:
            async with self._database.transaction() as transaction:
                inside = self.with_database(transaction)
                await inside._fetch_all("brief_lock")
                if await inside._claims.take(call.project_id, claim, call.id, call.logged_at):
                    return (await inside._store([call], holds_keys=True))[0]
                return (await inside._repeated([call]))[call.id]
        except RingError as exc:
            return exc


def _stored(call: CallRecord) -> LogResult:
    return LogResult(call.id, call.logged_at, call.quote.cost, call.quote.source)


def _first_answer(
    call: CallRecord, claim: IdempotencyKey, first_use: FirstUse | None
) -> LogResult | RingError:
    try:
        found = require_same_request(first_use, claim)
    except RingError as exc:
        return exc
    replayed = found["id"] != call.id
    return LogResult(found["id"], found["logged_at"], found["cost"], found["cost_source"], replayed)


def _granted(outcomes: Sequence[LogResult | RingError]) -> list[LogResult]:
    """Return the outcomes, or raise the first that is an error."""
    for outcome in outcomes:
        if isinstance(outcome, RingError):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, LogResult)]
