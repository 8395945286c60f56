"""Prices and costs as the API and the library return them."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AwareDatetime, BaseModel, Field

from llmring_server.pricing.cost import CostLine, cost_lines, usage_of_row
from llmring_server.pricing.price_book import CostSource, Price, rates_from_json, rates_to_json


@dataclass(slots=True)
class PriceDetail:
    """A price in the price book; `rates` are in USD per 10^6 tokens, 10^3 requests or searches."""

    id: UUID
    provider: str
    model: str
    service_tier: str | None
    source: str
    version: str
    valid_from: datetime | None
    rates: dict[str, Any]

    @classmethod
    def of(cls, price: Price) -> Self:
        return cls(
            id=price.id,
            provider=price.provider,
            model=price.model,
            service_tier=price.service_tier,
            source=price.source,
            version=price.version,
            valid_from=price.valid_from,
            rates=rates_to_json(price.rates),
        )

    @classmethod
    def of_row(cls, row: asyncpg.Record) -> Self:
        """Return the price that a row of a call is joined with."""
        return cls(
            id=row["price_id"],
            provider=row["price_provider"],
            model=row["price_model"],
            service_tier=row["service_tier"],
            source=row["source"],
            version=row["version"],
            valid_from=row["valid_from"],
            rates=orjson.loads(row["rates"]),
        )


@dataclass(slots=True)
class CostExplanation:
    """The cost of a call in USD, and its lines, which are added and then rounded half-even."""

    log_id: UUID
    logged_at: datetime
    currency: str
    cost: Decimal
    cost_source: CostSource
    price: PriceDetail | None
    lines: list[CostLine]
    adjustment: Decimal
    adjustments: list[dict[str, Any]]

    @classmethod
    def of_row(cls, row: asyncpg.Record) -> Self:
        """Explain a call by the price that it was rated with, whatever the price book says now."""
        price = PriceDetail.of_row(row) if row["price_id"] else None
        return cls(
            log_id=row["id"],
            logged_at=row["logged_at"],
            currency="USD",
            cost=row["cost"],
            cost_source=row["cost_source"],
            price=price,
            lines=cost_lines(rates_from_json(price.rates), usage_of_row(row)) if price else [],
            adjustment=row["adjustment"],
            adjustments=orjson.loads(row["adjustments"]),
        )


class PriceQuery(BaseModel):
    """The model whose prices to return, and the time at which they are valid (default: now)."""

    provider: Annotated[str, Field(max_length=50)] = Field(description="The model's provider.")
    model: Annotated[str, Field(max_length=255)] = Field(description="The name of the model.")
    service_tier: Annotated[str, Field(max_length=32)] | None = Field(
        None, description="The service tier: `batch`, for example."
    )
    at: AwareDatetime | None = Field(None, description="When the prices are valid; now by default.")


class UnpricedModel(NamedTuple):
    """A model with calls that have no price."""

    provider: str
    model: str
    calls: int
    first_at: datetime
    last_at: datetime
