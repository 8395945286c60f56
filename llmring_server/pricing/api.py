"""What models cost, and why a call cost what it did."""

from typing import Annotated, Literal
from uuid import UUID

from typing_extensions import TypedDict

from llmring_server.errors import NotFound
from llmring_server.pricing.cost import UNITS_PER_PRICE
from llmring_server.pricing.models import CostExplanation, PriceDetail, PriceQuery
from llmring_server.web.request import Request


class PriceList(TypedDict):
    """The prices of a model, the one in force first; `per`: how many units a rate is for."""

    currency: Literal["USD"]
    per: dict[str, int]
    prices: list[PriceDetail]


async def list_prices(request: Request, query: PriceQuery) -> Annotated[PriceList, NotFound]:
    """Tell what a model costs, by each source that has a price."""
    found = await request.ring.prices.find(query)
    return {"currency": "USD", "per": UNITS_PER_PRICE, "prices": found}


async def explain_cost(request: Request, id: UUID) -> CostExplanation:
    """Explain what a call costs, line by line."""
    return await request.ring.prices.explain(request.project_id, id)
