"""Time zones: their names, and their offsets from UTC.

Only Python's data of time zones is used. PostgreSQL brings its own, which may be years older, and
the day of a range would then not be the day of its statistics.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Annotated, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator

INVALID_TIME_ZONE = "must be an IANA time zone, such as Europe/Madrid"

# `localtime` is that of the machine, and `Factory` that of a machine without one.
_NOT_A_PLACE = {"localtime", "Factory", "posixrules"}
# Clients choose zone and year, so the number of cached ones is limited.
_CACHED_YEARS = 4096
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def check_time_zone(name: str) -> str:
    """Return the name of an IANA time zone in its spelling; raise ValueError if it is not one."""
    spelling = _spellings().get(name.lower())
    if spelling is None:
        raise ValueError(INVALID_TIME_ZONE)
    return spelling


TimeZoneName = Annotated[str, AfterValidator(check_time_zone)]


@cache
def _spellings() -> dict[str, str]:
    """Return the names of all time zones, by their names in lower case."""
    return {name.lower(): name for name in available_timezones() - _NOT_A_PLACE}


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone with this name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(INVALID_TIME_ZONE) from exc


class OffsetChange(NamedTuple):
    """An instant from which on a time zone has an offset from UTC, in seconds."""

    since: datetime
    utc_offset: int


def utc_offsets(name: str, since: datetime, until: datetime) -> list[OffsetChange]:
    """Return the offset of a time zone at `since`, and its changes until `until`."""
    changes = [OffsetChange(since, _utc_offset(name, since))]
    for year in range(since.year, until.year + 1):
        changes += [change for change in _changes_in(name, year) if since < change.since < until]
    return changes


@lru_cache(_CACHED_YEARS)
def _changes_in(name: str, year: int) -> tuple[OffsetChange, ...]:
    return tuple(_find_changes(name, datetime(year, 1, 1, tzinfo=UTC)))


def _find_changes(name: str, day: datetime) -> Iterator[OffsetChange]:
    """Yield the changes from `day` on until the end of its year; no zone has two within a day."""
    year = day.year
    before = _utc_offset(name, day)
    while day.year == year:
        after = _utc_offset(name, day + _DAY)
        if after != before:
            yield OffsetChange(_change_between(name, day, day + _DAY), after)
        day, before = day + _DAY, after


def _change_between(name: str, before: datetime, after: datetime) -> datetime:
    """Return the second of (before, after] from which on the offset is that of `after`."""
    utc_offset = _utc_offset(name, after)
    while after - before > _SECOND:
        middle = before + ((after - before) // _SECOND // 2) * _SECOND
        if _utc_offset(name, middle) == utc_offset:
            after = middle
        else:
            before = middle
    return after


def _utc_offset(name: str, moment: datetime) -> int:
    offset = moment.astimezone(zone_of(name)).utcoffset() or timedelta()
    return offset // _SECOND
