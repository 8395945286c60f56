"""Pricing: the price book in force, the operator's overrides, and the explained cost of a call."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Action, Actor, ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.core.providers import normal_provider
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import NotFound
from llmring_server.pricing import sources
from llmring_server.pricing.cost import normalize_usage, tokens_of_row
from llmring_server.pricing.models import (
    ConsideredSource,
    CostExplanation,
    PriceDetail,
    PriceQuery,
    UnpricedModel,
)
from llmring_server.pricing.price_book import Price, PriceBook
from llmring_server.pricing.sources import PriceOverride
from llmring_server.registry.models import RegistrySnapshot
from llmring_server.registry.service import Registry

# An override that another process sets takes effect here within this many seconds.
CACHE_TTL = 5.0
# The largest number of unpriced models that are listed.
MAX_UNPRICED_MODELS = 5000


@dataclass(slots=True)
class _BookCache:
    """The price book and its sources, shared by all services on the same database.

    `stored_prices` are the ids of prices that are known to be in the database.
    """

    book: PriceBook | None = None
    overrides: Sequence[asyncpg.Record] = ()
    snapshot: RegistrySnapshot | None = None
    expires: float = 0
    stored_prices: set[UUID] = field(default_factory=set)


def _make_book(overrides: Sequence[asyncpg.Record], snapshot: RegistrySnapshot) -> PriceBook:
    # Loading takes a while, and this runs in a thread.
    sources.genai_providers()
    return PriceBook(
        [
            sources.override_source(overrides),
            sources.registry_source(reversed(snapshot.history)),
            sources.GenaiPrices(),
        ]
    )


class Pricing(Repository):
    """The prices of a deployment: overrides, then the registry, then the built-in price book."""

    row_kind = "Call"
    sql = "pricing/prices"
    tables = (Table("price_overrides", grants=("UPDATE", "DELETE")), Table("prices"))

    def __init__(self, database: Database, registry: Registry, audit: AuditLog) -> None:
        super().__init__(database)
        self._registry = registry
        self._audit = audit
        self._cache = _BookCache()

    def cached_book(self) -> PriceBook | None:
        """Return the price book if it was loaded less than `CACHE_TTL` seconds ago."""
        if self._database.in_caller_transaction or time.monotonic() >= self._cache.expires:
            return None
        return self._cache.book

    async def book(self) -> PriceBook:
        """Return the price book, at most `CACHE_TTL` seconds old."""
        if self._database.in_caller_transaction:
            return await self._book_in_transaction()
        if self._cache.book and time.monotonic() < self._cache.expires:
            return self._cache.book
        # Set before loading, so that other calls use the current book meanwhile.
        self._cache.expires = time.monotonic() + CACHE_TTL
        return await self._retry(self._reload)

    async def _reload(self) -> PriceBook:
        overrides = await self._fetch_all("overrides")
        snapshot = await self._registry.snapshot()
        cache = self._cache
        if cache.book is None or (cache.overrides, cache.snapshot) != (overrides, snapshot):
            cache.book = await asyncio.to_thread(_make_book, overrides, snapshot)
            cache.overrides = overrides
            cache.snapshot = snapshot
        return cache.book

    async def _book_in_transaction(self) -> PriceBook:
        """Return the price book as a caller's transaction sees it.

        It is not cached, since its overrides may be rolled back.
        """
        overrides = await self._fetch_all("overrides")
        cache = self._cache
        if cache.book and cache.overrides == overrides:
            return cache.book
        snapshot = cache.snapshot or await self._registry.snapshot()
        return await asyncio.to_thread(_make_book, overrides, snapshot)

    def is_stored(self, price: Price) -> bool:
        """Tell if a price is known to be in the database."""
        return price.id in self._cache.stored_prices

    async def insert_prices(self, prices: Iterable[Price]) -> None:
        """Store the prices that calls will refer to, unless they are stored."""
        new = {price.id: price for price in prices if price.id not in self._cache.stored_prices}
        if not new:
            return
        rows = orjson.dumps([PriceDetail.of(price) for price in new.values()]).decode()
        await self._retry(lambda: self._fetch_all("insert_prices", prices=rows))
        # A transaction may be rolled back, and the prices with it.
        if self._database.connection is None:
            self._cache.stored_prices |= new.keys()

    async def find(self, query: PriceQuery) -> list[PriceDetail]:
        """Return the prices of a model in order of precedence; NotFound if there are none."""
        when = query.at or datetime.now(UTC)
        book = await self.book()
        histories = book.histories(query.provider, query.model, query.service_tier)
        prices = [history.at(when) for history in histories]
        details = [PriceDetail.of(price) for price in prices if price]
        if not details:
            raise NotFound(
                "No price is known for this provider, model, service tier and time:"
                " llmring-server prices override sets one."
            )
        return details

    async def explain(self, project_id: ProjectId, id: UUID) -> CostExplanation:
        """Explain the cost of a call.

        With what the price book of today says about it: which source prices it, and why not others.
        """
        since = moment_of(id)
        until = since + timedelta(milliseconds=1)
        row = await self._fetch_one(
            "call_with_price", project_id=project_id, id=id, since=since, until=until
        )
        return CostExplanation.of_row(row, await self._considered_sources(row))

    async def _considered_sources(self, row: asyncpg.Record) -> list[ConsideredSource]:
        if row["cost_source"] == "client" or not row["usage_known"]:
            return []
        try:
            usage = normalize_usage(tokens_of_row(row))
        except ValueError:
            return []
        tier = row["reported_tier"]
        book = await self.book()
        candidates = book.candidates(row["provider"], row["model"], tier, usage, row["logged_at"])
        return ConsideredSource.all_of(candidates, tier)

    async def overrides(self) -> list[PriceDetail]:
        """Return the prices that the operator has set."""
        rows = await self._fetch_all("overrides")
        return [PriceDetail.of(price) for price in sources.override_prices(rows)]

    async def override(self, prices: Sequence[PriceOverride], *, actor: Actor) -> None:
        """Set prices for this deployment; one of the same model, tier and date is replaced."""
        rows = orjson.dumps([price.row() for price in prices]).decode()
        models = sorted({f"{price.provider} {price.model}" for price in prices})
        await self._change(
            "upsert_overrides", "price.override", actor, ", ".join(models), overrides=rows
        )

    async def withdraw(self, provider: str, model: str, *, actor: Actor) -> int:
        """Remove all overrides of a model, however its provider is spelled; return their number."""
        seller = normal_provider(provider)
        spellings = {row["provider"] for row in await self._fetch_all("overrides")}
        rows = await self._change(
            "delete_overrides",
            "price.withdraw",
            actor,
            f"{provider.lower()} {model}",
            providers=[each for each in spellings if normal_provider(each) == seller],
            model=model,
        )
        return len(rows)

    async def _change(
        self, statement: str, action: Action, actor: Actor, target: str, **params: Any
    ) -> list[asyncpg.Record]:
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            rows = await inside._fetch_all(statement, **params)
            await inside._audit.record(actor, action, target)
        self._cache.expires = 0
        return rows

    async def unpriced(self, since: datetime) -> list[UnpricedModel]:
        """Return the models of unpriced calls since a time, those with most calls first.

        These are MAX_UNPRICED_MODELS at most: clients name models as they like.
        """
        rows = await self._fetch_all("unpriced_models", since=since, limit=MAX_UNPRICED_MODELS)
        return [UnpricedModel(*row) for row in rows]
