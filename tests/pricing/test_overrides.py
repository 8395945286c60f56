"""Price overrides: what is accepted, and what they apply to."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.pricing.sources import OVERRIDES
from tests.pricing.test_pricing import call, override


@pytest.fixture
def model() -> str:
    return f"m-{uuid4().hex}"


@pytest.mark.parametrize(
    "invalid",
    [
        {"rates": {}},
        {"rates": {"input": -1}},
        {"rates": {"input": "NaN"}},
        {"rates": {"inputs": 1}},
        {"rates": {"input": {"base": 1, "above": {"0": 2}}}},
        {"provider": ""},
        {"valid_from": "2026-01-01T00:00:00"},
        {"tier": "batch"},
    ],
    ids=str,
)
def test_an_invalid_override_is_rejected(invalid: dict[str, Any]) -> None:
    valid = {"provider": "acme", "model": "m", "rates": {"input": 1}}
    assert OVERRIDES.validate_python([valid])
    with pytest.raises(ValidationError):
        OVERRIDES.validate_python([valid | invalid])


async def test_an_override_that_is_rolled_back_prices_no_other_call(
    ring: Ring, project_id: ProjectId, model: str
) -> None:
    async with ring.db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        inside = ring.within(connection)
        await inside.pricing.override(override(model, 2), actor=LIBRARY)
        assert (await inside.usage.log(project_id, call(model))).cost == 2
        assert (await ring.usage.log(project_id, call(model))).cost_source == "unpriced"
        await transaction.rollback()
    assert (await ring.usage.log(project_id, call(model))).cost_source == "unpriced"


@pytest.mark.parametrize("name", ["ft:m-2026-01-01:acme::abc", "acme:m", "M-1"])
@pytest.mark.parametrize("tier", [None, "standard"])
async def test_an_override_is_found_by_its_own_name(
    ring: Ring, project_id: ProjectId, name: str, tier: str | None
) -> None:
    await ring.pricing.override(override(name, 7, service_tier=tier), actor=LIBRARY)
    assert (await ring.usage.log(project_id, call(name, service_tier=tier))).cost == 7
    await ring.pricing.withdraw("acme", name, actor=LIBRARY)


async def test_a_long_prompt_may_be_free(ring: Ring, project_id: ProjectId, model: str) -> None:
    rates = {"input": {"base": 1, "above": {"200": 0}}}
    await ring.pricing.override(override(model, 0, rates=rates), actor=LIBRARY)
    costs = [
        (await ring.usage.log(project_id, call(model, input_tokens=tokens))).cost
        for tokens in (200, 201)
    ]
    assert costs == [Decimal("0.0002"), 0]
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)
