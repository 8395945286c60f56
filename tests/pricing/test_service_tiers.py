"""Service tiers as providers, clouds and SDKs spell them."""

from decimal import Decimal
from typing import Any

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.pricing.service_tiers import _SPELLINGS, _without_separators, normal_tier
from tests.pricing.test_pricing import call, override
from tests.pricing.test_token_semantics import explained, log

SPELLINGS = {
    None: "default Default standard STANDARD Standard on_demand ON_DEMAND on-demand onDemand auto"
    " standard_only GlobalStandard SERVICE_TIER_UNSPECIFIED",
    "batch": "batch BATCH Batch batch_api GlobalBatch",
    "flex": "flex FLEX Flex ON_DEMAND_FLEX on-demand-flex",
    "priority": "priority PRIORITY Priority ON_DEMAND_PRIORITY",
    "fast": "fast Fast",
    "provisioned": "PROVISIONED_THROUGHPUT provisioned ProvisionedManaged scale reserved",
    "tomorrow": "tomorrow Tomorrow",
}
# What a million input tokens of gpt-5-mini cost.
USD = {None: "0.25", "batch": "0.125", "flex": "0.125", "priority": "0.45", "fast": "0.45"}


@pytest.mark.parametrize(
    ("tier", "normal"),
    [(tier, normal) for normal, tiers in SPELLINGS.items() for tier in tiers.split()],
)
async def test_every_spelling_of_a_tier_has_its_price(
    client: httpx.AsyncClient, tier: str, normal: str | None
) -> None:
    assert normal_tier(tier) == normal
    tokens = {"input_tokens": 10**6, "output_tokens": 0}
    logged = await log(client, provider="openai", model="gpt-5-mini", service_tier=tier, **tokens)
    usd = USD.get(normal)
    assert Decimal(str(logged["cost"])) == Decimal(usd or 0)
    assert logged["cost_source"] == ("offline" if usd else "unpriced")
    [row] = (await client.get("/api/v1/logs")).json()
    assert row["details"] == {"service_tier": tier}


async def test_provisioned_throughput_is_unpriced_and_says_why(client: httpx.AsyncClient) -> None:
    fields: dict[str, Any] = {"provider": "gcp.vertex_ai", "model": "gemini-2.5-flash"}
    tier = "PROVISIONED_THROUGHPUT"
    logged = await log(client, **fields, input_tokens=10, output_tokens=1, service_tier=tier)
    assert logged["cost_source"] == "unpriced"
    found = await explained(client, logged["log_id"])
    assert {each["reason"] for each in found["sources"]} == {
        "provisioned throughput is paid by the hour, not by the call"
    }


@pytest.mark.parametrize(
    ("set_for", "reported"),
    [("flex", "ON_DEMAND_FLEX"), ("Batch", "batch"), ("PROVISIONED_THROUGHPUT", "provisioned"),
     ("STANDARD", "ON_DEMAND"), ("Gold", "gold"), (None, "Standard")],
)  # fmt: skip
async def test_an_override_is_found_by_any_spelling_of_its_tier(
    ring: Ring, project_id: ProjectId, set_for: str | None, reported: str
) -> None:
    model = f"m-{set_for}-{reported}"
    await ring.pricing.override(override(model, 7, service_tier=set_for), actor=LIBRARY)
    logged = await ring.usage.log(project_id, call(model, service_tier=reported))
    assert logged.cost == 7
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)


def test_no_spelling_has_two_normal_names() -> None:
    spellings = [
        spelling
        for tier, others in _SPELLINGS.items()
        for spelling in {_without_separators(text) for text in (tier or "standard", *others)}
    ]
    assert len(spellings) == len(set(spellings))
    assert [normal_tier(tier) for tier in (None, "", " ", *_SPELLINGS)] == [None] * 3 + [
        *_SPELLINGS
    ]
