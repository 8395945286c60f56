"""Price book: price sources in order of precedence; the first that can price a call prices it."""

import math
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
from llmring_server.core.providers import normal_provider, recognized_provider
from llmring_server.pricing.cost import MAX_COST, MissingRate, Rate, Rates, TokenUsage, cost
from llmring_server.pricing.model_names import names_of, undated
from llmring_server.pricing.service_tiers import PREPAID_TIER, normal_tier

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

CACHE_SIZE = 4096


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
        self._times = [_valid_from(price) for price in self._prices]

    def at(self, when: datetime) -> Price | None:
        count = bisect_right(self._times, when)
        return self._prices[count - 1] if count else None


def _valid_from(price: Price) -> datetime:
    return price.valid_from or EPOCH


class PriceSource(Protocol):
    """The prices of one source, by normal names of providers and tiers."""

    def find(self, provider: str, model: str, tier: str | None) -> PriceHistory | None:
        """Return the prices of a model in a service tier, if the source has any."""

    def knows(self, provider: str, model: str) -> bool:
        """Tell whether the source has prices of a model in any service tier."""

    def models(self, provider: str) -> Iterable[str]:
        """Return the names of models that the source lists, of which it may know more."""


class PriceTable:
    """A price source that finds models by their exact names, else ignoring case."""

    def __init__(self, histories: Mapping[tuple[str, str, str | None], PriceHistory]) -> None:
        self._exact = histories
        self._lower_case = {
            (provider, model.lower(), tier): history
            for (provider, model, tier), history in histories.items()
        }
        self._models = {(provider, model) for provider, model, _ in self._lower_case}

    @classmethod
    def of_prices(cls, prices: Iterable[Price]) -> Self:
        """Make a table; of two prices with the same name and date, the later one counts."""
        grouped: dict[tuple[str, str, str | None], list[Price]] = {}
        for price in prices:
            name = normal_provider(price.provider), price.model, normal_tier(price.service_tier)
            grouped.setdefault(name, []).append(price)
        return cls({name: DatedPrices(prices) for name, prices in grouped.items()})

    def find(self, provider: str, model: str, tier: str | None) -> PriceHistory | None:
        exact = self._exact.get((provider, model, tier))
        return exact or self._lower_case.get((provider, model.lower(), tier))

    def knows(self, provider: str, model: str) -> bool:
        return (provider, model.lower()) in self._models

    def models(self, provider: str) -> Iterable[str]:
        return {model for seller, model, _ in self._exact if seller == provider}


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


class Candidate(NamedTuple):
    """A price that a source has for a call, and what the call costs by it, or why not."""

    price: Price
    cost: Decimal | None
    reason: str


class PriceBook:
    """Price sources, the one that takes precedence first."""

    def __init__(self, sources: Sequence[PriceSource]) -> None:
        self._sources = sources
        # Clients choose the names, so the number of cached ones is limited.
        self._cached_histories = lru_cache(CACHE_SIZE)(self._find_histories)
        # Few prices hold at a time: each combination is compared once.
        self._cached_comparison = lru_cache(CACHE_SIZE)(_compare)

    def histories(self, provider: str, model: str, tier: str | None) -> Sequence[PriceHistory]:
        """Return the prices of a model by all sources, in order of precedence."""
        return self._cached_histories(provider, model, tier)

    def quote(
        self, provider: str, model: str, tier: str | None, usage: TokenUsage, when: datetime
    ) -> PricedCall:
        """Price the usage of a call at its time."""
        reason = ""
        for price, limits in self._compared_prices(provider, model, tier, when):
            found, reason = _price_usage(price, limits, usage)
            if found is not None:
                return PricedCall(found, price)
        return PricedCall(None, None, reason or no_price(tier))

    def candidates(
        self, provider: str, model: str, tier: str | None, usage: TokenUsage, when: datetime
    ) -> list[Candidate]:
        """Return what each source that has a price says, in order of precedence.

        The first with a cost prices the call.
        """
        return [
            Candidate(price, *_price_usage(price, limits, usage))
            for price, limits in self._compared_prices(provider, model, tier, when)
        ]

    def dated_names(self, provider: str, model: str) -> list[str]:
        """Return the listed names of dated versions of a model: its price is not theirs."""
        seller = normal_provider(provider)
        names = {name for source in self._sources for name in source.models(seller)}
        return sorted(name for name in names if (undated(name) or "").lower() == model.lower())

    def _compared_prices(
        self, provider: str, model: str, tier: str | None, when: datetime
    ) -> "Sequence[tuple[Price, _Limits]]":
        histories = self._cached_histories(provider, model, tier)
        found = [history.at(when) for history in histories]
        return self._cached_comparison(tuple(filter(None, found)))

    def _find_histories(
        self, provider: str, model: str, tier: str | None
    ) -> tuple[PriceHistory, ...]:
        return tuple(self._search(normal_provider(provider), model, normal_tier(tier)))

    def _search(self, provider: str, model: str, tier: str | None) -> Iterator[PriceHistory]:
        names = names_of(provider, model)
        # Prices under its own name, such as an override, come before those of the one it contains.
        recognized = recognized_provider(provider)
        if recognized != provider:
            names += names_of(recognized, model)
        for source in self._sources:
            history = _first_history(source, names, tier)
            if history:
                yield history
        # A dated name that no source knows is a version of the undated one. One that is known, even
        # in another tier, has prices of its own: those of other versions are not its prices.
        shorter = [(seller, undated(name)) for seller, name in names]
        undated_names = [(seller, name) for seller, name in shorter if name]
        if undated_names and not self._knows_any(names):
            for source in self._sources:
                history = _first_history(source, undated_names, tier)
                if history:
                    yield history

    def _knows_any(self, names: Iterable[tuple[str, str]]) -> bool:
        return any(source.knows(*name) for name in names for source in self._sources)


def _first_history(
    source: PriceSource, names: Iterable[tuple[str, str]], tier: str | None
) -> PriceHistory | None:
    found = (source.find(provider, name, tier) for provider, name in names)
    return next(filter(None, found), None)


def no_price(tier: str | None) -> str:
    """Say why there is no price for a model in a tier."""
    if normal_tier(tier) == PREPAID_TIER:
        return "provisioned throughput is paid by the hour, not by the call"
    return "no price for the model"


class _Gap(NamedTuple):
    """What a price does not distinguish that another price of the model does.

    It matters to calls with usage of this kind, and a prompt in (`above`, `up_to`].
    """

    kind: str
    above: float
    up_to: float
    reason: str


class _Limits(NamedTuple):
    """Why a price is not used although it has rates: it is outdated, or knows less than others."""

    outdated: str
    gaps: Sequence[_Gap]


def _compare(prices: tuple[Price, ...]) -> Sequence[tuple[Price, _Limits]]:
    """Return prices of one model at one time, with their limits.

    An override is what the operator pays, in as much detail as was given: it has none.
    """
    return [
        (price, _Limits("", ()))
        if price.source == "override" or len(prices) == 1
        else (price, _Limits(_outdated(price, prices), tuple(_gaps(price, prices))))
        for price in prices
    ]


def _outdated(price: Price, prices: Sequence[Price]) -> str:
    """Say why a price of the registry has been superseded, or nothing."""
    if price.source != "registry" or not price.valid_from:
        return ""
    for other in prices:
        if other.source == "offline" and other.valid_from and other.valid_from > price.valid_from:
            return (
                f"older ({price.valid_from:%Y-%m-%d}) than the price of the built-in price book"
                f" ({other.valid_from:%Y-%m-%d})"
            )
    return ""


def _gaps(price: Price, prices: Sequence[Price]) -> Iterator[_Gap]:
    """Yield what `price` lacks: a tier for long prompts, a fee for requests, a price for reasoning.

    Without a rate for any other kind, a call that uses it has no cost anyway.
    """
    for other in prices:
        for kind, theirs in other.rates.items():
            rate = price.rates.get(kind)
            if rate is None and kind in {"reasoning", "request"}:
                yield _Gap(kind, -1, math.inf, f"no rate for {kind}")
            elif rate and theirs.above:
                above = theirs.above[0][0]
                up_to = rate.above[0][0] if rate.above else math.inf
                if above < up_to:
                    reason = f"no rate for {kind} of prompts above {above} tokens"
                    yield _Gap(kind, above, up_to, reason)


def _price_usage(price: Price, limits: _Limits, usage: TokenUsage) -> tuple[Decimal | None, str]:
    """Return what a usage costs, or why the price does not price it."""
    if limits.outdated:
        return None, limits.outdated
    for kind, above, up_to, reason in limits.gaps:
        if above < usage.prompt_tokens <= up_to and usage.units.get(kind):
            return None, reason
    try:
        amount = cost(price.rates, usage)
    except MissingRate as exc:
        return None, f"no rate for {exc}"
    if amount > MAX_COST:
        return None, f"the cost exceeds {MAX_COST} USD"
    return amount, ""


# For calls that all report their cost.
EMPTY_PRICE_BOOK = PriceBook([])
