"""Time ranges: `start_date` to `end_date`, dates or instants, both included, in UTC by default."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from llmring_server.core.ids import EPOCH
from llmring_server.core.time_zones import TimeZoneName, zone_of

DEFAULT_RANGE = timedelta(days=30)
QUARTER_HOUR = timedelta(minutes=15)

# At both ends of the calendar, a margin of years: no time zone and no rounding leaves it.
MIN_YEAR = 1970
MAX_YEAR = 9998

INSTANT_FORM = "write 2026-11-30 or 2026-11-30T08:00:00Z (in a URL, write + as %2B)"


def _parse_date(value: object) -> object:
    """Parse a bare date; leave everything else to pydantic, which would read it as a midnight.

    It would also read a number, even as text, as seconds since 1970.
    """
    if isinstance(value, str) and len(value) == len("2026-11-21"):
        try:
            return date.fromisoformat(value)
        except ValueError:
            # Python's text repeats the value.
            raise ValueError(INSTANT_FORM) from None
    if isinstance(value, int | float | Decimal) or (isinstance(value, str) and _is_number(value)):
        raise ValueError(INSTANT_FORM)
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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


def first_instant(value: datetime | date, tz: str) -> datetime:
    """Return the first instant of a date, or an instant, in UTC; without an offset it is in `tz`.

    Of a time that the clocks of `tz` show twice, the first reading counts. A time that they skip is
    read with the offset from before: 02:30 is 03:30 if they go from 02:00 to 03:00, and a day whose
    midnight they skip begins when they do.
    """
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if value.tzinfo is None:
        value = value.replace(tzinfo=zone_of(tz), fold=0)
    return value.astimezone(UTC)


class TimeRange(BaseModel):
    """From `start_date` to `end_date`, both included; by default the last 30 days.

    A range that starts or ends now is extended to the next quarter hour, so that statistics can be
    read from sums. A range that starts after its end is empty.
    """

    start_date: Instant | None = Field(
        None, description="The first date or instant; 30 days before the end by default."
    )
    end_date: Instant | None = Field(
        None, description="The last date or instant, included; now by default."
    )
    tz: TimeZoneName = Field(
        "UTC",
        description="The IANA time zone of dates, and of times without an offset: `Europe/Madrid`,"
        " for example.",
    )

    def bounds(self) -> tuple[datetime, datetime]:
        """Return the range as [since, until)."""
        until = self._until()
        if self.start_date is None:
            return until - DEFAULT_RANGE, until
        return min(first_instant(self.start_date, self.tz), until), until

    def _until(self) -> datetime:
        if self.end_date is None:
            return ceil(datetime.now(UTC), QUARTER_HOUR)
        if isinstance(self.end_date, datetime):
            return first_instant(self.end_date, self.tz) + timedelta(microseconds=1)
        return first_instant(self.end_date + timedelta(days=1), self.tz)
