"""Pricing endpoints: the prices of a model, the explained cost of a call."""

from typing import Annotated, Literal
from uuid import UUID

from typing_extensions import TypedDict

from llmring_server.errors import NotFound
from llmring_server.pricing.cost import UNITS_PER_PRICE
from llmring_server.pricing.models import CostExplanation, PriceDetail, PriceQuery
from llmring_server.web.request import IdOf, Request

CallId = Annotated[UUID, IdOf("Call")]


class PriceList(TypedDict):
    """The prices of a model, in order of precedence; `per`: the number of units a rate is for."""

    currency: Literal["USD"]
    per: dict[str, int]
    prices: list[PriceDetail]


async def list_prices(request: Request, query: PriceQuery) -> Annotated[PriceList, NotFound]:
    """List the prices of a model, in order of precedence."""
    prices = await request.ring.pricing.find(query)
    return {"currency": "USD", "per": UNITS_PER_PRICE, "prices": prices}


async def explain_cost(request: Request, id: CallId) -> CostExplanation:
    """Explain the cost of a call, line by line."""
    return await request.ring.pricing.explain(request.project_id, id)
