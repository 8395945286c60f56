"""What the calls of a window add up to, in total, over time and by label."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, PlainSerializer, model_validator

from llmring_server.core.time_range import (
    MAX_RANGE,
    QUARTER_HOUR,
    TimeRange,
    ceil,
    check_time_zone,
    floor,
    is_utc,
)

DAY = timedelta(days=1)
MAX_HOURLY_RANGE = timedelta(days=31)


class StatsQuery(TimeRange):
    """The span, at most 400 days (31 by hour), grain and IANA time zone of a report."""

    group_by: Literal["hour", "day", "week", "month"] = "day"
    tz: Annotated[str, AfterValidator(check_time_zone)] = "UTC"

    @model_validator(mode="after")
    def _is_reasonable(self) -> Self:
        since, until = self.bounds()
        if until - since > MAX_RANGE:
            raise ValueError("a window is at most 400 days long")
        if self.group_by == "hour" and until - since > MAX_HOURLY_RANGE:
            raise ValueError("a window is at most 31 days long when grouped by hour")
        return self

    @property
    def by_utc_day(self) -> bool:
        """True if sums of UTC days will do; other days, and hours, are made of quarters."""
        return is_utc(self.tz) and self.group_by != "hour"

    def cuts(self) -> "WindowSegments":
        return window_segments(*self.bounds(), days=self.by_utc_day)


class WindowSegments(NamedTuple):
    """Where a window is cut: calls | quarter hours | days | quarter hours | calls."""

    since: datetime
    quarters_since: datetime
    days_since: datetime
    days_until: datetime
    quarters_until: datetime
    until: datetime


def window_segments(since: datetime, until: datetime, *, days: bool) -> WindowSegments:
    """Cut [since, until) so that each part is read from the coarsest sums that are exact for it."""
    quarters = ceil(since, QUARTER_HOUR), floor(until, QUARTER_HOUR)
    if quarters[0] > quarters[1]:
        quarters = until, until
    whole = ceil(quarters[0], DAY), floor(quarters[1], DAY)
    if whole[0] > whole[1] or not days:
        whole = quarters[1], quarters[1]
    return WindowSegments(since, quarters[0], *whole, quarters[1], until)


class Totals(BaseModel):
    """What the calls that share a label add up to; cost in USD."""

    requests: int
    errors: int
    cost: Decimal
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int


class OriginTotals(Totals):
    # Clients have always read this one as a number; the others are exact decimals in strings.
    cost: Annotated[Decimal, PlainSerializer(float, when_used="json")]


class Bucket(BaseModel):
    """One hour, day, week or month of the report's time zone, named by its start."""

    date: str
    requests: int
    errors: int
    cost: Decimal
    top_model: str


class Summary(BaseModel):
    """The whole window; `total_cost` leaves out the calls whose price is not known.

    `total_adjustment` of it came by re-rating.
    """

    total_requests: int
    total_errors: int
    unpriced_requests: int
    total_cost: Decimal
    total_adjustment: Decimal
    total_tokens: int
    unique_models: int
    unique_origins: int


class Stats(BaseModel):
    """A report; `by_day` has one bucket for each period with calls, newest first."""

    summary: Summary
    by_day: list[Bucket]
    by_model: dict[str, Totals]
    by_provider: dict[str, Totals]
    by_origin: dict[str, OriginTotals]
    by_alias: dict[str, Totals]
    by_profile: dict[str, Totals]
