"""Providers by many names: statistics and filters know the normal one, the row keeps its own."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.pricing.rerating import RerateFilter
from llmring_server.usage.models import CallFilter, NewCall
from tests.conftest import CALL
from tests.pricing.test_pricing import override

NAMES = ["bedrock", "aws.bedrock", "AWS_Bedrock", "amazon-bedrock", "bedrock_converse"]
HOURS_AGO = datetime.now(UTC) - timedelta(hours=3)


async def test_statistics_group_by_the_normal_name(ring: Ring, project_id: ProjectId) -> None:
    for logged_at in (None, HOURS_AGO, HOURS_AGO - timedelta(days=2)):
        calls = [
            NewCall(**CALL | {"provider": name, "cost": 1, "logged_at": logged_at})
            for name in [*NAMES, "MyOwn", "openai"]
        ]
        await ring.usage.log_many(project_id, calls)
    before = await ring.usage.stats(project_id)
    assert {name: each.requests for name, each in before.by_provider.items()} == {
        "bedrock": 15,
        "myown": 3,
        "openai": 3,
    }
    await ring.rollups.move_to_rollups()
    assert await ring.usage.stats(project_id) == before
    exported = [call.provider async for call in ring.usage.export(project_id)]
    assert sorted(exported) == sorted([*NAMES, "MyOwn", "openai"] * 3), "as they were sent"


@pytest.mark.parametrize("name", [*NAMES, "Amazon Bedrock"])
async def test_a_filter_matches_every_spelling(client: httpx.AsyncClient, name: str) -> None:
    calls = [CALL | {"provider": sent} for sent in [*NAMES, "openai"]]
    await client.post("/api/v1/logs/batch", json=calls)
    params = {"provider": name}
    listed = (await client.get("/api/v1/logs", params=params)).json()
    assert sorted(call["provider"] for call in listed) == sorted(NAMES)
    export = await client.get("/api/v1/logs/export", params=params | {"format": "jsonl"})
    assert len(export.text.splitlines()) == len(NAMES)


async def test_a_filter_of_an_unknown_provider_ignores_case(
    ring: Ring, project_id: ProjectId
) -> None:
    await ring.usage.log(project_id, NewCall(**CALL | {"provider": "MyOwn"}))
    for name in ("MyOwn", "myown", "MYOWN"):
        found = [call async for call in ring.usage.export(project_id, CallFilter(provider=name))]
        assert [call.provider for call in found] == ["MyOwn"]


async def test_rerating_adjusts_the_sums_of_the_normal_name(
    ring: Ring, project_id: ProjectId
) -> None:
    model = f"m-{project_id}"
    call = {"provider": "ACME", "model": model, "logged_at": HOURS_AGO}
    await ring.usage.log(project_id, NewCall(**CALL | call))
    await ring.rollups.move_to_rollups()
    await ring.pricing.override(override(model, 1, provider="ACME"), actor=LIBRARY)
    window = RerateFilter(HOURS_AGO, HOURS_AGO + timedelta(hours=1), model)
    assert await ring.rerating.run(window, actor=LIBRARY) == 1
    stats = await ring.usage.stats(project_id)
    assert stats.by_provider.keys() == {"acme"}
    assert stats.by_provider["acme"].cost == Decimal("0.0012")
    assert stats.summary.unpriced_requests == 0
