"""Maintenance: partitions and totals, and what is deleted when it has expired."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, project_of_key
from llmring_server.errors import InvalidRequest
from llmring_server.maintenance import maintain
from llmring_server.usage.models import CallFilter, NewCall
from llmring_server.usage.stats import StatsQuery
from tests.conftest import CALL

PROJECT_ID = project_of_key("project_id")
NOW = datetime.now(UTC)
YEAR = {"start_date": (NOW - timedelta(days=380)).date().isoformat()}


def ago(days: int) -> NewCall:
    return NewCall(**CALL | {"cost": 1, "logged_at": NOW - timedelta(days=days)})


async def requests(ring: Ring, **window: Any) -> int:
    return (await ring.usage.stats(PROJECT_ID, StatsQuery(**YEAR | window))).summary.total_requests


async def test_statistics_remain_after_calls_are_dropped(alone: Ring) -> None:
    await alone.usage.log_many(PROJECT_ID, [ago(days) for days in range(0, 370, 10)])
    before = await alone.usage.stats(PROJECT_ID, StatsQuery(**YEAR))
    done = await maintain(alone.db, retain=timedelta(days=90), actor=LIBRARY)
    assert len(done.dropped) >= 8
    assert await alone.usage.stats(PROJECT_ID, StatsQuery(**YEAR)) == before
    remaining = [log.logged_at async for log in alone.usage.export(PROJECT_ID, CallFilter(**YEAR))]
    assert NOW - timedelta(days=121) < min(remaining) < NOW - timedelta(days=80)
    assert (await maintain(alone.db, retain=timedelta(days=90), actor=LIBRARY)).dropped == []
    [event] = await alone.audit.events(NOW - timedelta(days=1))
    assert (event.actor, event.action) == ("library", "calls.expire")
    assert event.target == ", ".join(done.dropped)


async def test_without_retention_no_call_is_dropped(alone: Ring) -> None:
    await alone.usage.log_many(PROJECT_ID, [ago(days) for days in (0, 100, 370)])
    assert (await maintain(alone.db, actor=LIBRARY)).dropped == []
    assert len([log async for log in alone.usage.export(PROJECT_ID, CallFilter(**YEAR))]) == 3


async def test_daily_totals_are_not_reported_for_days_of_another_time_zone(alone: Ring) -> None:
    await alone.usage.log_many(PROJECT_ID, [ago(days) for days in (0, 1, 200)])
    assert await requests(alone, tz="Asia/Tokyo") == 3
    await maintain(alone.db, retain=timedelta(days=60), actor=LIBRARY)
    with pytest.raises(InvalidRequest, match="Only daily UTC totals"):
        await requests(alone, tz="Asia/Tokyo")
    recent = {"start_date": (NOW - timedelta(days=5)).isoformat()}
    assert await requests(alone, tz="Asia/Tokyo", **recent) == 2
    assert await requests(alone) == 3


def day_and_time(days: int, time: str) -> str:
    return f"{NOW - timedelta(days=days):%Y-%m-%d}T{time}Z"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        # The whole day, and how people write its end.
        ((200, "00:00:00"), (198, "00:00:00"), 3),
        ((200, "00:00:00"), (200, "23:59:59"), 2),
        ((200, "00:00:00"), (200, "23:59:59.999"), 2),
        ((200, "00:00:00"), (200, "23:59:59.999999"), 2),
        ((210, "00:00:00"), (195, "23:59:59"), 3),
        # A part of it; an end at midnight is part of the day that begins then.
        ((200, "00:00:00"), (199, "00:00:00"), None),
        ((200, "00:00:00"), (200, "23:59:58.999998"), None),
        ((200, "00:00:00"), (200, "12:00:00"), None),
        ((200, "00:00:01"), (195, "23:59:59"), None),
        ((200, "00:15:00"), (100, "00:00:00"), None),
        # A part of a day without calls.
        ((205, "12:00:00"), (198, "12:00:00"), 3),
        ((198, "12:00:00"), (195, "12:00:00"), 0),
        # A part of a day whose calls are stored.
        ((210, "00:00:00"), (1, "00:00:00.5"), 4),
        ((1, "00:00:00"), (1, "23:59:58"), 2),
    ],
)
async def test_a_day_of_which_only_the_total_is_kept_is_not_cut(
    alone: Ring, start: tuple[int, str], end: tuple[int, str], expected: int | None
) -> None:
    moments = [
        *((200, "03:00:00"), (200, "21:00:00"), (199, "00:00:00")),
        *((1, "00:00:00"), (1, "10:00:00"), (1, "23:59:59.5")),
    ]
    calls = [
        NewCall.model_validate(CALL | {"logged_at": day_and_time(*moment)}) for moment in moments
    ]
    await alone.usage.log_many(PROJECT_ID, calls)
    window = {"start_date": day_and_time(*start), "end_date": day_and_time(*end)}
    whole = await requests(alone, **window)
    await maintain(alone.db, retain=timedelta(days=60), actor=LIBRARY)
    if expected is None:
        with pytest.raises(
            InvalidRequest, match=r"Only daily UTC totals are kept before .* whole days"
        ):
            await requests(alone, **window)
    else:
        assert await requests(alone, **window) == expected == whole


async def test_the_default_range_begins_with_a_whole_day_where_only_totals_are_kept(
    alone: Ring,
) -> None:
    await alone.usage.log_many(PROJECT_ID, [ago(days) for days in (0, 180)])
    end = NOW - timedelta(days=150)
    await maintain(alone.db, retain=timedelta(days=60), actor=LIBRARY)
    stats = await alone.usage.stats(PROJECT_ID, StatsQuery(end_date=end))
    assert stats.summary.total_requests == 1


def zone_with_clock_change(day: datetime) -> str:
    """Return a POSIX time zone whose clocks go back on `day`, at 01:00 UTC."""
    end = day.timetuple().tm_yday - 1
    return f"<winter>0<summer>-1,{(end - 100) % 365}/0,{end}/2"


async def test_days_are_utc_days_in_any_time_zone_of_the_session(alone: Ring) -> None:
    now = datetime.now(UTC)
    oldest = (now - timedelta(days=70)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last_day = oldest - timedelta(days=1)
    for moment in (last_day, oldest):
        await alone.usage.log(PROJECT_ID, ago(0).model_copy(update={"logged_at": moment}))
    await maintain(alone.db, retain=now - oldest.replace(day=15), actor=LIBRARY)
    window = StatsQuery(start_date=last_day, tz="Asia/Tokyo")
    async with alone.db.transaction() as tx:
        await tx.execute(f"SET LOCAL timezone = '{zone_with_clock_change(last_day)}'")
        with pytest.raises(InvalidRequest, match=f"kept before {oldest:%Y-%m-%d}:"):
            await alone.within(tx).usage.stats(PROJECT_ID, window)


async def test_an_idempotency_key_is_deleted_with_its_call(alone: Ring) -> None:
    first = await alone.usage.log(PROJECT_ID, ago(200), "old")
    await alone.usage.log(PROJECT_ID, ago(0), "new")
    await maintain(alone.db, retain=timedelta(days=60), actor=LIBRARY)
    assert (await alone.usage.log(PROJECT_ID, ago(0), "old")).log_id != first.log_id
    keys = "SELECT count(*) FROM {{tables.idempotency_keys}}"
    assert await alone.db.fetch_value(keys) == 2


async def test_totals_of_finished_transactions_are_merged(alone: Ring) -> None:
    await alone.usage.log(PROJECT_ID, ago(1))
    for _ in range(3):
        async with alone.db.transaction() as tx:
            await alone.within(tx).usage.log(PROJECT_ID, ago(1))
    async with alone.db.transaction() as tx:
        await alone.within(tx).usage.log(PROJECT_ID, ago(1))
        await maintain(alone.db, actor=LIBRARY)
    assert await requests(alone) == 5
    recent = "SELECT count(*) FROM {{tables.usage_recent}}"
    assert await alone.db.fetch_value(recent) == 1
    await maintain(alone.db, actor=LIBRARY)
    assert await alone.db.fetch_value(recent) == 0
    assert await requests(alone) == 5


async def test_totals_are_moved_when_their_quarter_hour_is_over(alone: Ring) -> None:
    now = datetime.now(UTC)
    before = now - timedelta(minutes=50)
    for moment in (now, before, before):
        await alone.usage.log(PROJECT_ID, ago(0).model_copy(update={"logged_at": moment}))
    seen = await alone.usage.stats(PROJECT_ID)
    recent = "SELECT sum(requests) FROM {{tables.usage_recent}}"
    settled = "SELECT sum(requests) FROM {{tables.usage_rollups}} WHERE label_kind = 'model'"
    assert await alone.db.fetch_value(recent) == 3
    await maintain(alone.db, actor=LIBRARY)
    assert await alone.db.fetch_value(recent) == 1
    assert await alone.db.fetch_value(settled) == 4, "two of a quarter, two of its day"
    assert await alone.usage.stats(PROJECT_ID) == seen


async def test_old_calls_without_a_partition_are_deleted(alone: Ring) -> None:
    await alone.usage.log(PROJECT_ID, ago(200))
    await maintain(alone.db, retain=timedelta(days=60), actor=LIBRARY)
    await alone.usage.log(PROJECT_ID, ago(200))
    in_default = "SELECT count(*) FROM {{tables.usage_logs_default}}"
    assert await alone.db.fetch_value(in_default) == 1
    await maintain(alone.db, retain=timedelta(days=60), actor=LIBRARY)
    assert await alone.db.fetch_value(in_default) == 0
    assert await requests(alone) == 2


async def test_maintenance_that_waits_for_a_lock_blocks_nobody(alone: Ring) -> None:
    await alone.usage.log(PROJECT_ID, ago(200), "old")
    async with alone.db.transaction() as tx:
        await tx.execute("SELECT 1 FROM {{tables.idempotency_keys}} FOR UPDATE")
        maintaining = asyncio.create_task(
            maintain(alone.db, retain=timedelta(days=60), actor=LIBRARY)
        )
        await asyncio.sleep(0.5)
        await alone.usage.log(PROJECT_ID, ago(0))
        assert not maintaining.done()
    assert (await maintaining).dropped
