"""What calls cost, and why: the price book of this deployment, and the prices it has used."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self
from uuid import UUID

import asyncpg
import orjson

from llmring_server.core.identity import Action, Actor, Auditing, ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import NotFound
from llmring_server.pricing import sources
from llmring_server.pricing.models import CostExplanation, PriceDetail, PriceQuery, UnpricedModel
from llmring_server.pricing.price_book import Price, PriceBook
from llmring_server.pricing.sources import PriceOverride
from llmring_server.registry.models import RegistrySnapshot

# Another process's override is in force here after this many seconds.
CACHE_TTL = 5.0


class Registering(Protocol):
    """Where the registry's files come from."""

    async def snapshot(self) -> RegistrySnapshot: ...
    def with_database(self, database: Database) -> Self: ...


@dataclass(slots=True)
class _BookCache:
    """The book in force, and the prices that are stored: shared by all on the same database."""

    book: PriceBook | None = None
    rows: Sequence[Any] = ()
    snapshot: RegistrySnapshot | None = None
    believed_until: float = 0
    stored: set[UUID] = field(default_factory=set)


def _book(rows: Sequence[asyncpg.Record], snapshot: RegistrySnapshot) -> PriceBook:
    sources.providers()
    files = reversed(snapshot.history)
    return PriceBook(
        [sources.override_source(rows), sources.registry_source(files), sources.GenaiPrices()]
    )


class Pricing(Repository):
    """The price book: first what the operator says, then the registry, then the offline book."""

    sql = "pricing/prices"
    tables = (Table("price_overrides", grants=("UPDATE", "DELETE")), Table("prices"))

    def __init__(self, database: Database, registry: Registering, audit: Auditing) -> None:
        super().__init__(database)
        self._registry = registry
        self._audit = audit
        self._shelf = _BookCache()

    async def book(self) -> PriceBook:
        """Return the book, at most five seconds old."""
        if self._database.in_caller_transaction:
            return await self._restocked()
        if self._shelf.book and time.monotonic() < self._shelf.believed_until:
            return self._shelf.book
        # Set first: meanwhile the others go on with the book that there is.
        self._shelf.believed_until = time.monotonic() + CACHE_TTL
        return await self._retry(self._restock)

    async def _restock(self) -> PriceBook:
        rows, snapshot = await self._fetch_all("overrides"), await self._registry.snapshot()
        shelf = self._shelf
        if shelf.book is None or (shelf.rows, shelf.snapshot) != (rows, snapshot):
            shelf.book = await asyncio.to_thread(_book, rows, snapshot)
            shelf.rows, shelf.snapshot = rows, snapshot
        return shelf.book

    async def _restocked(self) -> PriceBook:
        """Return the book as a caller's transaction sees it: what it holds may never be true."""
        rows, shelf = await self._fetch_all("overrides"), self._shelf
        if shelf.book and shelf.rows == rows:
            return shelf.book
        snapshot = shelf.snapshot or await self._registry.snapshot()
        return await asyncio.to_thread(_book, rows, snapshot)

    async def keep(self, prices: Iterable[Price]) -> None:
        """Store the prices that calls will refer to."""
        new = {price.id: price for price in prices if price.id not in self._shelf.stored}
        if new:
            rows = orjson.dumps([PriceDetail.of(price) for price in new.values()]).decode()
            await self._retry(lambda: self._fetch_all("keep", prices=rows))
            # A transaction may take them back.
            if self._database.connection is None:
                self._shelf.stored |= new.keys()

    async def find(self, sought: PriceQuery) -> list[PriceDetail]:
        """Return the prices of a model, the first before the others; NotFound without any."""
        when = sought.at or datetime.now(UTC)
        book = await self.book()
        offers = book.offers(sought.provider, sought.model, sought.service_tier)
        found = [PriceDetail.of(price) for offer in offers if (price := offer.at(when))]
        if not found:
            raise NotFound(
                "No price is known for this provider, model, service tier and time:"
                " llmring-server prices override sets one."
            )
        return found

    async def explain(self, project_id: ProjectId, id: UUID) -> CostExplanation:
        """Return why a call costs what it costs."""
        since = moment_of(id)
        until = since + timedelta(milliseconds=1)
        rows = await self._fetch_all(
            "explain", project_id=project_id, id=id, since=since, until=until
        )
        if not rows:
            raise NotFound
        return CostExplanation.of(rows[0])

    async def overrides(self) -> list[PriceDetail]:
        """Return the prices that the operator has set."""
        return [
            PriceDetail.of(price)
            for price in sources.override_prices(await self._fetch_all("overrides"))
        ]

    async def override(self, prices: Sequence[PriceOverride], *, actor: Actor) -> None:
        """Set prices for this deployment; the same model, tier and date again replaces a price."""
        rows = orjson.dumps([price.row() for price in prices]).decode()
        named = sorted({f"{price.provider} {price.model}" for price in prices})
        await self._change("override", "price.override", actor, ", ".join(named), overrides=rows)

    async def withdraw(self, provider: str, model: str, *, actor: Actor) -> int:
        """Take back what the operator has set for a model; return how many prices that were."""
        provider = provider.lower()
        named = f"{provider} {model}"
        gone = await self._change(
            "withdraw", "price.withdraw", actor, named, provider=provider, model=model
        )
        return len(gone)

    async def _change(
        self, statement: str, action: Action, actor: Actor, target: str, **params: Any
    ) -> list[asyncpg.Record]:
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            rows = await here._fetch_all(statement, **params)
            await here._audit.record(actor, action, target)
        self._shelf.believed_until = 0
        return rows

    async def unpriced(self, since: datetime) -> list[UnpricedModel]:
        """Return the models whose calls, since then, have no price."""
        return [UnpricedModel(*row) for row in await self._fetch_all("unpriced", since=since)]
