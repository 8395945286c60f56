"""The price book: layers of offers, the first that knows all prices of a call prices it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple, Protocol, Self

from llmring_server.database import Database
from llmring_server.offers import STANDARD, Layer, Offer, Price
from llmring_server.rates import MOST, Lacking, Use, cost

REMEMBERED = 4096

_DATE = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")
_FINE_TUNED = re.compile(r"(ft:[^:]+):.*")


class Quote(NamedTuple):
    """What a call costs, by which price; without one, `lacking` says what has no price."""

    cost: Decimal | None
    price: Price | None
    lacking: str = ""

    @property
    def source(self) -> str:
        """Who said what it costs: the client, unless a price did."""
        if self.price:
            return self.price.source
        return "unpriced" if self.cost is None else "client"


class Book:
    """Layers of prices, from the most to the least particular."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        # Callers choose the names, so what is remembered is bounded.
        self._offers = lru_cache(REMEMBERED)(lambda *sought: list(self._search(*sought)))

    def offers(self, provider: str, model: str, tier: str | None) -> list[Offer]:
        """Return all offers of a model, the one that goes first first."""
        return self._offers(provider, model, None if tier in STANDARD else tier)

    def quote(
        self, provider: str, model: str, tier: str | None, used: Use, when: datetime
    ) -> Quote:
        """Price what a call used at its time."""
        lacking = "model"
        for offer in self.offers(provider, model, tier):
            if price := offer.at(when):
                try:
                    amount = cost(price.rates, used)
                except Lacking as exc:
                    lacking = str(exc)
                else:
                    if amount <= MOST:
                        return Quote(amount, price)
                    lacking = "so many tokens"
        return Quote(None, None, lacking=lacking)

    def _search(self, provider: str, model: str, tier: str | None) -> Iterator[Offer]:
        provider = provider.lower()
        bare = model.removeprefix(f"{provider}:")
        # As it is given, else without its provider, else the kind of fine-tuned model that it is.
        names = dict.fromkeys((model, bare, _FINE_TUNED.sub(r"\1", bare)))
        for layer in self._layers:
            found = (layer.find(provider, name, tier) for name in names)
            if offer := next(filter(None, found), None):
                yield offer
        # A dated name that nobody knows is a version of the undated one; only then, since other
        # versions have had other prices.
        undated = _DATE.sub("", bare)
        if undated != bare and not bare.startswith("ft:"):
            for layer in self._layers:
                if offer := layer.find(provider, undated, tier):
                    yield offer


# For calls that all bring their cost.
UNREAD = Book([])


class Pricing(Protocol):
    """Where the book in force comes from, and the prices that it quoted go to."""

    async def book(self) -> Book: ...
    async def keep(self, prices: Iterable[Price]) -> None: ...
    def on(self, database: Database) -> Self: ...
