"""Statistics of many labels: the most expensive ones by name, and the exact sum of the others."""

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest
from llmring_server.usage.models import NewCall
from llmring_server.usage.stats import MAX_LABELS, LabelTotals, StatsQuery, UsageStats
from tests.conftest import CALL

KINDS = ("model", "provider", "origin", "alias", "profile")
COUNTERS = (
    "requests",
    "errors",
    "cost",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "unknown_usage_requests",
)

# Of the day before yesterday: one row for each label and grain, as if moved there from recent sums.
SEED_ROLLUPS = """
INSERT INTO {{tables.usage_rollups}} (
    project_id, minutes, bucket, label_kind, label, provider, requests, errors, unpriced,
    cost, input_tokens, output_tokens, cached_input_tokens, unknown_usage
)
SELECT
    $1, minutes, date_bin('1 day', now(), 'epoch') - interval '48 hours',
    kind, label, CASE WHEN kind = 'model' THEN 'p' || n % 600 ELSE '' END,
    sum(1 + n % 3), sum(n % 2), sum(n % 3), sum(n * 0.0000000001), sum(n), sum(2 * n),
    sum(n % 7), sum(n % 5)
FROM generate_series(1, $2::integer) AS n
CROSS JOIN (VALUES (15), (1440)) AS grain (minutes)
CROSS JOIN LATERAL (
    VALUES ('model', 'model-' || n), ('alias', 'alias-' || n), ('origin', 'origin-' || n),
           ('profile', 'profile-' || n % 100)
) AS by_kind (kind, label)
GROUP BY 2, 3, 4, 5, 6
"""
SEED_DAYS = """
INSERT INTO {{tables.usage_rollups}} (
    project_id, minutes, bucket, label_kind, label, provider, requests, errors, unpriced,
    cost, input_tokens, output_tokens, cached_input_tokens
)
SELECT $1, 1440, date_bin('1 day', now(), 'epoch') - day * interval '24 hours',
       'model', 'm', 'p', 1, 0, 0, 1, 0, 0, 0
FROM generate_series(1, $2::integer) AS day
"""


def labels_of(stats: UsageStats) -> dict[str, dict[str, LabelTotals]]:
    return {kind: getattr(stats, f"by_{kind}") for kind in KINDS}


def sums(totals: Iterable[LabelTotals]) -> dict[str, Decimal]:
    labels = list(totals)
    return {name: sum((getattr(each, name) for each in labels), Decimal()) for name in COUNTERS}


async def test_60000_labels_are_named_up_to_a_bound_and_add_up(
    ring: Ring, project_id: ProjectId
) -> None:
    await ring.db.execute(SEED_ROLLUPS, project_id, 20_000)
    # A range that ends now has these from recent sums, and one that ends with them from calls.
    recent = [
        CALL | {"model": f"new-{n}", "alias": "new", "origin": "new", "cost": Decimal(n)}
        for n in range(1, 4)
    ]
    await ring.usage.log_many(project_id, [NewCall(**call) for call in recent])
    unpriced = CALL | {"model": "unpriced", "alias": "unpriced", "origin": "unpriced"}
    last = (await ring.usage.log(project_id, NewCall(**unpriced))).timestamp
    since = last - timedelta(days=4)

    stats = await ring.usage.stats(project_id, StatsQuery(start_date=since))
    of_calls = await ring.usage.stats(project_id, StatsQuery(start_date=since, end_date=last))

    assert of_calls == stats
    n = 20_000
    summary = stats.summary
    assert summary.unique_models == n + 4
    assert summary.unique_origins == n + 2
    assert summary.total_cost == Decimal(n * (n + 1) // 2).scaleb(-10) + 1 + 2 + 3
    assert stats.truncated == {
        "by_model": n + 4 - MAX_LABELS,
        "by_alias": n + 2 - MAX_LABELS,
        "by_origin": n + 2 - MAX_LABELS,
        "by_provider": 601 - MAX_LABELS,
    }
    totals = {kind: sums(labels.values()) for kind, labels in labels_of(stats).items()}
    assert all(total == totals["model"] for total in totals.values())
    assert totals["model"]["requests"] == summary.total_requests
    assert totals["model"]["errors"] == summary.total_errors
    assert totals["model"]["cost"] == summary.total_cost
    assert summary.unpriced_requests == 1 + sum(each % 3 for each in range(n + 1))
    assert totals["model"]["unknown_usage_requests"] == summary.unknown_usage_requests
    tokens = totals["model"]["input_tokens"] + totals["model"]["output_tokens"]
    assert tokens == summary.total_tokens
    most_expensive = ["new-3", "new-2", "new-1", *(f"model-{n - each}" for each in range(497))]
    assert list(stats.by_model) == [*most_expensive, "(other)"]
    assert len(stats.model_dump_json()) < 512 * 1024


async def test_labels_are_ranked_by_cost_then_calls_then_name(
    ring: Ring, project_id: ProjectId
) -> None:
    for model, costs in {"a": "3", "b": "21", "c": "12", "d": "5", "Z": "3"}.items():
        calls = [CALL | {"model": model, "cost": Decimal(cost)} for cost in costs]
        await ring.usage.log_many(project_id, [NewCall(**call) for call in calls])
    for top, names in ((5, "dbcZa"), (4, "dbcZ"), (3, "dbc"), (1, "d")):
        stats = await ring.usage.stats(project_id, StatsQuery(top=top))
        expected = list(names) if top == 5 else [*names, "(other)"]
        assert list(stats.by_model) == expected
        assert stats.truncated == ({} if top == 5 else {"by_model": 5 - top})
        assert sums(stats.by_model.values())["cost"] == stats.summary.total_cost == 17
        assert stats.summary.unique_models == 5


async def test_a_label_called_other_is_counted_among_the_others(
    ring: Ring, project_id: ProjectId
) -> None:
    costs = {"(other)": Decimal(9), "a": Decimal(2), "b": Decimal(1)}
    calls = [CALL | {"model": model, "cost": cost} for model, cost in costs.items()]
    await ring.usage.log_many(project_id, [NewCall(**call) for call in calls])
    stats = await ring.usage.stats(project_id)
    assert {name: totals.cost for name, totals in stats.by_model.items()} == costs
    assert (list(stats.by_model)[-1], stats.truncated) == ("(other)", {"by_model": 1})
    stats = await ring.usage.stats(project_id, StatsQuery(top=1))
    assert {name: totals.cost for name, totals in stats.by_model.items()} == {"a": 2, "(other)": 10}
    assert stats.truncated == {"by_model": 2}


@pytest.mark.parametrize("top", ["0", "501", "-1", "1.5", "all"])
async def test_a_report_names_1_to_500_labels(client: httpx.AsyncClient, top: str) -> None:
    assert (await client.get(f"/api/v1/stats?top={top}")).status_code == 422


async def test_a_report_without_many_labels_is_not_truncated(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/log", json=CALL | {"model": "m"})
    stats = (await client.get("/api/v1/stats?top=1")).json()
    assert (stats["truncated"], list(stats["by_model"])) == ({}, ["m"])


async def test_a_report_has_a_bounded_number_of_periods(ring: Ring, project_id: ProjectId) -> None:
    await ring.db.execute(SEED_DAYS, project_id, 36_500)
    ages = {"start_date": "1970-01-01", "end_date": "2200-01-01"}
    with pytest.raises(InvalidRequest, match="3,660 periods"):
        await ring.usage.stats(project_id, StatsQuery(**ages))
    stats = await ring.usage.stats(project_id, StatsQuery(**ages, group_by="month"))
    assert sum(period.requests for period in stats.by_day) == stats.summary.total_requests
    assert stats.summary.total_requests > 20_000
