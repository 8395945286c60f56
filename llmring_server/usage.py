"""What was called, when, by whom, at what cost: written once, read back."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from llmring_server.book import UNREAD, Book, Pricing
from llmring_server.bounded import plain
from llmring_server.combine import Bounds, Combine
from llmring_server.database import Database
from llmring_server.entry import Entry
from llmring_server.errors import InProgress, Invalid, Locked, RingError
from llmring_server.pages import Labels, Log, Page, Place
from llmring_server.record import Record, record, records
from llmring_server.repository import Repository
from llmring_server.stats import Stats, Window
from llmring_server.tenant import Tenant

# PostgreSQL names the table that it waited for in vain.
_KEYS = "usage_keys"


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
    ) -> None:
        super().__init__(database)
        self._combine = Combine(self._write, bounds)
        self._prices = prices
        # Begins background work on the pool, whatever transaction this repository is in.
        self._fold_if_due = fold_if_due

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

    async def export(self, tenant: Tenant, labels: Labels | None = None) -> AsyncIterator[Log]:
        """Yield every call that `labels` name, newest first, from one snapshot."""
        labels = labels or Labels()
        place = Place(None, None)._asdict()
        rows = self._stream("logs", tenant=tenant, **labels.where(), **place, limit=None, offset=0)
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
        except Locked as exc:
            if _KEYS not in exc.at:
                raise
            return await self._store_apart(calls)

    async def _store(self, calls: Sequence[Record]) -> list[Logged | RingError]:
        if not self._database.borrowed:
            self._fold_if_due()
        entries = f"[{b','.join(call.row for call in calls).decode()}]"
        rows = await self._all("log", entries=entries, borrowed=self._database.borrowed)
        claimed = {row["id"] for row in rows}
        twins = [call for call in calls if call.key and call.id not in claimed]
        claims = await self._claims(twins) if twins else {}
        return [_outcome(call, claims) for call in calls]

    async def _claims(self, calls: Sequence[Record]) -> dict[tuple[UUID, UUID | None], Any]:
        wanted = orjson.dumps([{"tenant": call.tenant, "key": call.key} for call in calls], plain)
        rows = await self._all("claims", wanted=wanted.decode())
        claims: dict[tuple[UUID, UUID | None], Any] = {
            (call.tenant, call.key): None for call in calls
        }
        return claims | {(row["tenant"], row["key"]): row for row in rows}

    async def _store_apart(self, calls: Sequence[Record]) -> list[Logged | RingError]:
        """Store around a lock: some key is held by a transaction that does not end."""
        free = [call for call in calls if call.key is None]
        stored = await self._store(free) if free else []
        outcomes = dict(zip((call.id for call in free), stored, strict=True))
        for call in calls:
            if call.key is not None:
                outcomes[call.id] = await self._store_alone(call)
        return [outcomes[call.id] for call in calls]

    async def _store_alone(self, call: Record) -> Logged | RingError:
        try:
            async with self._database.transaction() as inside:
                await self.on(inside)._all("brief_lock")
                return (await self.on(inside)._store([call]))[0]
        except RingError as exc:
            return InProgress() if isinstance(exc, Locked) and _KEYS in exc.at else exc


def _outcome(call: Record, claims: dict[tuple[UUID, UUID | None], Any]) -> Logged | RingError:
    if not claims or (call.tenant, call.key) not in claims:
        return Logged(call.id, call.logged_at, call.quote.cost, call.quote.source)
    claim = claims[call.tenant, call.key]
    if claim is None:
        return InProgress()
    if claim["fingerprint"] != call.fingerprint:
        return Invalid(
            "This Idempotency-Key was used for another request.", "idempotency_key_reused"
        )
    replayed = claim["id"] != call.id
    return Logged(claim["id"], claim["logged_at"], claim["cost"], claim["cost_source"], replayed)


def _granted(outcomes: Sequence[Logged | RingError]) -> list[Logged]:
    """Return the outcomes, or raise the first that is an error."""
    for outcome in outcomes:
        if isinstance(outcome, RingError):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Logged)]
