"""Usage statistics: the query, the segments of its time range, and the report."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, Field, PlainSerializer, model_validator

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
    """A time range of at most 400 days (31 by hour), its grouping, and an IANA time zone."""

    group_by: Literal["hour", "day", "week", "month"] = Field(
        "day", description="The length of the periods in `by_day`."
    )
    tz: Annotated[str, AfterValidator(check_time_zone)] = Field(
        "UTC",
        description="The IANA time zone of the periods: `Europe/Madrid`, for example.",
    )

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        since, until = self.bounds()
        if until - since > MAX_RANGE:
            raise ValueError("the time range must be at most 400 days long")
        if self.group_by == "hour" and until - since > MAX_HOURLY_RANGE:
            raise ValueError("the time range must be at most 31 days long when grouped by hour")
        return self

    @property
    def by_utc_day(self) -> bool:
        """Tell if daily UTC sums suffice; hours, and days of other zones, need quarter hours."""
        return is_utc(self.tz) and self.group_by != "hour"

    def segments(self) -> "WindowSegments":
        """Divide the time range by the sums that are read for each part."""
        return window_segments(*self.bounds(), days=self.by_utc_day)


class WindowSegments(NamedTuple):
    """The boundaries within a time range: calls | quarter hours | days | quarter hours | calls."""

    since: datetime
    quarters_since: datetime
    days_since: datetime
    days_until: datetime
    quarters_until: datetime
    until: datetime


def window_segments(since: datetime, until: datetime, *, days: bool) -> WindowSegments:
    """Divide [since, until) so that each part is read from the coarsest sums that are exact for it.

    Where no whole quarter hour or day lies within, the part before extends to the end. Without
    `days`, daily sums are not used.
    """
    quarters_since, quarters_until = ceil(since, QUARTER_HOUR), floor(until, QUARTER_HOUR)
    if quarters_since > quarters_until:
        quarters_since = quarters_until = until
    days_since, days_until = ceil(quarters_since, DAY), floor(quarters_until, DAY)
    if days_since > days_until or not days:
        days_since = days_until = quarters_until
    return WindowSegments(since, quarters_since, days_since, days_until, quarters_until, until)


class LabelTotals(BaseModel):
    """The totals of all calls with one label; cost in USD."""

    requests: int
    errors: int
    cost: Decimal
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    unknown_usage_requests: int


class OriginTotals(LabelTotals):
    """The totals of all calls of one origin.

    `cost` is a number here, a decimal string elsewhere in statistics.
    """

    # The published client reads this one as a number.
    cost: Annotated[Decimal, PlainSerializer(float, when_used="json")]


class StatsPeriod(BaseModel):
    """The totals of one hour, day, week or month in the report's time zone, named by its start."""

    date: str
    requests: int
    errors: int
    cost: Decimal
    top_model: str


class StatsSummary(BaseModel):
    """The totals of the whole time range. Calls without a known price add nothing to `total_cost`.

    `total_adjustment` is the part of `total_cost` that re-rating added. Calls whose usage is
    unknown add nothing to tokens; `usage_known` is false if there are any.
    """

    total_requests: int
    total_errors: int
    unpriced_requests: int
    unknown_usage_requests: int
    usage_known: bool
    total_cost: Decimal
    total_adjustment: Decimal
    total_tokens: int
    unique_models: int
    unique_origins: int


class UsageStats(BaseModel):
    """Statistics. `by_day` holds the periods of `group_by` that have calls, newest first."""

    summary: StatsSummary
    by_day: list[StatsPeriod]
    by_model: dict[str, LabelTotals]
    by_provider: dict[str, LabelTotals]
    by_origin: dict[str, OriginTotals]
    by_alias: dict[str, LabelTotals]
    by_profile: dict[str, LabelTotals]
