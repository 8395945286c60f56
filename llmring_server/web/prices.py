"""What models cost, and why a call cost what it did."""

from typing import Any
from uuid import UUID

from llmring_server.errors import NotFound
from llmring_server.explanation import Explanation
from llmring_server.prices import Sought
from llmring_server.rates import PER
from llmring_server.web.call import Call


async def prices(call: Call) -> dict[str, Any]:
    found = await call.ring.prices.find(call.query(Sought))
    return {"currency": "USD", "per": PER, "prices": found}


async def explain(call: Call) -> Explanation:
    try:
        id = UUID(call.scope["path_params"]["id"])
    except ValueError as exc:
        raise NotFound from exc
    return await call.ring.prices.explain(call.tenant, id)
