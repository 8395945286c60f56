"""What a model is offered at: a price for any time, from whoever states it."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, Literal, Protocol, Self
from uuid import UUID

import orjson

from llmring_server.rates import Rate, Rates

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
        text = orjson.dumps(said | {"rates": written(rates)}, option=orjson.OPT_SORT_KEYS)
        return cls(id=UUID(bytes=sha256(text).digest()[:16]), rates=rates, **said)


def written(rates: Rates) -> dict[str, Any]:
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


def read(rates: Mapping[str, Any]) -> Rates:
    """Read what `written` wrote."""
    return {kind: _read(rate) for kind, rate in rates.items()}


def _read(rate: Any) -> Rate:
    if isinstance(rate, str):
        return Rate(Decimal(rate))
    above = sorted((int(start), price and Decimal(price)) for start, price in rate["above"].items())
    return Rate(Decimal(rate["base"]), tuple(above))


class Offer(Protocol):
    """One model in one service tier over time."""

    def at(self, when: datetime) -> Price | None: ...


class Dated:
    """Prices that hold from one date to the next."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._prices = sorted(prices, key=_since)

    def at(self, when: datetime) -> Price | None:
        place = bisect_right(self._prices, when, key=_since)
        return self._prices[place - 1] if place else None


def _since(price: Price) -> datetime:
    return price.since or EVER


class Layer(Protocol):
    """All that one source offers."""

    def find(self, provider: str, model: str, tier: str | None) -> Offer | None: ...


class Named:
    """A layer of models by name: as it is written, else in any case."""

    def __init__(self, offers: Mapping[tuple[str, str, str | None], Offer]) -> None:
        self._exact = offers
        self._folded = {
            (provider, model.lower(), tier): offer
            for (provider, model, tier), offer in offers.items()
        }

    def find(self, provider: str, model: str, tier: str | None) -> Offer | None:
        return self._exact.get((provider, model, tier)) or self._folded.get(
            (provider, model.lower(), tier)
        )
