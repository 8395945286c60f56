"""Re-rating: what calls would cost by the price book of today, added as adjustments.

A call is never edited: its first cost stays, and what changes stands beside it.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from llmring_server.core.identity import Actor, Auditing, ProjectId
from llmring_server.core.ids import new_id
from llmring_server.core.strict_json import json_default
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import Conflict
from llmring_server.pricing.cost import usage_of_row
from llmring_server.pricing.price_book import EVER, PriceBook, PricedCall, Pricing

BATCH_SIZE = 1000


class RerateFilter(NamedTuple):
    """Which calls to re-rate: of [since, until), of one model or of all."""

    since: datetime
    until: datetime
    model: str | None = None


class CostChange(NamedTuple):
    """A call that costs something else by now; `before` is None if it had no price."""

    project_id: ProjectId
    logged_at: datetime
    id: UUID
    provider: str
    model: str
    before: Decimal | None
    quote: PricedCall

    def row(self, run: UUID) -> dict[str, Any]:
        cost, price = self.quote.cost, self.quote.price
        return {
            "project_id": self.project_id,
            "logged_at": self.logged_at,
            "id": self.id,
            "run": run,
            "amount": (cost or Decimal(0)) - (self.before or Decimal(0)),
            "was_unpriced": self.before is None,
            "cost": cost,
            "cost_source": self.quote.source,
            "price": price and price.id,
        }


class Rerating(Repository):
    """Adjusts what the calls of all projects cost."""

    sql = "pricing/rerating"
    tables = (Table("usage_adjustments", "cost adjustments", "erase_adjustments"),)
    delete_with_calls = ("delete_old_adjustments",)

    def __init__(self, database: Database, prices: Pricing, audit: Auditing) -> None:
        super().__init__(database)
        self._prices = prices
        self._audit = audit

    async def preview(self, calls: RerateFilter) -> AsyncIterator[list[CostChange]]:
        """Yield what would change, page by page, and change nothing."""
        last: RerateCursor = _START
        book = await self._prices.book()
        while rows := await self._page(calls, last):
            last = _place(rows[-1])
            yield changes(book, rows)

    async def run(
        self,
        calls: RerateFilter,
        *,
        actor: Actor,
        progress: Callable[[list[CostChange]], None] | None = None,
    ) -> int:
        """Adjust the costs of calls, a page a transaction; return the number of changed calls.

        The audit event is committed with the first page. `progress` is called with the changes of
        each page when they are committed. Conflict if another re-rating is running.
        """
        run, total = new_id(), 0
        last: RerateCursor | None = _START
        while last:
            async with self._database.transaction() as inside:
                here = self.with_database(inside)
                await here._lock()
                if last is _START:
                    target = f"{run} {calls.model or 'all models'}"
                    await here._audit.record(actor, "price.rerate", target)
                found, last = await here._adjust(calls, last, run)
            total += len(found)
            if progress:
                progress(found)
        return total

    async def _lock(self) -> None:
        if not (await self._fetch_one("claim"))["claimed"]:
            raise Conflict("Another re-rating is running; retry when it has ended.")

    async def _adjust(
        self, calls: RerateFilter, last: "RerateCursor", run: UUID
    ) -> tuple[list[CostChange], "RerateCursor | None"]:
        rows = await self._page(calls, last)
        found = changes(await self._prices.book(), rows)
        if found:
            await self._prices.keep(each.quote.price for each in found if each.quote.price)
            written = orjson.dumps([each.row(run) for each in found], json_default).decode()
            await self._fetch_all("adjust", changes=written)
        return found, _place(rows[-1]) if rows else None

    async def _page(self, calls: RerateFilter, last: "RerateCursor") -> list[asyncpg.Record]:
        return await self._fetch_all("page", **calls._asdict(), **last._asdict(), limit=BATCH_SIZE)


class RerateCursor(NamedTuple):
    """The last call that was seen."""

    last_project_id: UUID
    last_at: datetime
    last_id: UUID


_START = RerateCursor(UUID(int=0), EVER, UUID(int=0))


def _place(row: asyncpg.Record) -> RerateCursor:
    return RerateCursor(row["project_id"], row["logged_at"], row["id"])


def changes(book: PriceBook, rows: Iterable[asyncpg.Record]) -> list[CostChange]:
    """Return what `book` says about calls that differs from what they cost."""
    found = []
    for row in rows:
        quote = _quote(book, row)
        if quote.cost is not None and quote.cost != row["cost"]:
            found.append(
                CostChange(
                    row["project_id"], row["logged_at"], row["id"], row["provider"], row["model"],
                    row["cost"], quote,
                )
            )  # fmt: skip
    return found


def _quote(book: PriceBook, row: asyncpg.Record) -> PricedCall:
    used, when = usage_of_row(row), row["logged_at"]
    return book.quote(row["provider"], row["model"], row["service_tier"], used, when)


# By UTC day, provider and model.
CostDeltas = defaultdict[tuple[date, str, str], "CostDelta"]


@dataclass(slots=True)
class CostDelta:
    """What some changes add up to."""

    calls: int = 0
    unpriced: int = 0
    before: Decimal = Decimal(0)
    after: Decimal = Decimal(0)

    def add(self, change: CostChange) -> None:
        self.calls += 1
        self.unpriced += change.before is None
        self.before += change.before or 0
        self.after += change.quote.cost or 0


def add_up(found: Iterable[CostChange], into: CostDeltas) -> None:
    """Add changes up, by UTC day, provider and model."""
    for each in found:
        into[each.logged_at.astimezone(UTC).date(), each.provider, each.model].add(each)
