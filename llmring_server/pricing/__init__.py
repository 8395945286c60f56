"""Pricing: what a call costs, by the price that was valid at its time.

The price book tries the operator's overrides, the model registry and the built-in prices, in this
order. Costs are exact decimals in USD. A call without a price is unpriced, which is not free, and
re-rating adds what it would cost now beside what was recorded.
"""

from llmring_server.pricing.models import (
    ConsideredSource,
    CostExplanation,
    PriceDetail,
    PriceQuery,
    UnpricedModel,
)
from llmring_server.pricing.price_book import Price, PriceBook, PricedCall
from llmring_server.pricing.rerating import CostChange, RerateFilter, Rerating
from llmring_server.pricing.service import Pricing
from llmring_server.pricing.sources import PriceOverride

__all__ = [
    "ConsideredSource",
    "CostChange",
    "CostExplanation",
    "Price",
    "PriceBook",
    "PriceDetail",
    "PriceOverride",
    "PriceQuery",
    "PricedCall",
    "Pricing",
    "RerateFilter",
    "Rerating",
    "UnpricedModel",
]
