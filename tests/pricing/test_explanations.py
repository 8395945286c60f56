"""Explanations add up to the stored cost, also of calls that were priced by an earlier rule."""

from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.usage.models import NewCall
from tests.pricing.test_pricing import override
from tests.pricing.test_rerating import rerate

RATES = {"input": 10, "output": 20, "cache_read": 1, "cache_write": 12, "reasoning": 30}
TOKENS: dict[str, Any] = {"input_tokens": 5000, "output_tokens": 1000}


class StoredBefore(NamedTuple):
    """A call, what an earlier version computed for it, and what it costs now."""

    provider: str
    model: str
    parts: dict[str, int]
    earlier: str
    now: str


async def log_at_cost(
    ring: Ring, owner: AsyncDatabaseManager, project_id: ProjectId, stored: StoredBefore
) -> UUID:
    """Log a call, and give it the cost that an earlier version computed for it."""
    call = {"provider": stored.provider, "model": stored.model} | TOKENS | stored.parts
    logged = await ring.usage.log(project_id, NewCall.model_validate(call))
    update = "UPDATE {{tables.usage_logs}} SET cost = $1 WHERE project_id = $2 AND id = $3"
    await owner.execute(update, Decimal(stored.earlier), project_id, logged.log_id)
    return logged.log_id


@pytest.mark.parametrize(
    "stored",
    [
        # The cached tokens were taken for a part of the input: 2000 x 10 + 3000 x 1 + 1000 x 20.
        StoredBefore("aws.bedrock", "claude-x", {"cached_input_tokens": 3000}, "0.043", "0.073"),
        StoredBefore("azure", "claude-x", {"cached_input_tokens": 3000}, "0.043", "0.073"),
        # They were not: 5000 x 10 + 3000 x 1 + 1000 x 20.
        StoredBefore("bedrock", "openai.gpt-x", {"cached_input_tokens": 3000}, "0.073", "0.043"),
        # 5000 x 10 + 400 x 20 + 600 x 30, or + 1000 x 20 + 600 x 30.
        StoredBefore("xai", "grok-x", {"reasoning_output_tokens": 600}, "0.076", "0.088"),
        StoredBefore(
            "azure",
            "claude-x",
            {"cached_input_tokens": 3000, "cache_creation_input_tokens": 1000},
            # 1000 x 10 + 3000 x 1 + 1000 x 12 + 1000 x 20, or 5000 x 10 + the same.
            "0.045",
            "0.085",
        ),
    ],
)
async def test_the_explanation_of_a_stored_call_adds_up_to_its_stored_cost(
    ring: Ring, owner: AsyncDatabaseManager, project_id: ProjectId, stored: StoredBefore
) -> None:
    provider, model, _, earlier, now = stored
    await ring.pricing.override(override(model, 0, provider=provider, rates=RATES), actor=LIBRARY)
    log_id = await log_at_cost(ring, owner, project_id, stored)
    found = await ring.pricing.explain(project_id, log_id)
    assert (found.cost, sum(line.amount for line in found.lines)) == (Decimal(earlier),) * 2
    assert found.assumptions[0].startswith("The call was priced by an earlier rule")
    # Re-rating applies the present rule, and the explanation follows.
    [change] = await rerate(ring, model)
    assert (change.before, change.quote.cost) == (Decimal(earlier), Decimal(now))
    found = await ring.pricing.explain(project_id, log_id)
    assert (found.cost, sum(line.amount for line in found.lines)) == (Decimal(now),) * 2
    assert not found.assumptions[0].startswith("The call was priced by an earlier rule")
    await ring.pricing.withdraw(provider, model, actor=LIBRARY)


async def test_the_explanation_uses_the_price_of_the_call_whatever_the_book_says_now(
    ring: Ring, project_id: ProjectId
) -> None:
    await ring.pricing.override(override("m-then", 2), actor=LIBRARY)
    call = NewCall(provider="acme", model="m-then", **TOKENS)
    logged = await ring.usage.log(project_id, call)
    later = override("m-then", 3, valid_from=logged.timestamp - timedelta(hours=1))
    await ring.pricing.override(later, actor=LIBRARY)
    found = await ring.pricing.explain(project_id, logged.log_id)
    assert found.cost == sum(line.amount for line in found.lines) == Decimal("0.012")
    assert found.price
    assert found.price.rates["input"] == "2"
    # What the sources say is as of today: the override of now would price it.
    assert [source.prices_the_call for source in found.sources] == [True, False, False]
    await ring.pricing.withdraw("acme", "m-then", actor=LIBRARY)
