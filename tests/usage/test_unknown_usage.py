"""Calls whose client does not know what they used: counted apart, and never free."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.pricing.rerating import RerateFilter
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.pricing.test_pricing import override

NULLS: dict[str, Any] = {"input_tokens": None, "output_tokens": None}
UNKNOWN: dict[str, Any] = CALL | NULLS


@pytest.mark.parametrize(
    ("usage", "known"),
    [
        (NULLS, False),
        (NULLS | {"cached_input_tokens": None}, False),
        (NULLS | {"cached_input_tokens": 0}, False),
        # These are parts of the tokens that are unknown.
        (NULLS | {"cached_input_tokens": 5, "audio_input_tokens": 9}, False),
        (NULLS | {"web_searches": 2}, False),
        (NULLS | {"service_tier": "batch"}, False),
        # Whoever gave up does not know what was used, and may be billed for it.
        (NULLS | {"status": "cancelled"}, False),
        (NULLS | {"status": "timeout"}, False),
        # A request that failed used nothing.
        (NULLS | {"status": "error"}, True),
        # A count that is given is known.
        ({"input_tokens": 0, "output_tokens": 0}, True),
        # Embeddings have no output.
        ({"input_tokens": 7, "output_tokens": None}, True),
        ({"input_tokens": None, "output_tokens": 7}, True),
        ({"input_tokens": 0, "output_tokens": None}, True),
    ],
)
async def test_usage_is_unknown_if_neither_count_is_known(
    client: httpx.AsyncClient,
    usage: dict[str, Any],
    known: bool,  # noqa: FBT001, a parameter of the table
) -> None:
    logged = await client.post("/api/v1/log", json=CALL | usage)
    assert logged.status_code == 200, logged.text
    if not known:
        assert (logged.json()["cost"], logged.json()["cost_source"]) == (0, "unpriced")
    [call] = (await client.get("/api/v1/logs")).json()
    tokens = ("input_tokens", "output_tokens")
    assert call["usage_known"] is known
    assert [call[name] for name in tokens] == [usage[name] or 0 for name in tokens]
    export = await client.get("/api/v1/logs/export?format=jsonl")
    exported = json.loads(export.text)
    assert exported["usage_known"] is known
    assert [exported[name] for name in tokens] == [call[name] if known else None for name in tokens]
    stats = (await client.get("/api/v1/stats")).json()
    assert stats["summary"]["usage_known"] is known
    assert stats["summary"]["unknown_usage_requests"] == (not known)
    assert stats["by_model"][CALL["model"]]["unknown_usage_requests"] == (not known)
    assert stats["summary"]["total_tokens"] == sum(call[name] for name in tokens)


async def test_a_failed_call_without_usage_costs_nothing(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/log", json=UNKNOWN | {"status": "error"})
    [call] = (await client.get("/api/v1/logs")).json()
    assert (call["cost"], call["usage_known"]) == (0, True)


async def test_unknown_usage_with_a_cost_is_priced(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/log", json=UNKNOWN | {"cost": 0.5})
    summary = (await client.get("/api/v1/stats")).json()["summary"]
    assert (summary["total_cost"], summary["unpriced_requests"]) == ("0.5", 0)
    assert summary["unknown_usage_requests"] == 1


async def test_a_csv_export_leaves_unknown_usage_empty(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/logs/batch", json=[UNKNOWN, CALL])
    export = await client.get("/api/v1/logs/export")
    rows = list(csv.DictReader(io.StringIO(export.text, newline="")))
    assert sorted((row["input_tokens"], row["usage_known"]) for row in rows) == [
        ("", "false"),
        ("1000", "true"),
    ]


async def test_unknown_usage_is_counted_before_and_after_sums_are_moved(
    ring: Ring, project_id: ProjectId
) -> None:
    now = datetime.now(UTC)
    # In the calls, in recent sums, in rollups by quarter hour and by day.
    for ago in (timedelta(0), timedelta(hours=2), timedelta(days=3)):
        calls = [UNKNOWN | {"logged_at": now - ago}, CALL | {"logged_at": now - ago}]
        await ring.usage.log_many(project_id, [NewCall(**call) for call in calls])
    before = await ring.usage.stats(project_id)
    await ring.rollups.move_to_rollups()
    assert await ring.usage.stats(project_id) == before
    summary = before.summary
    assert (summary.total_requests, summary.unknown_usage_requests) == (6, 3)
    assert (summary.unpriced_requests, summary.total_tokens) == (3, 3600)


async def test_rerating_leaves_unknown_usage_unpriced(ring: Ring, project_id: ProjectId) -> None:
    model = f"m-{uuid4().hex}"
    call = {"provider": "acme", "model": model}
    await ring.usage.log_many(project_id, [NewCall(**CALL | NULLS | call), NewCall(**CALL | call)])
    await ring.pricing.override(override(model, 1), actor=LIBRARY)
    now = datetime.now(UTC)
    window = RerateFilter(now - timedelta(days=1), now + timedelta(days=1), model)
    assert await ring.rerating.run(window, actor=LIBRARY) == 1
    summary = (await ring.usage.stats(project_id)).summary
    assert (summary.unpriced_requests, summary.unknown_usage_requests) == (1, 1)
    assert summary.total_cost == Decimal("0.0012")
    # No price is missing: with its usage, the call would have one.
    unpriced = await ring.pricing.unpriced(now - timedelta(days=1))
    assert model not in {each.model for each in unpriced}


async def test_the_cost_of_unknown_usage_can_be_explained(client: httpx.AsyncClient) -> None:
    logged = (await client.post("/api/v1/log", json=UNKNOWN)).json()
    explained = (await client.get(f"/api/v1/logs/{logged['log_id']}/cost")).json()
    assert (explained["cost_source"], explained["lines"]) == ("unpriced", [])


async def test_an_exchange_without_usage_is_a_call_with_unknown_usage(
    client: httpx.AsyncClient,
) -> None:
    exchange = {
        "messages": [{"role": "user", "content": "hi"}],
        "response": {"content": "hello", "model": "gpt-4o-mini"},
        "metadata": {"provider": "openai", "model": "gpt-4o-mini"},
    }
    assert (await client.post("/api/v1/conversations/log", json=exchange)).status_code == 200
    [call] = (await client.get("/api/v1/logs")).json()
    assert (call["usage_known"], call["cost_source"]) == (False, "unpriced")
