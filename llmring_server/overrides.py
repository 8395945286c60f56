"""Prices that the operator sets: for a model, from a date on, before what anyone else says."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Annotated, Any

import asyncpg
import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    TypeAdapter,
)

from llmring_server.offers import EVER, STANDARD, Dated, Named, Price, read, written
from llmring_server.rates import PER, Rate

DEAREST = 1_000_000


def _exact(value: object) -> object:
    return str(value) if isinstance(value, float) else value


def _known(kind: str) -> str:
    if kind not in PER:
        raise ValueError(f"must be one of {', '.join(PER)}")
    return kind


Amount = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=DEAREST)]
Kind = Annotated[str, AfterValidator(_known)]


class Tiers(BaseModel, extra="forbid"):
    """A price, and other ones for prompts that are longer than so many tokens."""

    base: Amount
    above: dict[Annotated[int, Field(gt=0)], Amount]


class Override(BaseModel, extra="forbid"):
    """USD for a million tokens, or a thousand requests or searches, of each kind."""

    provider: Annotated[str, StringConstraints(pattern=r"^\S{1,50}$", to_lower=True)]
    model: Annotated[str, Field(min_length=1, max_length=255)]
    service_tier: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    since: AwareDatetime = EVER
    rates: Annotated[dict[Kind, Amount | Tiers], Field(min_length=1)]

    def row(self) -> dict[str, Any]:
        rates = {kind: _rate(price) for kind, price in self.rates.items()}
        tier = None if self.service_tier in STANDARD else self.service_tier
        return self.model_dump(exclude={"rates"}) | {"service_tier": tier, "rates": written(rates)}


OVERRIDES = TypeAdapter(list[Override])


def _rate(price: Decimal | Tiers) -> Rate:
    if isinstance(price, Tiers):
        return Rate(price.base, tuple(sorted(price.above.items())))
    return Rate(price)


def layer(rows: Iterable[asyncpg.Record]) -> Named:
    """Make the layer of overrides from their rows."""
    offers = defaultdict(list)
    for price in prices(rows):
        offers[price.provider, price.model, price.service_tier].append(price)
    return Named({name: Dated(found) for name, found in offers.items()})


def prices(rows: Iterable[asyncpg.Record]) -> Iterator[Price]:
    for row in rows:
        yield Price.of(
            provider=row["provider"],
            model=row["model"],
            service_tier=row["service_tier"] or None,
            source="override",
            version=f"{row['made_at']:%Y-%m-%dT%H:%M:%SZ}",
            since=None if row["since"] == EVER else row["since"],
            rates=read(orjson.loads(row["rates"])),
        )
