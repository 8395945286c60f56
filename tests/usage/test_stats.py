from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.usage.models import CallPage, NewCall
from llmring_server.usage.stats import StatsQuery, window_segments
from tests.conftest import CALL

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
RECENT = (NOW - 20 * DAY).date().isoformat()


def entry(model: str = "a", cost: str = "1", ago: timedelta = timedelta(), **more: Any) -> NewCall:
    return NewCall(**CALL | {"model": model, "cost": Decimal(cost), "logged_at": NOW - ago} | more)


@pytest.mark.parametrize("given", [{}, {"tz": "Asia/Tokyo"}, {"start_date": RECENT}])
def test_what_is_not_asked_for_by_the_minute_reads_no_call_by_itself(given: dict[str, str]) -> None:
    before = datetime.now(UTC)
    cuts = StatsQuery.model_validate(given).cuts()
    assert cuts.since == cuts.quarters_since
    assert cuts.until == cuts.quarters_until
    assert cuts.until >= before
    assert timedelta(days=400) >= cuts.until - cuts.since


@pytest.mark.parametrize("given", [{}, {"start_date": RECENT}, {"end_date": NOW.isoformat()}])
def test_statistics_and_lists_are_of_the_same_calls(given: dict[str, str]) -> None:
    # A quarter may end between two of them.
    first, ours, last = [
        kind.model_validate(given).bounds() for kind in (CallPage, StatsQuery, CallPage)
    ]
    assert ours in {first, last}


async def test_stats_of_nothing_are_all_there_and_zero(client: httpx.AsyncClient) -> None:
    stats = (await client.get("/api/v1/stats")).json()
    assert stats["summary"] == {
        "total_requests": 0,
        "total_errors": 0,
        "unpriced_requests": 0,
        "total_cost": "0",
        "total_adjustment": "0",
        "total_tokens": 0,
        "unique_models": 0,
        "unique_origins": 0,
    }
    assert stats["by_day"] == []
    assert all(
        stats[f"by_{label}"] == {} for label in ("model", "provider", "origin", "alias", "profile")
    )


async def test_stats_of_a_day_are_those_of_the_whole_day(client: httpx.AsyncClient) -> None:
    for model, cost in (("a", 1), ("a", 1), ("b", 3)):
        call = CALL | {"model": model, "cost": cost, "origin": "o", "logged_at": NOW.isoformat()}
        await client.post("/api/v1/log", json=call)
    stats = (await client.get("/api/v1/stats")).json()
    [day] = stats["by_day"]
    assert day | {"date": ""} == {
        "date": "",
        "requests": 3,
        "errors": 0,
        "cost": "5",
        "top_model": "a",
    }
    assert stats["by_model"]["a"]["cost"] == "2"
    assert stats["by_model"]["b"]["input_tokens"] == 1000
    assert stats["by_origin"]["o"]["cost"] == 5
    assert stats["by_alias"] == {}


async def test_stats_add_tenths_exactly(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log_many(project_id, [entry(cost="0.1"), entry(cost="0.2")])
    assert (await ring.usage.stats(project_id)).summary.total_cost == Decimal("0.3")


async def test_stats_add_more_tokens_than_a_bigint_holds(ring: Ring, project_id: ProjectId) -> None:
    most = 2**53 - 1
    calls = [entry(input_tokens=most, output_tokens=most) for _ in range(1100)]
    await ring.usage.log_many(project_id, calls)
    assert (await ring.usage.stats(project_id)).summary.total_tokens == 2200 * most > 2**63


async def test_stats_count_errors_in_requests_and_apart(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log_many(
        project_id, [entry(), entry(status="timeout"), entry(status="cancelled")]
    )
    summary = (await ring.usage.stats(project_id)).summary
    assert (summary.total_requests, summary.total_errors) == (3, 2)


async def test_stats_are_grouped_by_day_week_and_month(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log_many(project_id, [entry(ago=DAY * n) for n in range(120)])
    span = {"start_date": (NOW - DAY * 119).isoformat(), "end_date": NOW.isoformat()}
    for grain, least, most in (("day", 120, 120), ("week", 17, 19), ("month", 4, 5)):
        stats = await ring.usage.stats(project_id, StatsQuery(**span, group_by=grain))
        assert least <= len(stats.by_day) <= most
        assert sum(bucket.requests for bucket in stats.by_day) == 120
        dates = [bucket.date for bucket in stats.by_day]
        assert dates == sorted(dates, reverse=True)


def turns(tz: str) -> list[datetime]:
    """Return when clocks were turned in the last 390 days, to the hour."""
    hour = NOW.replace(minute=0, second=0, microsecond=0)
    hours = [hour - timedelta(hours=n) for n in range(390 * 24)]
    offsets = [each.astimezone(ZoneInfo(tz)).utcoffset() for each in hours]
    return [hours[n] for n, (a, b) in enumerate(pairwise(offsets)) if a != b]


@pytest.mark.parametrize(
    ("tz", "least"),
    [
        ("UTC", 0),
        ("Asia/Kathmandu", 0),
        ("America/New_York", 2),
        ("Europe/Berlin", 2),
        ("Australia/Lord_Howe", 2),
    ],
)
@pytest.mark.parametrize("grain", ["hour", "day"])
async def test_stats_put_a_call_into_its_local_hour_and_day(
    ring: Ring, project_id: ProjectId, tz: str, least: int, grain: str
) -> None:
    form = "%Y-%m-%dT%H:00" if grain == "hour" else "%Y-%m-%d"
    turned = turns(tz)
    assert len(turned) >= least
    # The calls of a later turn are those of the last two days.
    for end in (NOW, *(turn + timedelta(hours=18) for turn in turned if NOW - turn > 3 * DAY)):
        moments = [end - timedelta(minutes=7 * n) for n in range(300)]
        await ring.usage.log_many(project_id, [entry(logged_at=moment) for moment in moments])
        expected = Counter(moment.astimezone(ZoneInfo(tz)).strftime(form) for moment in moments)
        span = {"start_date": moments[-1].isoformat(), "end_date": end.isoformat()}
        stats = await ring.usage.stats(project_id, StatsQuery(**span, group_by=grain, tz=tz))
        assert {bucket.date: bucket.requests for bucket in stats.by_day} == expected


async def test_stats_include_both_ends_of_the_window(client: httpx.AsyncClient) -> None:
    logged = (await client.post("/api/v1/log", json=CALL)).json()["timestamp"]
    both = {"start_date": logged, "end_date": logged}
    assert (await client.get("/api/v1/stats", params=both)).json()["summary"]["total_requests"] == 1
    today = {"start_date": logged[:10], "end_date": logged[:10]}
    assert (await client.get("/api/v1/stats", params=today)).json()["summary"][
        "total_requests"
    ] == 1


@pytest.mark.parametrize(
    "query",
    [
        "start_date=zzz",
        "start_date=2026-02-30",
        "start_date=2026-01-01T00:00:00+02:00",  # a plus that was not encoded is a space
        "end_date=9999-12-31T23:59:59-23:59",
        "start_date=0001-01-01T00:00%2B14:00",
        "start_date=2026-02-01&end_date=2026-01-01",
        "start_date=2024-01-01&end_date=2026-01-01",
        "group_by=year",
        "group_by=day&group_by=day",
        "group_by=hour&start_date=2026-01-01&end_date=2026-03-01",
        "tz=Mars/Olympus",
        "tz=../../etc/passwd",
        "tz=%00",
    ],
)
async def test_stats_explain_what_is_wrong_with_a_window(
    client: httpx.AsyncClient, query: str
) -> None:
    answer = await client.get(f"/api/v1/stats?{query}")
    assert (answer.status_code, answer.json()["status"]) == (422, 422)
    assert answer.json()["detail"]


moments = st.datetimes(
    min_value=datetime(2026, 1, 1),  # noqa: DTZ001, made aware below
    max_value=datetime(2026, 3, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(moments, moments, st.sampled_from(["days", "quarters"]))
def test_cuts_cover_the_window_once_and_on_their_grain(a: datetime, b: datetime, kind: str) -> None:
    cuts = window_segments(min(a, b), max(a, b), days=kind == "days")
    assert list(cuts) == sorted(cuts)
    assert (cuts.since, cuts.until) == (min(a, b), max(a, b))
    if cuts.quarters_since < cuts.quarters_until:
        assert cuts.quarters_since.minute % 15 == cuts.quarters_until.minute % 15 == 0
        assert cuts.quarters_since - cuts.since < timedelta(minutes=15)
    if cuts.days_since < cuts.days_until:
        assert cuts.days_since.hour == cuts.days_until.hour == 0
