"""Prices and costs as the API and the library return them."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import product
from typing import Annotated, Any, NamedTuple, Self, get_args
from uuid import UUID

import asyncpg
import orjson
from pydantic import AwareDatetime, BaseModel, Field

from llmring_server.pricing.cost import (
    CostLine,
    MissingRate,
    Rates,
    TokenUsage,
    cost,
    cost_lines,
    normalize_usage,
    tokens_of_row,
)
from llmring_server.pricing.price_book import (
    Candidate,
    CostSource,
    Price,
    Source,
    no_price,
    rates_from_json,
    rates_to_json,
)
from llmring_server.pricing.token_semantics import ReportedTokens, TokenReading


@dataclass(slots=True)
class PriceDetail:
    """A price in the price book; `rates` are in USD for as many units as `per` of the list says."""

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
class ConsideredSource:
    """What a source of the price book says today about a call, with the price of the call's time.

    `reason` says why this source does not price the call; it is empty for the one that does, and
    for those after it that could.
    """

    source: Source
    version: str | None
    model: str | None
    prices_the_call: bool
    reason: str

    @classmethod
    def all_of(cls, candidates: list[Candidate], tier: str | None) -> list[Self]:
        """Return every source, in order of precedence, with what it says."""
        found: list[Self] = []
        chosen = next((each for each in candidates if each.cost is not None), None)
        for source in get_args(Source):
            own = [candidate for candidate in candidates if candidate.price.source == source]
            found += [
                cls(source, each.price.version, each.price.model, each is chosen, each.reason)
                for each in own
            ]
            if not own:
                found.append(cls(source, None, None, prices_the_call=False, reason=no_price(tier)))
        return found


@dataclass(slots=True)
class CostExplanation:
    """The cost of a call in USD, and its lines, which are added and then rounded half-even.

    `assumptions` say how the reported tokens were read, and why. `sources` are today's sources of
    prices; `price` is the one that was applied, even if it has changed since.
    """

    log_id: UUID
    logged_at: datetime
    currency: str
    cost: Decimal
    cost_source: CostSource
    price: PriceDetail | None
    lines: list[CostLine]
    cache_tokens_included: bool
    reasoning_tokens_included: bool
    assumptions: list[str]
    sources: list[ConsideredSource]
    adjustment: Decimal
    adjustments: list[dict[str, Any]]

    @classmethod
    def of_row(cls, row: asyncpg.Record, sources: list[ConsideredSource]) -> Self:
        """Explain a call by the price that it was rated with, whatever the price book says now."""
        price = PriceDetail.of_row(row) if row["price_id"] else None
        lines: list[CostLine] = []
        try:
            tokens = tokens_of_row(row)
        except ValueError as exc:
            reading = TokenReading(cache_included=True, reasoning_included=True)
            assumptions = [f"The cost cannot be explained: among the details of the call, {exc}."]
        else:
            reading, assumptions = tokens.reading(), tokens.reasons()
            if not row["usage_known"]:
                assumptions = ["The usage of the call is unknown, so no price can be applied."]
            if price:
                rates = rates_from_json(price.rates)
                lines, reading, assumptions = _lines_of_cost(rates, tokens, row["cost"])
        return cls(
            log_id=row["id"],
            logged_at=row["logged_at"],
            currency="USD",
            cost=row["cost"],
            cost_source=row["cost_source"],
            price=price,
            lines=lines,
            cache_tokens_included=reading.cache_included,
            reasoning_tokens_included=reading.reasoning_included,
            assumptions=assumptions,
            sources=sources,
            adjustment=row["adjustment"],
            adjustments=orjson.loads(row["adjustments"]),
        )


def _lines_of_cost(
    rates: Rates, tokens: ReportedTokens, stored_cost: Decimal
) -> tuple[list[CostLine], TokenReading, list[str]]:
    """Find out how the tokens of a stored call were read: as now, or by an earlier rule.

    Of the few ways to read them, it is the one that gives the stored cost, so that the explanation
    adds up to it. There are no lines if the tokens cannot be read, or have no price.
    """
    reading = tokens.reading()
    usual = _usage_and_cost(rates, tokens, reading)
    if usual and usual[1] == stored_cost:
        return cost_lines(rates, usual[0]), reading, tokens.reasons()
    for included in product((True, False), repeat=2):
        other = TokenReading(*included)
        found = _usage_and_cost(rates, tokens, other)
        if found and found[1] == stored_cost:
            return cost_lines(rates, found[0]), other, [_earlier_rule(other)]
    return cost_lines(rates, usual[0]) if usual else [], reading, tokens.reasons()


def _usage_and_cost(
    rates: Rates, tokens: ReportedTokens, reading: TokenReading
) -> tuple[TokenUsage, Decimal] | None:
    try:
        usage = normalize_usage(tokens, reading)
        return usage, cost(rates, usage)
    except (ValueError, MissingRate):
        return None


def _earlier_rule(reading: TokenReading) -> str:
    cached = "in" if reading.cache_included else "beside"
    reasoning = "in" if reading.reasoning_included else "beside"
    return (
        f"The call was priced by an earlier rule: cached tokens {cached} the input, reasoning"
        f" {reasoning} the output. Re-rating applies the present one."
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
