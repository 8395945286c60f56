"""What was called, when, by whom, at what cost: written once, read back."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from llmring_server.book import UNREAD, Book, Pricing
from llmring_server.claims import Claim, Claims, FirstUse, require_same_request
from llmring_server.combine import Bounds, Combine
from llmring_server.database import Database
from llmring_server.entry import Entry
from llmring_server.errors import Invalid, Locked, RingError
from llmring_server.pages import Labels, Log, Page, Place
from llmring_server.record import Record, record, records
from llmring_server.repository import Repository
from llmring_server.stats import Stats, Window
from llmring_server.tenant import Tenant


class Logged(NamedTuple):
    """What became of an entry; `replayed` if its key had stored it before."""

    log_id: UUID
    timestamp: datetime
    cost: Decimal | None
    cost_source: str
    replayed: bool = False


class Usage(Repository):
    """The log of LLM calls of every tenant."""

    noun = "usage"

    def __init__(
        self,
        database: Database,
        bounds: Bounds,
        prices: Pricing,
        fold_if_due: Callable[[], None],
        claims: Claims,
    ) -> None:
        super().__init__(database)
        self._combine = Combine(self._write, bounds)
        self._prices = prices
        # Begins background work on the pool, whatever transaction this repository is in.
        self._fold_if_due = fold_if_due
        self._claims = claims

    async def log(self, tenant: Tenant, entry: Entry, key: str | None = None) -> Logged:
        """Store `entry` once: committed on return, or with the caller's transaction.

        A `key` that the tenant used before gives the first answer again, or Invalid if it came
        with another entry; InProgress while its first use is undecided.
        """
        book = UNREAD if entry.cost is not None else await self._prices.book()
        call = record(tenant, entry, book, key or entry.idempotency_key)
        if call.quote.price:
            await self._prices.keep([call.quote.price])
        if self._database.borrowed:
            return _granted(await self._store([call]))[0]
        return await self._combine(call)

    async def log_many(
        self, tenant: Tenant, entries: Sequence[Entry], key: str | None = None
    ) -> list[Logged]:
        """Store all `entries` in one commit, or none; `key` stands for the batch as it is."""
        calls = list(records(tenant, entries, await self._book(entries), key))
        await self._keep(calls)
        return await self._persist(lambda: self._store_together(calls))

    async def rated(self, tenant: Tenant, entry: Entry, id: UUID) -> Record:
        """Make `entry` ready to be stored in a transaction with other things: `store` does."""
        return record(tenant, entry, await self._book([entry]), id=id)

    async def store(self, call: Record) -> None:
        await self._keep([call])
        _granted(await self._store([call]))

    async def logs(self, tenant: Tenant, page: Page | None = None) -> list[Log]:
        """Return a page of calls, newest first; `page.next` makes the cursor of the next one."""
        page = page or Page()
        rows = await self._all(
            "logs",
            tenant=tenant,
            **page.where(),
            **page.after(tenant)._asdict(),
            limit=page.limit,
            offset=page.offset,
        )
        return [Log.of(row) for row in rows]

    async def export(self, tenant: Tenant, labels: Labels | None = None) -> AsyncGenerator[Log]:
        """Yield every call that `labels` name, newest first, from one snapshot.

        It holds a transaction: whoever may leave before the end uses `contextlib.aclosing`.
        """
        labels = labels or Labels()
        place = Place(None, None)._asdict()
        rows = self._stream("logs", tenant=tenant, **labels.where(), **place, limit=None, offset=0)
        async with aclosing(rows):
            async for row in rows:
                yield Log.of(row)

    async def stats(self, tenant: Tenant, window: Window | None = None) -> Stats:
        """Report on `window`: the last 30 days by UTC day, unless it says otherwise.

        Of months that maintenance has forgotten, whole UTC days are left: a day that such a
        window cuts is not counted, and other days or hours are Invalid.
        """
        window = window or Window()
        row = await self._one(
            "stats", tenant=tenant, grain=window.group_by, tz=window.tz, **window.cuts()._asdict()
        )
        if row["coarse_until"] and not window.by_utc_day:
            raise Invalid(
                f"Before {row['coarse_until']:%Y-%m-%d} only sums of UTC days are kept:"
                " ask from then on, or with tz=UTC and not by hour."
            )
        return Stats.model_validate_json(row["stats"])

    async def aclose(self) -> None:
        """Wait until all calls that wait are stored."""
        await self._combine.drain()

    async def _book(self, entries: Iterable[Entry]) -> Book:
        return await self._prices.book() if any(each.cost is None for each in entries) else UNREAD

    async def _keep(self, calls: Iterable[Record]) -> None:
        if prices := [call.quote.price for call in calls if call.quote.price]:
            await self._prices.keep(prices)

    async def _store_together(self, calls: Sequence[Record]) -> list[Logged]:
        async with self._database.transaction() as inside:
            return _granted(await self.on(inside)._store(calls))

    async def _write(self, calls: Sequence[Record]) -> list[Logged | RingError]:
        try:
            return await self._store(calls)
        except Locked:
            # The statement takes keys and other locks. Which one it waited for, the database tells
            # only in prose: whoever takes the keys one by one finds out.
            if not any(call.claim for call in calls):
                raise
            return await self._store_apart(calls)

    async def _store(
        self, calls: Sequence[Record], *, holds_keys: bool = False
    ) -> list[Logged | RingError]:
        if not self._database.borrowed:
            self._fold_if_due()
        entries = f"[{b','.join(call.row for call in calls).decode()}]"
        borrowed = self._database.borrowed
        rows = await self._all("log", entries=entries, borrowed=borrowed, holds_keys=holds_keys)
        stored = {row["id"] for row in rows}
        repeats = [call for call in calls if call.claim and call.id not in stored]
        if holds_keys or not repeats:
            return [_stored(call) for call in calls]
        answers = await self._repeated(repeats)
        return [answers.get(call.id) or _stored(call) for call in calls]

    async def _repeated(self, calls: Sequence[Record]) -> dict[UUID, Logged | RingError]:
        """Return the first answers to the keys of `calls`, or why they cannot have them."""
        uses = {call.id: (call.tenant, call.claim.key) for call in calls if call.claim}
        first_uses = await self._claims.first_uses(uses.values())
        return {
            call.id: _first_answer(call, call.claim, first_uses.get(uses[call.id]))
            for call in calls
            if call.claim
        }

    async def _store_apart(self, calls: Sequence[Record]) -> list[Logged | RingError]:
        """Store around a lock: some key may be held by a transaction that does not end."""
        free = [call for call in calls if call.claim is None]
        stored = await self._store(free) if free else []
        outcomes = dict(zip((call.id for call in free), stored, strict=True))
        for call in calls:
            if call.claim:
                outcomes[call.id] = await self._store_alone(call, call.claim)
        return [outcomes[call.id] for call in calls]

    async def _store_alone(self, call: Record, claim: Claim) -> Logged | RingError:
        """Take the key of one call, then store it: a lock on the key is told from any other."""
        try:
            async with self._database.transaction() as transaction:
                inside = self.on(transaction)
                await inside._all("brief_lock")
                if await inside._claims.take(call.tenant, claim, call.id, call.logged_at):
                    return (await inside._store([call], holds_keys=True))[0]
                return (await inside._repeated([call]))[call.id]
        except RingError as exc:
            return exc


def _stored(call: Record) -> Logged:
    return Logged(call.id, call.logged_at, call.quote.cost, call.quote.source)


def _first_answer(call: Record, claim: Claim, first_use: FirstUse | None) -> Logged | RingError:
    try:
        found = require_same_request(first_use, claim)
    except RingError as exc:
        return exc
    replayed = found["id"] != call.id
    return Logged(found["id"], found["logged_at"], found["cost"], found["cost_source"], replayed)


def _granted(outcomes: Sequence[Logged | RingError]) -> list[Logged]:
    """Return the outcomes, or raise the first that is an error."""
    for outcome in outcomes:
        if isinstance(outcome, RingError):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Logged)]
