"""A span of time as people write it: dates or instants, inclusive, in UTC unless they say."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, model_validator

from llmring_server.core.ids import EPOCH

MAX_RANGE = timedelta(days=400)
_YEARS = 1971, 9998
DEFAULT_RANGE = timedelta(days=30)
QUARTER_HOUR = timedelta(minutes=15)


def _instant(value: object) -> object:
    """Read a whole date as such; leave the rest to pydantic."""
    if isinstance(value, str) and len(value) == len("2026-11-21"):
        return date.fromisoformat(value)
    return value


def _sane(value: datetime | date) -> datetime | date:
    if not _YEARS[0] <= value.year <= _YEARS[1]:
        raise ValueError("must be a year between {} and {}".format(*_YEARS))
    return value


def ceil(moment: datetime, step: timedelta) -> datetime:
    return moment + (EPOCH - moment) % step


def floor(moment: datetime, step: timedelta) -> datetime:
    return moment - (moment - EPOCH) % step


def zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError("must be an IANA time zone, such as Europe/Madrid") from exc
    return name


def is_utc(name: str) -> bool:
    """True if days in this zone are days of UTC."""
    return name in {"UTC", "Etc/UTC", "Etc/UCT", "Etc/Zulu", "Zulu", "UCT", "Universal"}


Instant = Annotated[datetime | date, BeforeValidator(_instant), AfterValidator(_sane)]


class TimeRange(BaseModel):
    """`start_date` to `end_date`, both included; by default the last 30 days.

    What begins or ends now does so with a quarter of an hour, as sums do.
    """

    start_date: Instant | None = None
    end_date: Instant | None = None

    def bounds(self) -> tuple[datetime, datetime]:
        """Return the span as [since, until)."""
        until = self._until()
        return (_start(self.start_date) if self.start_date else until - DEFAULT_RANGE), until

    def _until(self) -> datetime:
        if self.end_date is None:
            return ceil(datetime.now(UTC), QUARTER_HOUR)
        if isinstance(self.end_date, datetime):
            return _start(self.end_date) + timedelta(microseconds=1)
        return _start(self.end_date) + timedelta(days=1)

    @model_validator(mode="after")
    def _is_forward(self) -> Self:
        since, until = self.bounds()
        if since > until:
            raise ValueError("start_date lies after end_date")
        return self


def _start(value: datetime | date) -> datetime:
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
