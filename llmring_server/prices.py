"""What calls cost, and why: the price book of this deployment, and the prices it has used."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple, Protocol, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AwareDatetime, BaseModel, Field

from llmring_server import offline, overrides, tariffs
from llmring_server.book import Book
from llmring_server.caller import Action, Actor, Auditing
from llmring_server.database import Database
from llmring_server.errors import NotFound
from llmring_server.explanation import Explanation, Listed
from llmring_server.ids import moment_of
from llmring_server.listing import Snapshot
from llmring_server.offers import Price
from llmring_server.overrides import Override
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant

# Another process's override is in force here after this many seconds.
BELIEVED = 5.0


class Sought(BaseModel):
    """A model whose price is asked for, now unless it says otherwise."""

    provider: Annotated[str, Field(max_length=50)]
    model: Annotated[str, Field(max_length=255)]
    service_tier: Annotated[str, Field(max_length=32)] | None = None
    at: AwareDatetime | None = None


class Registering(Protocol):
    """Where the registry's files come from."""

    async def snapshot(self) -> Snapshot: ...
    def on(self, database: Database) -> Self: ...


class Unpriced(NamedTuple):
    """A model whose calls have no price."""

    provider: str
    model: str
    calls: int
    first_at: datetime
    last_at: datetime


@dataclass(slots=True)
class _Shelf:
    """The book in force, and the prices that are stored: shared by all on the same database."""

    book: Book | None = None
    rows: Sequence[Any] = ()
    snapshot: Snapshot | None = None
    believed_until: float = 0
    stored: set[UUID] = field(default_factory=set)


def _book(rows: Sequence[asyncpg.Record], snapshot: Snapshot) -> Book:
    offline.providers()
    files = reversed(snapshot.history)
    return Book([overrides.layer(rows), tariffs.layer(files), offline.Offline()])


class Prices(Repository):
    """The price book: first what the operator says, then the registry, then the offline book."""

    noun = "prices"

    def __init__(self, database: Database, registry: Registering, audit: Auditing) -> None:
        super().__init__(database)
        self._registry = registry
        self._audit = audit
        self._shelf = _Shelf()

    async def book(self) -> Book:
        """Return the book, at most five seconds old."""
        if self._database.borrowed:
            return await self._restocked()
        if self._shelf.book and time.monotonic() < self._shelf.believed_until:
            return self._shelf.book
        # Set first: meanwhile the others go on with the book that there is.
        self._shelf.believed_until = time.monotonic() + BELIEVED
        return await self._persist(self._restock)

    async def _restock(self) -> Book:
        rows, snapshot = await self._all("overrides"), await self._registry.snapshot()
        shelf = self._shelf
        if shelf.book is None or (shelf.rows, shelf.snapshot) != (rows, snapshot):
            shelf.book = await asyncio.to_thread(_book, rows, snapshot)
            shelf.rows, shelf.snapshot = rows, snapshot
        return shelf.book

    async def _restocked(self) -> Book:
        """Return the book as a caller's transaction sees it: what it holds may never be true."""
        rows, shelf = await self._all("overrides"), self._shelf
        if shelf.book and shelf.rows == rows:
            return shelf.book
        snapshot = shelf.snapshot or await self._registry.snapshot()
        return await asyncio.to_thread(_book, rows, snapshot)

    async def keep(self, prices: Iterable[Price]) -> None:
        """Store the prices that calls will refer to."""
        new = {price.id: price for price in prices if price.id not in self._shelf.stored}
        if new:
            rows = orjson.dumps([Listed.of(price) for price in new.values()]).decode()
            await self._persist(lambda: self._all("keep", prices=rows))
            # A transaction may take them back.
            if not self._database.held:
                self._shelf.stored |= new.keys()

    async def find(self, sought: Sought) -> list[Listed]:
        """Return the prices of a model, the first before the others; NotFound without any."""
        when = sought.at or datetime.now(UTC)
        book = await self.book()
        offers = book.offers(sought.provider, sought.model, sought.service_tier)
        found = [Listed.of(price) for offer in offers if (price := offer.at(when))]
        if not found:
            raise NotFound(
                "No price is known for this provider, model, service tier and time:"
                " llmring-server prices override sets one."
            )
        return found

    async def explain(self, tenant: Tenant, id: UUID) -> Explanation:
        """Return why a call costs what it costs."""
        since = moment_of(id)
        until = since + timedelta(milliseconds=1)
        rows = await self._all("explain", tenant=tenant, id=id, since=since, until=until)
        if not rows:
            raise NotFound
        return Explanation.of(rows[0])

    async def overrides(self) -> list[Listed]:
        """Return the prices that the operator has set."""
        return [Listed.of(price) for price in overrides.prices(await self._all("overrides"))]

    async def override(self, prices: Sequence[Override], *, actor: Actor) -> None:
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
            here = self.on(inside)
            rows = await here._all(statement, **params)
            await here._audit.record(actor, action, target)
        self._shelf.believed_until = 0
        return rows

    async def unpriced(self, since: datetime) -> list[Unpriced]:
        """Return the models whose calls, since then, have no price."""
        return [Unpriced(*row) for row in await self._all("unpriced", since=since)]
