"""Price book: price sources in order of precedence; the first that can price a call prices it."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self
from uuid import UUID

import orjson
from pydantic import Field

from llmring_server.core.money import decimal_text
from llmring_server.pricing.cost import MAX_COST, MissingRate, Rate, Rates, TokenUsage, cost

Source = Literal["override", "registry", "offline"]

CostSource = Annotated[
    str,
    Field(
        description="Where the cost comes from: `client` (reported with the call); `override`,"
        " `registry` or `offline` (the source of the price); or `unpriced` (no price is known)."
    ),
]

# A price without a date is valid from here on.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What providers call the tier of their price list.
STANDARD_TIERS = {None, "default", "standard", "on_demand"}

CACHE_SIZE = 4096

_DATE_SUFFIX = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")
_FINE_TUNED_MODEL = re.compile(r"(ft:[^:]+):.*")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Price:
    """The rates of one model in one service tier; `id` is a digest of all other fields."""

    provider: str
    model: str
    service_tier: str | None
    source: Source
    version: str
    valid_from: datetime | None
    rates: Rates
    id: UUID = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self._digest())

    def _digest(self) -> UUID:
        # Stored calls refer to prices by id: these names must not change if fields are renamed.
        content = {
            "provider": self.provider,
            "model": self.model,
            "service_tier": self.service_tier,
            "source": self.source,
            "version": self.version,
            "since": self.valid_from,
            "rates": rates_to_json(self.rates),
        }
        text = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        return UUID(bytes=sha256(text).digest()[:16])


def rates_to_json(rates: Rates) -> dict[str, Any]:
    """Write rates as JSON: decimals as text, tiers by the prompt length that they begin above."""
    return {kind: _rate_to_json(rate) for kind, rate in sorted(rates.items())}


def _rate_to_json(rate: Rate) -> str | dict[str, Any]:
    if not rate.above:
        return decimal_text(rate.base)
    above = {
        str(threshold): None if price is None else decimal_text(price)
        for threshold, price in rate.above
    }
    return {"base": decimal_text(rate.base), "above": above}


def rates_from_json(rates: Mapping[str, Any]) -> Rates:
    """Read what `rates_to_json` wrote."""
    return {kind: _rate_from_json(rate) for kind, rate in rates.items()}


def _rate_from_json(rate: str | Mapping[str, Any]) -> Rate:
    if isinstance(rate, str):
        return Rate(Decimal(rate))
    above = {
        int(threshold): None if price is None else Decimal(price)
        for threshold, price in rate["above"].items()
    }
    return Rate(Decimal(rate["base"]), tuple(sorted(above.items())))


class PriceHistory(Protocol):
    """The prices of one model in one service tier over time."""

    def at(self, when: datetime) -> Price | None:
        """Return the price that is valid at a time, if any is."""


class DatedPrices:
    """A price history in which each price is valid until the next one is."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._prices = sorted(prices, key=_valid_from)

    def at(self, when: datetime) -> Price | None:
        count = bisect_right(self._prices, when, key=_valid_from)
        return self._prices[count - 1] if count else None


def _valid_from(price: Price) -> datetime:
    return price.valid_from or EPOCH


class PriceSource(Protocol):
    """The prices of one source."""

    def find(self, provider: str, model: str, tier: str | None) -> PriceHistory | None:
        """Return the prices of a model in a service tier, if the source has any."""


class PriceTable:
    """A price source that finds models by their exact names, else ignoring case."""

    def __init__(self, histories: Mapping[tuple[str, str, str | None], PriceHistory]) -> None:
        self._exact = histories
        self._lower_case = {
            (provider, model.lower(), tier): history
            for (provider, model, tier), history in histories.items()
        }

    @classmethod
    def of_prices(cls, prices: Iterable[Price]) -> Self:
        """Make a table; of two prices with the same name and date, the later one counts."""
        grouped: dict[tuple[str, str, str | None], list[Price]] = {}
        for price in prices:
            name = price.provider, price.model, price.service_tier
            grouped.setdefault(name, []).append(price)
        return cls({name: DatedPrices(prices) for name, prices in grouped.items()})

    def find(self, provider: str, model: str, tier: str | None) -> PriceHistory | None:
        exact = self._exact.get((provider, model, tier))
        return exact or self._lower_case.get((provider, model.lower(), tier))


class PricedCall(NamedTuple):
    """The cost of a call and the price that it was computed with.

    Without a cost, `unpriced_reason` says why; without a price, the client reported the cost.
    """

    cost: Decimal | None
    price: Price | None
    unpriced_reason: str = ""

    @property
    def source(self) -> str:
        """Where the cost comes from."""
        if self.price:
            return self.price.source
        return "unpriced" if self.cost is None else "client"


class PriceBook:
    """Price sources, the one that takes precedence first."""

    def __init__(self, sources: Sequence[PriceSource]) -> None:
        self._sources = sources
        # Clients choose the names, so the number of cached ones is limited.
        self._cached_histories = lru_cache(CACHE_SIZE)(self._find_histories)

    def histories(self, provider: str, model: str, tier: str | None) -> Sequence[PriceHistory]:
        """Return the prices of a model by all sources, in order of precedence."""
        return self._cached_histories(provider, model, None if tier in STANDARD_TIERS else tier)

    def quote(
        self, provider: str, model: str, tier: str | None, usage: TokenUsage, when: datetime
    ) -> PricedCall:
        """Price the usage of a call at its time."""
        reason = "no price for the model"
        for history in self.histories(provider, model, tier):
            price = history.at(when)
            if price is None:
                continue
            try:
                amount = cost(price.rates, usage)
            except MissingRate as exc:
                reason = f"no rate for {exc}"
                continue
            if amount <= MAX_COST:
                return PricedCall(amount, price)
            reason = f"the cost exceeds {MAX_COST} USD"
        return PricedCall(None, None, reason)

    def _find_histories(
        self, provider: str, model: str, tier: str | None
    ) -> tuple[PriceHistory, ...]:
        return tuple(self._search(provider.lower(), model, tier))

    def _search(self, provider: str, model: str, tier: str | None) -> Iterator[PriceHistory]:
        bare = model.removeprefix(f"{provider}:")
        # The name as reported, else without its provider, else the base of a fine-tuned model.
        names = dict.fromkeys((model, bare, _FINE_TUNED_MODEL.sub(r"\1", bare)))
        for source in self._sources:
            candidates = (source.find(provider, name, tier) for name in names)
            history = next(filter(None, candidates), None)
            if history:
                yield history
        # A dated name that is not listed is a version of the undated one. It is tried last, since
        # other versions have had other prices.
        undated = _DATE_SUFFIX.sub("", bare)
        if undated != bare and not bare.startswith("ft:"):
            for source in self._sources:
                history = source.find(provider, undated, tier)
                if history:
                    yield history


# For calls that all report their cost.
EMPTY_PRICE_BOOK = PriceBook([])
