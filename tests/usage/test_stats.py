"""Statistics: exact totals, in every time zone, for every range."""

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
from tests.support.reference_ledger import period_of

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
RECENT = (NOW - 20 * DAY).date().isoformat()


def call(model: str = "a", cost: str = "1", ago: timedelta = timedelta(), **more: Any) -> NewCall:
    return NewCall(**CALL | {"model": model, "cost": Decimal(cost), "logged_at": NOW - ago} | more)


@pytest.mark.parametrize("params", [{}, {"tz": "Asia/Tokyo"}, {"start_date": RECENT}])
def test_a_range_without_minutes_is_read_from_sums_only(params: dict[str, str]) -> None:
    before = datetime.now(UTC)
    segments = StatsQuery.model_validate(params).window().segments
    assert segments.since == segments.quarters_since
    assert segments.until == segments.quarters_until
    assert segments.until >= before


@pytest.mark.parametrize("params", [{}, {"start_date": RECENT}, {"end_date": NOW.isoformat()}])
def test_stats_and_lists_cover_the_same_calls(params: dict[str, str]) -> None:
    # A quarter hour may end between two of these lines.
    first, ours, last = [
        model.model_validate(params).bounds() for model in (CallPage, StatsQuery, CallPage)
    ]
    assert ours in {first, last}


async def test_usage_stats_without_calls_are_complete_and_zero(client: httpx.AsyncClient) -> None:
    stats = (await client.get("/api/v1/stats")).json()
    assert stats["summary"] == {
        "total_requests": 0,
        "total_errors": 0,
        "unpriced_requests": 0,
        "unknown_usage_requests": 0,
        "usage_known": True,
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


async def test_usage_stats_total_a_day(client: httpx.AsyncClient) -> None:
    for model, cost in (("a", 1), ("a", 1), ("b", 3)):
        call = CALL | {"model": model, "cost": cost, "origin": "o", "logged_at": NOW.isoformat()}
        await client.post("/api/v1/log", json=call)
    stats = (await client.get("/api/v1/stats")).json()
    [day] = stats["by_day"]
    assert day | {"date": ""} == {
        "date": "",
        "partial": True,
        "requests": 3,
        "errors": 0,
        "cost": "5",
        "top_model": "a",
    }
    assert stats["by_model"]["a"]["cost"] == "2"
    assert stats["by_model"]["b"]["input_tokens"] == 1000
    assert stats["by_origin"]["o"]["cost"] == 5
    assert stats["by_alias"] == {}


async def test_usage_stats_add_tenths_exactly(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log_many(project_id, [call(cost="0.1"), call(cost="0.2")])
    assert (await ring.usage.stats(project_id)).summary.total_cost == Decimal("0.3")


async def test_usage_stats_add_more_tokens_than_a_bigint_holds(
    ring: Ring, project_id: ProjectId
) -> None:
    max_count = 2**53 - 1
    calls = [call(input_tokens=max_count, output_tokens=max_count) for _ in range(1100)]
    await ring.usage.log_many(project_id, calls)
    assert (await ring.usage.stats(project_id)).summary.total_tokens == 2200 * max_count > 2**63


async def test_usage_stats_count_errors_as_requests_and_as_errors(
    ring: Ring, project_id: ProjectId
) -> None:
    await ring.usage.log_many(
        project_id, [call(), call(status="timeout"), call(status="cancelled")]
    )
    summary = (await ring.usage.stats(project_id)).summary
    assert (summary.total_requests, summary.total_errors) == (3, 2)


async def test_usage_stats_by_day_week_and_month(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log_many(project_id, [call(ago=DAY * n) for n in range(120)])
    span = {"start_date": (NOW - DAY * 119).isoformat(), "end_date": NOW.isoformat()}
    for grain, least, most in (("day", 120, 120), ("week", 17, 19), ("month", 4, 5)):
        stats = await ring.usage.stats(project_id, StatsQuery(**span, group_by=grain))
        assert least <= len(stats.by_day) <= most
        assert sum(bucket.requests for bucket in stats.by_day) == 120
        dates = [bucket.date for bucket in stats.by_day]
        assert dates == sorted(dates, reverse=True)


def clock_changes(tz: str) -> list[datetime]:
    """Return the hours of the last 390 days at which clocks changed."""
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
        # PostgreSQL takes it for an abbreviation, without summer time.
        ("CET", 2),
    ],
)
@pytest.mark.parametrize("grain", ["hour", "day"])
async def test_usage_stats_count_a_call_in_its_local_hour_and_day(
    ring: Ring, project_id: ProjectId, tz: str, least: int, grain: str
) -> None:
    changes = clock_changes(tz)
    assert len(changes) >= least
    # The calls of a more recent change are among those of the last two days.
    for end in (
        NOW,
        *(change + timedelta(hours=18) for change in changes if NOW - change > 3 * DAY),
    ):
        moments = [end - timedelta(minutes=7 * n) for n in range(300)]
        await ring.usage.log_many(project_id, [call(logged_at=moment) for moment in moments])
        expected = Counter(period_of(moment, tz, grain) for moment in moments)
        span = {"start_date": moments[-1].isoformat(), "end_date": end.isoformat()}
        stats = await ring.usage.stats(project_id, StatsQuery(**span, group_by=grain, tz=tz))
        assert {bucket.date: bucket.requests for bucket in stats.by_day} == expected


async def test_usage_stats_include_both_ends_of_the_range(client: httpx.AsyncClient) -> None:
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
        "start_date=0.5",
        "start_date=1764000000.5",
        "end_date=20261129",
        "end_date=1e9",
        "start_date=2026-01-01T00:00:00+02:00",  # a plus that was not encoded is a space
        "end_date=9999-12-31T23:59:59-23:59",
        "start_date=0001-01-01T00:00%2B14:00",
        "start_date=1969-12-31",
        "end_date=9999-01-01",
        "group_by=year",
        "group_by=day&group_by=day",
        "group_by=hour&start_date=2026-01-01&end_date=2026-03-01",
        "tz=Mars/Olympus",
        "tz=../../etc/passwd",
        "tz=%00",
    ],
)
async def test_usage_stats_reject_an_invalid_range(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"/api/v1/stats?{query}")
    assert (response.status_code, response.json()["status"]) == (422, 422)
    assert response.json()["detail"]


moments = st.datetimes(
    min_value=datetime(2026, 1, 1),  # noqa: DTZ001, made aware below
    max_value=datetime(2026, 3, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(moments, moments, st.sampled_from(["days", "quarters"]))
def test_segments_cover_the_range_once_at_their_boundaries(
    a: datetime, b: datetime, kind: str
) -> None:
    segments = window_segments(min(a, b), max(a, b), days=kind == "days")
    assert list(segments) == sorted(segments)
    assert (segments.since, segments.until) == (min(a, b), max(a, b))
    if segments.quarters_since < segments.quarters_until:
        assert segments.quarters_since.minute % 15 == segments.quarters_until.minute % 15 == 0
        assert segments.quarters_since - segments.since < timedelta(minutes=15)
    if segments.days_since < segments.days_until:
        assert segments.days_since.hour == segments.days_until.hour == 0
