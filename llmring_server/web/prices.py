"""What models cost, and why a call cost what it did."""

from typing import Annotated, Literal
from uuid import UUID

from typing_extensions import TypedDict

from llmring_server.errors import NotFound
from llmring_server.explanation import Explanation, Listed
from llmring_server.prices import Sought
from llmring_server.rates import PER
from llmring_server.web.call import Call


class Found(TypedDict):
    """The prices of a model, the one in force first; `per`: how many units a rate is for."""

    currency: Literal["USD"]
    per: dict[str, int]
    prices: list[Listed]


async def prices(call: Call, query: Sought) -> Annotated[Found, NotFound]:
    """Tell what a model costs, by each source that has a price."""
    found = await call.ring.prices.find(query)
    return {"currency": "USD", "per": PER, "prices": found}


async def explain(call: Call, id: UUID) -> Explanation:
    """Explain what a call costs, line by line."""
    return await call.ring.prices.explain(call.tenant, id)
