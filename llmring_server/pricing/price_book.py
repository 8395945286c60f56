"""The price book: layers of offers, the first that knows all prices of a call prices it."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal, NamedTuple, Protocol, Self
from uuid import UUID

import orjson

from llmring_server.db.database import Database
from llmring_server.pricing.cost import MAX_COST, MissingRate, Rate, Rates, TokenUsage, cost

EVER = datetime(1970, 1, 1, tzinfo=UTC)


# What providers call the tier that costs what is on the price list.
STANDARD = {None, "default", "standard", "on_demand"}


Source = Literal["override", "registry", "offline"]


@dataclass(frozen=True, slots=True, eq=False)
class Price:
    """The rates of one model in one service tier; `id` is a digest of all that is said here."""

    id: UUID
    provider: str
    model: str
    service_tier: str | None
    source: Source
    version: str
    since: datetime | None
    rates: Rates

    @classmethod
    def of(cls, **said: Any) -> Self:
        rates: Rates = said.pop("rates")
        text = orjson.dumps(said | {"rates": rates_to_json(rates)}, option=orjson.OPT_SORT_KEYS)
        return cls(id=UUID(bytes=sha256(text).digest()[:16]), rates=rates, **said)


def rates_to_json(rates: Rates) -> dict[str, Any]:
    """Write rates as JSON: decimals as text, tiers by the length of prompt they begin above."""
    return {kind: _written(rate) for kind, rate in sorted(rates.items())}


def _written(rate: Rate) -> Any:
    if not rate.above:
        return _text(rate.base)
    return {
        "base": _text(rate.base),
        "above": {str(start): price and _text(price) for start, price in rate.above},
    }


def _text(price: Decimal) -> str:
    return f"{price.normalize():f}"


def rates_from_json(rates: Mapping[str, Any]) -> Rates:
    """Read what `written` wrote."""
    return {kind: _read(rate) for kind, rate in rates.items()}


def _read(rate: Any) -> Rate:
    if isinstance(rate, str):
        return Rate(Decimal(rate))
    above = sorted((int(start), price and Decimal(price)) for start, price in rate["above"].items())
    return Rate(Decimal(rate["base"]), tuple(above))


class PriceHistory(Protocol):
    """One model in one service tier over time."""

    def at(self, when: datetime) -> Price | None: ...


class DatedPrices:
    """Prices that hold from one date to the next."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._prices = sorted(prices, key=_since)

    def at(self, when: datetime) -> Price | None:
        place = bisect_right(self._prices, when, key=_since)
        return self._prices[place - 1] if place else None


def _since(price: Price) -> datetime:
    return price.since or EVER


class PriceSource(Protocol):
    """All that one source offers."""

    def find(self, provider: str, model: str, tier: str | None) -> PriceHistory | None: ...


class PriceTable:
    """A layer of models by name: as it is written, else in any case."""

    def __init__(self, offers: Mapping[tuple[str, str, str | None], PriceHistory]) -> None:
        self._exact = offers
        self._folded = {
            (provider, model.lower(), tier): offer
            for (provider, model, tier), offer in offers.items()
        }

    def find(self, provider: str, model: str, tier: str | None) -> PriceHistory | None:
        return self._exact.get((provider, model, tier)) or self._folded.get(
            (provider, model.lower(), tier)
        )


CACHE_SIZE = 4096


_DATE = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")


_FINE_TUNED = re.compile(r"(ft:[^:]+):.*")


class PricedCall(NamedTuple):
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


class PriceBook:
    """Layers of prices, from the most to the least particular."""

    def __init__(self, layers: Sequence[PriceSource]) -> None:
        self._layers = layers
        # Callers choose the names, so what is remembered is bounded.
        self._offers = lru_cache(CACHE_SIZE)(lambda *sought: list(self._search(*sought)))

    def offers(self, provider: str, model: str, tier: str | None) -> list[PriceHistory]:
        """Return all offers of a model, the one that goes first first."""
        return self._offers(provider, model, None if tier in STANDARD else tier)

    def quote(
        self, provider: str, model: str, tier: str | None, used: TokenUsage, when: datetime
    ) -> PricedCall:
        """Price what a call used at its time."""
        lacking = "model"
        for offer in self.offers(provider, model, tier):
            if price := offer.at(when):
                try:
                    amount = cost(price.rates, used)
                except MissingRate as exc:
                    lacking = str(exc)
                else:
                    if amount <= MAX_COST:
                        return PricedCall(amount, price)
                    lacking = "so many tokens"
        return PricedCall(None, None, lacking=lacking)

    def _search(self, provider: str, model: str, tier: str | None) -> Iterator[PriceHistory]:
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
EMPTY_PRICE_BOOK = PriceBook([])


class Pricing(Protocol):
    """Where the book in force comes from, and the prices that it quoted go to."""

    async def book(self) -> PriceBook: ...
    async def keep(self, prices: Iterable[Price]) -> None: ...
    def with_database(self, database: Database) -> Self: ...
