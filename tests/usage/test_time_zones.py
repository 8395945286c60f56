"""Time in the reader's zone: days, hours and ranges of it, for everything that takes dates."""

import json
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.core.time_range import TimeRange, first_instant
from llmring_server.core.time_zones import utc_offsets
from llmring_server.receipts import ReceiptRequest
from llmring_server.usage.models import CallFilter, CallPage, NewCall
from llmring_server.usage.stats import StatsQuery, UsageStats
from tests.conftest import CALL
from tests.support.signing import keyring

NOW = datetime.now(UTC)
MICROSECOND = timedelta(microseconds=1)
# A day without a change of clocks in most years, and recent enough to be logged.
PAST_DAY = (NOW - timedelta(days=40)).date()


@pytest.mark.parametrize(
    ("value", "tz", "expected"),
    [
        ("2026-11-29", "UTC", "2026-11-29T00:00Z"),
        ("2026-11-29", "Europe/Berlin", "2026-11-28T23:00Z"),
        ("2026-07-29", "Europe/Berlin", "2026-07-28T22:00Z"),
        ("2026-07-29", "europe/berlin", "2026-07-28T22:00Z"),
        ("2026-07-29", "CET", "2026-07-28T22:00Z"),
        ("2026-07-29", "Etc/GMT-2", "2026-07-28T22:00Z"),
        ("2026-11-29", "Asia/Kathmandu", "2026-11-28T18:15Z"),
        ("2026-11-29", "Pacific/Kiritimati", "2026-11-28T10:00Z"),
        # A time without an offset is in the zone, one with an offset is not.
        ("2026-11-29T08:00", "America/New_York", "2026-11-29T13:00Z"),
        ("2026-11-29T08:00Z", "America/New_York", "2026-11-29T08:00Z"),
        ("2026-11-29T08:00+09:00", "America/New_York", "2026-11-28T23:00Z"),
        # The first reading of two.
        ("2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30Z"),
        ("2026-10-25T03:00", "Europe/Berlin", "2026-10-25T02:00Z"),
        # Skipped: the same as 03:30.
        ("2026-03-29T02:30", "Europe/Berlin", "2026-03-29T01:30Z"),
        ("2026-03-29T03:30", "Europe/Berlin", "2026-03-29T01:30Z"),
        # The clocks skip midnight, or show the hour after it twice.
        ("2025-09-07", "America/Santiago", "2025-09-07T04:00Z"),
        ("2025-11-02", "America/Havana", "2025-11-02T04:00Z"),
        # A day that was skipped is empty.
        ("2011-12-30", "Pacific/Apia", "2011-12-30T10:00Z"),
        ("2011-12-31", "Pacific/Apia", "2011-12-30T10:00Z"),
    ],
)
def test_a_date_begins_in_its_zone(value: str, tz: str, expected: str) -> None:
    since, _ = TimeRange.model_validate(
        {"start_date": value, "tz": tz, "end_date": "2030-01-01"}
    ).bounds()
    assert since == datetime.fromisoformat(expected)


@given(
    st.dates(date(1971, 1, 1), date(2099, 1, 1)),
    st.sampled_from(["Europe/Berlin", "America/Santiago", "Africa/Cairo", "Australia/Lord_Howe"]),
)
def test_one_day_ends_where_the_next_begins(day: date, tz: str) -> None:
    _, until = TimeRange(start_date=day, end_date=day, tz=tz).bounds()
    assert until == first_instant(day + timedelta(days=1), tz)
    assert (until - MICROSECOND).astimezone(ZoneInfo(tz)).date() == day
    assert until.astimezone(ZoneInfo(tz)).date() == day + timedelta(days=1)


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from(
        ["Europe/Berlin", "Africa/Casablanca", "Australia/Lord_Howe", "Asia/Kathmandu"]
    ),
)
def test_offsets_are_known_at_every_instant(moment: datetime, tz: str) -> None:
    moment = moment.replace(microsecond=0)
    changes = utc_offsets(tz, moment - timedelta(days=500), moment + MICROSECOND)
    assert changes == sorted(changes)
    expected = moment.astimezone(ZoneInfo(tz)).utcoffset()
    assert timedelta(seconds=changes[-1].utc_offset) == expected


async def log_around(ring: Ring, project_id: ProjectId, day: date, tz: str) -> None:
    """Log two calls within a day of the zone, at its very ends, and two just outside of it."""
    since, until = (
        datetime.combine(each, time(), ZoneInfo(tz)).astimezone(UTC)
        for each in (day, day + timedelta(days=1))
    )
    moments = [since - MICROSECOND, since, until - MICROSECOND, until]
    await ring.usage.log_many(
        project_id, [NewCall(**CALL | {"logged_at": moment}) for moment in moments]
    )


@pytest.mark.parametrize(
    "tz", ["UTC", "Europe/Berlin", "America/Vancouver", "Asia/Kathmandu", "Pacific/Kiritimati"]
)
async def test_a_day_is_that_of_the_zone_wherever_dates_are_taken(
    ring: Ring, project_id: ProjectId, tz: str
) -> None:
    ring = Ring(ring.db, ring.settings, keyring())
    await log_around(ring, project_id, PAST_DAY, tz)
    day: dict[str, Any] = {"start_date": PAST_DAY, "end_date": PAST_DAY, "tz": tz}
    stats = await ring.usage.stats(project_id, StatsQuery(**day))
    assert [(each.date, each.requests, each.partial) for each in stats.by_day] == [
        (f"{PAST_DAY}", 2, False)
    ]
    assert len(await ring.usage.logs(project_id, CallPage(**day))) == 2
    assert len([call async for call in ring.usage.export(project_id, CallFilter(**day))]) == 2
    preview = await ring.receipts.preview(project_id, ReceiptRequest(**day))
    assert preview["total_logs"] == 2
    issued = await ring.receipts.generate(project_id, ReceiptRequest(**day))
    assert issued["certified_count"] == 2


async def test_the_zone_is_a_parameter_of_every_route_with_dates(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId
) -> None:
    tz = "Asia/Kathmandu"
    await log_around(ring, project_id, PAST_DAY, tz)
    params = {"start_date": f"{PAST_DAY}", "end_date": f"{PAST_DAY}", "tz": tz}
    stats = (await client.get("/api/v1/stats", params=params)).json()
    assert stats["summary"]["total_requests"] == 2
    assert len((await client.get("/api/v1/logs", params=params)).json()) == 2
    export = await client.get("/api/v1/logs/export", params=params | {"format": "jsonl"})
    assert len(export.text.splitlines()) == 2
    preview = await client.post("/api/v1/receipts/preview", json=params)
    assert preview.status_code == 200, preview.text
    assert preview.json()["total_logs"] == 2


async def test_a_cursor_belongs_to_its_zone(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/logs/batch", json=[CALL] * 3)
    params = {"limit": "2", "start_date": f"{(NOW - timedelta(days=2)).date()}", "tz": "Asia/Tokyo"}
    first = await client.get("/api/v1/logs", params=params)
    following = dict(parse_qsl(first.links["next"]["url"].removeprefix("?")))
    assert following["tz"] == "Asia/Tokyo"
    assert len((await client.get("/api/v1/logs", params=following)).json()) == 1
    other = await client.get("/api/v1/logs", params=following | {"tz": "Asia/Seoul"})
    assert other.status_code == 422


@pytest.mark.parametrize(
    "tz",
    [
        "localtime",
        "Factory",
        "posixrules",
        "posix/Europe/Berlin",
        "right/Europe/Berlin",
        "Mars/Olympus",
        "Europe",
        "../Berlin",
        "/etc/localtime",
        "+02:00",
        "UTC+2",
        "GMT+25",
        "<+02>-2",
        "CEST",
        "Europe/Berlin ",
    ],
)
async def test_what_is_no_time_zone_is_rejected(client: httpx.AsyncClient, tz: str) -> None:
    for path in ("/api/v1/stats", "/api/v1/logs", "/api/v1/logs/export"):
        response = await client.get(path, params={"tz": tz})
        assert response.status_code == 422
        assert "must be an IANA time zone, such as Europe/Madrid" in response.text
    body = {"start_date": f"{PAST_DAY}", "end_date": f"{PAST_DAY}", "tz": tz}
    response = await client.post("/api/v1/receipts/preview", json=body)
    assert response.status_code in {400, 422}


# Periods.


def marked(stats: UsageStats) -> list[tuple[str, bool]]:
    return [(period.date, period.partial) for period in stats.by_day]


async def stats_of(ring: Ring, project_id: ProjectId, **query: Any) -> UsageStats:
    return await ring.usage.stats(project_id, StatsQuery(**query))


async def test_periods_that_the_range_cuts_are_partial(ring: Ring, project_id: ProjectId) -> None:
    # Monday to Sunday of a week that is over.
    monday = PAST_DAY - timedelta(days=PAST_DAY.weekday())
    days = [monday + timedelta(days=n) for n in range(7)]
    noons = [datetime.combine(day, time(12), UTC) for day in days]
    await ring.usage.log_many(
        project_id, [NewCall(**CALL | {"logged_at": moment}) for moment in noons]
    )
    whole = await stats_of(ring, project_id, start_date=days[0], end_date=days[-1])
    assert marked(whole) == [(f"{day}", False) for day in reversed(days)]
    cut = await stats_of(ring, project_id, start_date=noons[0], end_date=noons[-1])
    assert marked(cut) == [(f"{day}", day in {days[0], days[-1]}) for day in reversed(days)]
    for start, end, partial in (
        (days[0], days[-1], False),
        (days[1], days[-1], True),
        (days[0], days[-2], True),
    ):
        week = await stats_of(ring, project_id, start_date=start, end_date=end, group_by="week")
        assert marked(week) == [(f"{monday}", partial)]
    month = {"start_date": days[0].replace(day=1), "group_by": "month"}
    last = (days[0].replace(day=1) + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    one = await stats_of(ring, project_id, **month, end_date=last)
    assert marked(one)[-1][1] is False
    two = await stats_of(ring, project_id, **month, end_date=last - timedelta(days=1))
    assert marked(two)[-1][1] is True
    hour = await stats_of(ring, project_id, start_date=noons[0], end_date=noons[1], group_by="hour")
    assert [partial for _, partial in marked(hour)] == [True, False]


async def test_the_present_period_is_partial(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log(project_id, NewCall(**CALL | {"logged_at": NOW - timedelta(days=1)}))
    await ring.usage.log(project_id, NewCall(**CALL))
    for end in (None, NOW.date() + timedelta(days=1)):
        stats = await stats_of(ring, project_id, end_date=end)
        assert [partial for _, partial in marked(stats)] == [True, False]


def last_end_of_summer_time(tz: str) -> datetime:
    """Return the last instant at which clocks were set back, long enough ago to be over."""
    changes = utc_offsets(tz, NOW - timedelta(days=390), NOW - timedelta(days=2))
    back = [
        change.since
        for before, change in pairwise(changes)
        if change.utc_offset < before.utc_offset
    ]
    return back[-1]


async def test_the_two_hours_at_the_end_of_summer_time_are_apart(
    client: httpx.AsyncClient,
) -> None:
    change = last_end_of_summer_time("Europe/Berlin")
    moments = [change + timedelta(minutes=minutes) for minutes in (-90, -30, 30, 90)]
    calls = [CALL | {"logged_at": moment.isoformat()} for moment in moments]
    await client.post("/api/v1/logs/batch", json=calls)
    day = f"{change:%Y-%m-%d}"
    params = {"start_date": day, "end_date": day, "tz": "Europe/Berlin", "group_by": "hour"}
    hours = (await client.get("/api/v1/stats", params=params)).json()["by_day"]
    assert [(hour["date"], hour["partial"]) for hour in hours] == [
        (f"{day}T03:00+01:00", False),
        (f"{day}T02:00+01:00", False),
        (f"{day}T02:00+02:00", False),
        (f"{day}T01:00+02:00", False),
    ]
    params["group_by"] = "day"
    [one] = (await client.get("/api/v1/stats", params=params)).json()["by_day"]
    assert one == one | {"date": day, "requests": 4, "partial": False}


async def test_hours_of_31_days_may_include_the_end_of_summer_time(
    client: httpx.AsyncClient,
) -> None:
    params = {"tz": "Europe/Berlin", "group_by": "hour"}
    month = params | {"start_date": "2026-10-01", "end_date": "2026-10-31"}
    assert (await client.get("/api/v1/stats", params=month)).status_code == 200
    longer = params | {"start_date": "2026-10-01", "end_date": "2026-11-01"}
    response = await client.get("/api/v1/stats", params=longer)
    assert response.status_code == 422
    assert "at most 31 days long when grouped by hour" in response.text


# Any range.


@pytest.mark.parametrize("group_by", ["day", "week", "month"])
@pytest.mark.parametrize("tz", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize(
    ("start", "end"),
    [("1970-01-01", "2100-12-31"), ("1970-01-01", ""), ("2020-02-29", "9998-12-31")],
)
async def test_statistics_of_any_range(
    client: httpx.AsyncClient, start: str, end: str, tz: str, group_by: str
) -> None:
    old = NOW - timedelta(days=399)
    await client.post("/api/v1/log", json=CALL | {"logged_at": old.isoformat()})
    await client.post("/api/v1/log", json=CALL)
    params = {"start_date": start, "end_date": end, "tz": tz, "group_by": group_by}
    response = await client.get("/api/v1/stats", params=params)
    assert response.status_code == 200, response.text
    stats = response.json()
    assert stats["summary"]["total_requests"] == 2
    assert [period["requests"] for period in stats["by_day"]] == [1, 1]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-02-01", "2026-01-01"),
        ("2026-02-01T00:00:00.000002Z", "2026-02-01T00:00:00Z"),
        ("2100-01-01", ""),
    ],
)
async def test_a_range_that_starts_after_its_end_is_empty(
    client: httpx.AsyncClient, start: str, end: str
) -> None:
    await client.post("/api/v1/log", json=CALL)
    params = {"start_date": start, "end_date": end}
    for group_by in ("hour", "day"):
        stats = await client.get("/api/v1/stats", params=params | {"group_by": group_by})
        assert stats.status_code == 200, stats.text
        assert stats.json()["summary"]["total_requests"] == 0
        assert stats.json()["by_day"] == []
    assert (await client.get("/api/v1/logs", params=params)).json() == []
    export = await client.get("/api/v1/logs/export", params=params | {"format": "jsonl"})
    assert (export.status_code, export.text) == (200, "")


@pytest.mark.parametrize("year", ["1969", "0001", "9999"])
@pytest.mark.parametrize("path", ["/api/v1/stats", "/api/v1/logs", "/api/v1/logs/export"])
async def test_years_beyond_the_calendar_are_rejected(
    client: httpx.AsyncClient, path: str, year: str
) -> None:
    for name in ("start_date", "end_date"):
        response = await client.get(path, params={name: f"{year}-06-01"})
        assert response.status_code == 422
        assert json.loads(response.text)["detail"].endswith("a year between 1970 and 9998")
