"""Prices and bills as they are shown."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

import asyncpg
import orjson

from llmring_server.offers import Price, read, written
from llmring_server.rates import Line, bill, use_of


@dataclass(slots=True)
class Listed:
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
            price.source, price.version, price.since, written(price.rates),
        )  # fmt: skip


@dataclass(slots=True)
class Explanation:
    """Why a call costs what it costs, in USD: the lines, added up and rounded half-even."""

    log_id: UUID
    logged_at: datetime
    currency: str
    cost: Decimal
    cost_source: str
    price: Listed | None
    lines: list[Line]
    adjustment: Decimal
    adjustments: list[dict[str, Any]]

    @classmethod
    def of(cls, row: asyncpg.Record) -> Self:
        """Explain a call by the price that rated it, whatever the book says today."""
        price = _listed(row) if row["price_id"] else None
        return cls(
            row["id"], row["logged_at"], "USD", row["cost"], row["cost_source"],
            price, bill(read(price.rates), use_of(row)) if price else [],
            row["adjustment"], orjson.loads(row["adjustments"]),
        )  # fmt: skip


def _listed(row: asyncpg.Record) -> Listed:
    return Listed(
        row["price_id"], row["price_provider"], row["price_model"], row["service_tier"],
        row["source"], row["version"], row["since"], orjson.loads(row["rates"]),
    )  # fmt: skip
