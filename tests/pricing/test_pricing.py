"""Pricing: the price book, overrides, and the explained cost of a call, also over HTTP."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import NotFound
from llmring_server.pricing.models import PriceQuery
from llmring_server.pricing.service import MAX_UNPRICED_MODELS
from llmring_server.pricing.sources import PriceOverride
from llmring_server.usage.models import NewCall
from tests.conftest import CALL

NOW = datetime.now(UTC)
ANTHROPIC = {
    "provider": "anthropic",
    "model": "claude-sonnet-4-5-20250929",
    "input_tokens": 10,
    "output_tokens": 200,
    "cached_input_tokens": 4000,
    "cache_creation_input_tokens": 300,
    "cache_creation_1h_input_tokens": 100,
    "web_searches": 2,
}
# One call of each model, and two of the first.
UNPRICED_CALLS = """
INSERT INTO {{tables.usage_logs}} (
    project_id, logged_at, id, input_tokens, output_tokens, cached_input_tokens, cost_source,
    status, provider, model, profile, metadata
)
SELECT gen_random_uuid(), now(), gen_random_uuid(), 1, 1, 0, 'unpriced', 'ok',
       'acme', 'm' || greatest(n, 1), 'default', '{}'
FROM generate_series(0, $1::integer) AS n
"""


@pytest.fixture
def model() -> str:
    """A model that no other test uses."""
    return f"m-{uuid4().hex}"


def override(model: str, usd: float | str, **fields: Any) -> list[PriceOverride]:
    rates = {"input": usd, "output": usd}
    return [
        PriceOverride.model_validate({"provider": "acme", "model": model, "rates": rates} | fields)
    ]


def call(model: str, **fields: Any) -> NewCall:
    tokens = {"input_tokens": 10**6, "output_tokens": 0}
    return NewCall.model_validate({"provider": "acme", "model": model} | tokens | fields)


async def explained(client: httpx.AsyncClient, **call: Any) -> dict[str, Any]:
    logged = await client.post("/api/v1/log", json=call)
    assert logged.status_code == 200, logged.text
    response = await client.get(f"/api/v1/logs/{logged.json()['log_id']}/cost")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_explain_cost_lists_every_kind_of_usage(client: httpx.AsyncClient) -> None:
    found = await explained(client, **ANTHROPIC)
    assert (found["currency"], found["cost_source"], found["adjustments"]) == ("USD", "offline", [])
    assert found["price"]["model"] == "claude-sonnet-4-5"
    assert found["price"]["version"].startswith("genai-prices ")
    lines = {line["kind"]: (line["quantity"], line["unit_price"]) for line in found["lines"]}
    assert lines == {
        "input": (10, 3), "cache_read": (4000, 0.3), "cache_write": (200, 3.75),
        "cache_write_1h": (100, 6), "output": (200, 15), "web_search": (2, 10),
    }  # fmt: skip
    assert found["cost"] == pytest.approx(sum(line["amount"] for line in found["lines"]))
    [log] = (await client.get("/api/v1/logs")).json()
    assert log["details"] == {key: ANTHROPIC[key] for key in list(ANTHROPIC)[5:]}
    assert (log["cost"], log["adjustment"]) == (found["cost"], 0)


async def test_explain_cost_has_no_lines_for_a_reported_cost_or_an_unpriced_call(
    client: httpx.AsyncClient, model: str
) -> None:
    for more, cost, source in (({"cost": 0.5}, 0.5, "client"), ({"model": model}, 0, "unpriced")):
        found = await explained(client, **CALL | more)
        assert (found["cost"], found["cost_source"]) == (cost, source)
        assert (found["lines"], found["price"]) == ([], None)


async def test_explain_cost_of_another_project_is_not_found(client: httpx.AsyncClient) -> None:
    log_id = (await client.post("/api/v1/log", json=CALL)).json()["log_id"]
    other = {"X-API-Key": uuid4().hex}
    for path, headers in ((log_id, other), (str(uuid4()), {}), ("nonsense", {})):
        response = await client.get(f"/api/v1/logs/{path}/cost", headers=headers)
        assert (response.status_code, response.json()["detail"]) == (404, "Call not found")


async def test_a_service_tier_has_its_own_prices_or_none(client: httpx.AsyncClient) -> None:
    costs = {
        tier: (await client.post("/api/v1/log", json=CALL | {"service_tier": tier})).json()
        for tier in (None, "default", "batch", "tomorrow")
    }
    assert costs[None]["cost"] == costs["default"]["cost"] == 2 * costs["batch"]["cost"] > 0
    assert costs["tomorrow"]["cost_source"] == "unpriced"


async def test_impossible_token_counts_are_rejected(client: httpx.AsyncClient) -> None:
    for more in ({"audio_input_tokens": 1001}, {"cache_creation_1h_input_tokens": 1}):
        for cost in ({}, {"cost": 1}):
            response = await client.post("/api/v1/log", json=CALL | more | cost)
            assert response.status_code == 422, response.text
    assert (await client.get("/api/v1/logs")).json() == []


async def test_list_prices_returns_the_prices_of_a_model(client: httpx.AsyncClient) -> None:
    query = {"provider": "openai", "model": "gpt-4o-mini"}
    found = (await client.get("/api/v1/prices", params=query)).json()
    assert (found["currency"], found["per"]["input"]) == ("USD", 10**6)
    [price] = found["prices"]
    assert (price["source"], price["rates"]["input"]) == ("offline", "0.15")
    for more, status in (({"model": "x"}, 404), ({"at": "soon"}, 422), ({"model": ""}, 422)):
        response = await client.get("/api/v1/prices", params=query | more)
        assert response.status_code == status, response.text


async def test_an_override_takes_precedence_from_its_date_on(
    ring: Ring, project_id: ProjectId, model: str
) -> None:
    await ring.pricing.override(override(model, "1.5"), actor=LIBRARY)
    await ring.pricing.override(
        override(model, 2, valid_from=NOW - timedelta(days=1)), actor=LIBRARY
    )
    await ring.pricing.override(override(model, 3, service_tier="batch"), actor=LIBRARY)
    entries = [
        call(model),
        call(model, logged_at=NOW - timedelta(days=2)),
        call(model, service_tier="batch"),
    ]
    logged = [await ring.usage.log(project_id, entry) for entry in entries]
    assert [(each.cost, each.cost_source) for each in logged] == [
        (Decimal(usd), "override") for usd in ("2", "1.5", "3")
    ]
    assert [price.model for price in await ring.pricing.overrides()].count(model) == 3
    assert await ring.pricing.withdraw("Acme", model, actor=LIBRARY) == 3
    with pytest.raises(NotFound):
        await ring.pricing.find(PriceQuery(provider="acme", model=model))


async def test_explain_cost_after_its_price_was_deleted(
    ring: Ring, project_id: ProjectId, model: str
) -> None:
    await ring.pricing.override(override(model, 2), actor=LIBRARY)
    logged = await ring.usage.log(project_id, call(model))
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)
    found: Any = await ring.pricing.explain(project_id, logged.log_id)
    assert [(line.unit_price, line.amount) for line in found.lines] == [(2, 2)]


async def test_a_price_is_stored_again_after_a_rollback(
    settings: Settings, project_id: ProjectId, model: str
) -> None:
    # One connection: asking for another inside the transaction would wait forever.
    alone = {"database_pool_size": 1, "database_pool_overflow": 0}
    async with Ring.open(settings.model_copy(update=alone)) as ring:
        await ring.pricing.override(override(model, 2), actor=LIBRARY)
        async with ring.db.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await ring.within(connection).usage.log(project_id, call(model))
            await transaction.rollback()
        logged = await ring.usage.log(project_id, call(model))
        assert (await ring.pricing.explain(project_id, logged.log_id)).price is not None


async def test_a_bounded_number_of_unpriced_models_is_listed(alone: Ring) -> None:
    await alone.db.execute(UNPRICED_CALLS, MAX_UNPRICED_MODELS + 1)
    models = await alone.pricing.unpriced(datetime.now(UTC) - timedelta(days=1))
    assert len(models) == MAX_UNPRICED_MODELS
    assert (models[0].model, models[0].calls, models[-1].calls) == ("m1", 2, 1)
