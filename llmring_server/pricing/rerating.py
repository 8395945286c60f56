"""Re-rating: past calls priced by today's price book, with the differences as adjustments.

A call is never edited: its first cost stays, and the difference is stored beside it.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.core.ids import new_id
from llmring_server.core.strict_json import json_default
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import Conflict
from llmring_server.pricing.cost import normalize_usage, tokens_of_row
from llmring_server.pricing.price_book import EPOCH, PriceBook, PricedCall
from llmring_server.pricing.service import Pricing

BATCH_SIZE = 1000


class RerateFilter(NamedTuple):
    """The calls to re-rate: those in [since, until), of one model or of all."""

    since: datetime
    until: datetime
    model: str | None = None


class RerateCursor(NamedTuple):
    """The last call that was read, in the order of the primary key."""

    last_project_id: UUID
    last_at: datetime
    last_id: UUID

    @classmethod
    def of(cls, row: asyncpg.Record) -> "RerateCursor":
        return cls(row["project_id"], row["logged_at"], row["id"])


_START = RerateCursor(UUID(int=0), EPOCH, UUID(int=0))


class CostChange(NamedTuple):
    """A call whose cost changes; `before` is None if it had no price."""

    project_id: ProjectId
    logged_at: datetime
    id: UUID
    provider: str
    model: str
    before: Decimal | None
    quote: PricedCall

    def row(self, run: UUID) -> dict[str, Any]:
        """Return the adjustment to store."""
        cost = self.quote.cost
        price = self.quote.price
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
    """Adjusts the costs of past calls of all projects."""

    sql = "pricing/rerating"
    tables = (Table("usage_adjustments", "cost adjustments", "erase_adjustments"),)
    delete_with_calls = ("delete_old_adjustments",)

    def __init__(self, database: Database, pricing: Pricing, audit: AuditLog) -> None:
        super().__init__(database)
        self._pricing = pricing
        self._audit = audit

    async def preview(self, calls: RerateFilter) -> AsyncIterator[list[CostChange]]:
        """Yield what re-rating would change, batch by batch, without changing anything."""
        cursor = _START
        book = await self._pricing.book()
        while rows := await self._fetch_calls(calls, cursor):
            cursor = RerateCursor.of(rows[-1])
            yield cost_changes(book, rows)

    async def run(
        self,
        calls: RerateFilter,
        *,
        actor: Actor,
        progress: Callable[[list[CostChange]], None] | None = None,
    ) -> int:
        """Adjust the costs of calls, one transaction per batch; return how many calls changed.

        The audit event is committed with the first batch. `progress` is called with the changes of
        each batch after they are committed. Conflict if another re-rating is running.
        """
        run = new_id()
        changed = 0
        cursor: RerateCursor | None = _START
        while cursor:
            async with self._database.transaction() as transaction:
                inside = self.with_database(transaction)
                await inside._lock()
                if cursor is _START:
                    target = f"{run} {calls.model or 'all models'}"
                    await inside._audit.record(actor, "price.rerate", target)
                changes, cursor = await inside._adjust_batch(calls, cursor, run)
            changed += len(changes)
            if progress:
                progress(changes)
        return changed

    async def _lock(self) -> None:
        row = await self._fetch_one("lock_rerating")
        if not row["locked"]:
            raise Conflict("Another re-rating is running; retry when it has ended.")

    async def _adjust_batch(
        self, calls: RerateFilter, cursor: RerateCursor, run: UUID
    ) -> tuple[list[CostChange], RerateCursor | None]:
        """Adjust one batch; return its changes and the next cursor, None at the end."""
        rows = await self._fetch_calls(calls, cursor)
        changes = cost_changes(await self._pricing.book(), rows)
        if changes:
            prices = [change.quote.price for change in changes if change.quote.price]
            await self._pricing.insert_prices(prices)
            await self.insert_adjustments([change.row(run) for change in changes])
        return changes, RerateCursor.of(rows[-1]) if rows else None

    async def insert_adjustments(self, adjustments: Sequence[Mapping[str, Any]]) -> None:
        """Store adjustments, and add them to the sums of their calls."""
        await self._fetch_all(
            "insert_adjustments", changes=orjson.dumps(adjustments, json_default).decode()
        )

    async def _fetch_calls(self, calls: RerateFilter, cursor: RerateCursor) -> list[asyncpg.Record]:
        return await self._fetch_all(
            "next_calls", **calls._asdict(), **cursor._asdict(), limit=BATCH_SIZE
        )


def cost_changes(book: PriceBook, rows: Iterable[asyncpg.Record]) -> list[CostChange]:
    """Return the calls whose cost differs from what `book` says."""
    changes = []
    for row in rows:
        try:
            usage = normalize_usage(tokens_of_row(row))
        except ValueError:
            # It keeps its cost. Its counts made sense by an earlier rule, or its details do not.
            continue
        quote = book.quote(
            row["provider"], row["model"], row["service_tier"], usage, row["logged_at"]
        )
        if quote.cost is not None and quote.cost != row["cost"]:
            change = CostChange(
                project_id=row["project_id"],
                logged_at=row["logged_at"],
                id=row["id"],
                provider=row["provider"],
                model=row["model"],
                before=row["cost"],
                quote=quote,
            )
            changes.append(change)
    return changes


@dataclass(slots=True)
class CostDelta:
    """The sum of cost changes."""

    calls: int = 0
    unpriced: int = 0
    before: Decimal = Decimal(0)
    after: Decimal = Decimal(0)

    def add(self, change: CostChange) -> None:
        self.calls += 1
        self.unpriced += change.before is None
        self.before += change.before or 0
        self.after += change.quote.cost or 0


# By UTC day, provider and model.
CostDeltas = defaultdict[tuple[date, str, str], CostDelta]


def add_changes(changes: Iterable[CostChange], deltas: CostDeltas) -> None:
    """Add changes to the sums of their UTC day, provider and model."""
    for change in changes:
        day = change.logged_at.astimezone(UTC).date()
        deltas[day, change.provider, change.model].add(change)
