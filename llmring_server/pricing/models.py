"""Prices and bills as they are shown."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AwareDatetime, BaseModel, Field

from llmring_server.pricing.cost import CostLine, cost_lines, usage_of_row
from llmring_server.pricing.price_book import Price, rates_from_json, rates_to_json


@dataclass(slots=True)
class PriceDetail:
    """A price of the book; `rates` are USD for 10^6 tokens, 10^3 requests or searches."""

    id: UUID
    provider: str
    model: str
    service_tier: str | None
    source: str
    version: str
    since: datetime | None
    rates: dict[str, Any]

    @classmethod
    def of(cls, price: Price) -> Self:
        return cls(
            price.id, price.provider, price.model, price.service_tier,
            price.source, price.version, price.since, rates_to_json(price.rates),
        )  # fmt: skip


@dataclass(slots=True)
class CostExplanation:
    """Why a call costs what it costs, in USD: the lines, added up and rounded half-even."""

    log_id: UUID
    logged_at: datetime
    currency: str
    cost: Decimal
    cost_source: str
    price: PriceDetail | None
    lines: list[CostLine]
    adjustment: Decimal
    adjustments: list[dict[str, Any]]

    @classmethod
    def of(cls, row: asyncpg.Record) -> Self:
        """Explain a call by the price that rated it, whatever the book says today."""
        price = _listed(row) if row["price_id"] else None
        return cls(
            row["id"], row["logged_at"], "USD", row["cost"], row["cost_source"],
            price, cost_lines(rates_from_json(price.rates), usage_of_row(row)) if price else [],
            row["adjustment"], orjson.loads(row["adjustments"]),
        )  # fmt: skip


def _listed(row: asyncpg.Record) -> PriceDetail:
    return PriceDetail(
        row["price_id"], row["price_provider"], row["price_model"], row["service_tier"],
        row["source"], row["version"], row["since"], orjson.loads(row["rates"]),
    )  # fmt: skip


class PriceQuery(BaseModel):
    """A model whose price is asked for, now unless it says otherwise."""

    provider: Annotated[str, Field(max_length=50)]
    model: Annotated[str, Field(max_length=255)]
    service_tier: Annotated[str, Field(max_length=32)] | None = None
    at: AwareDatetime | None = None


class UnpricedModel(NamedTuple):
    """A model whose calls have no price."""

    provider: str
    model: str
    calls: int
    first_at: datetime
    last_at: datetime
