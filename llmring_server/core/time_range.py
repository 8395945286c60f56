"""Time ranges: `start_date` to `end_date`, dates or instants, both included, in UTC by default."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from llmring_server.core.ids import EPOCH

MAX_RANGE = timedelta(days=400)
DEFAULT_RANGE = timedelta(days=30)
QUARTER_HOUR = timedelta(minutes=15)

# A margin of a year on each side, so that no time zone and no rounding leaves the calendar.
MIN_YEAR = 1971
MAX_YEAR = 9998

# The names of time zones whose days are days of UTC.
_UTC_NAMES = {"UTC", "Etc/UTC", "Etc/UCT", "Etc/Zulu", "Zulu", "UCT", "Universal"}


def _parse_date(value: object) -> object:
    """Parse a bare date; leave everything else to pydantic, which would read it as a midnight."""
    if isinstance(value, str) and len(value) == len("2026-11-21"):
        return date.fromisoformat(value)
    return value


def _check_year(value: datetime | date) -> datetime | date:
    if not MIN_YEAR <= value.year <= MAX_YEAR:
        raise ValueError(f"must be a year between {MIN_YEAR} and {MAX_YEAR}")
    return value


Instant = Annotated[datetime | date, BeforeValidator(_parse_date), AfterValidator(_check_year)]


def ceil(moment: datetime, step: timedelta) -> datetime:
    """Round up to a multiple of `step` since the epoch."""
    return moment + (EPOCH - moment) % step


def floor(moment: datetime, step: timedelta) -> datetime:
    """Round down to a multiple of `step` since the epoch."""
    return moment - (moment - EPOCH) % step


def check_time_zone(name: str) -> str:
    """Return `name` if it is an IANA time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError("must be an IANA time zone, such as Europe/Madrid") from exc
    return name


def is_utc(name: str) -> bool:
    """Tell if the days of this time zone are days of UTC."""
    return name in _UTC_NAMES


class TimeRange(BaseModel):
    """From `start_date` to `end_date`, both included; by default the last 30 days.

    A range that starts or ends now is extended to the next quarter hour, so that statistics can be
    read from sums.
    """

    start_date: Instant | None = Field(
        None, description="The first date or instant; 30 days before the end by default."
    )
    end_date: Instant | None = Field(
        None, description="The last date or instant, included; now by default."
    )

    def bounds(self) -> tuple[datetime, datetime]:
        """Return the range as [since, until)."""
        until = self._until()
        since = _start_of(self.start_date) if self.start_date else until - DEFAULT_RANGE
        return since, until

    def _until(self) -> datetime:
        if self.end_date is None:
            return ceil(datetime.now(UTC), QUARTER_HOUR)
        if isinstance(self.end_date, datetime):
            return _start_of(self.end_date) + timedelta(microseconds=1)
        return _start_of(self.end_date) + timedelta(days=1)

    @model_validator(mode="after")
    def _start_before_end(self) -> Self:
        since, until = self.bounds()
        if since > until:
            raise ValueError("start_date lies after end_date")
        return self


def _start_of(value: datetime | date) -> datetime:
    """Return the first instant of a date, or an instant in UTC; it is UTC if it has no offset."""
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
