"""Usage statistics: the query, the segments of its time range, and the report."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, Field, PlainSerializer, model_validator

from llmring_server.core.time_range import QUARTER_HOUR, TimeRange, ceil, first_instant, floor
from llmring_server.core.time_zones import OffsetChange, TimeZoneName, utc_offsets

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)
# Clocks may be set back on one of 31 days, in Antarctica by two hours.
MAX_HOURLY_RANGE = timedelta(days=31, hours=2)
# The largest number of periods in a report: ten years of days.
MAX_PERIODS = 3660
# The largest number of labels of one kind that a report names.
MAX_LABELS = 500


class StatsQuery(TimeRange):
    """A time range of any length (at most 31 days by hour), its grouping, and its time zone."""

    group_by: Literal["hour", "day", "week", "month"] = Field(
        "day", description="The length of the periods in `by_day`."
    )
    tz: TimeZoneName = Field(
        "UTC",
        description="The IANA time zone of the periods, of dates, and of times without an offset:"
        " `Europe/Madrid`, for example.",
    )
    top: int = Field(
        MAX_LABELS,
        ge=1,
        le=MAX_LABELS,
        description="How many labels of each kind the report names, those that cost most;"
        " `(other)` is the sum of the others.",
    )

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        since, until = self.bounds()
        if self.group_by == "hour" and until - since > MAX_HOURLY_RANGE:
            raise ValueError("the time range must be at most 31 days long when grouped by hour")
        return self

    def window(self, *, complete_days: bool = False) -> "StatsWindow":
        """Return what a statement needs to know about the time range, at this moment.

        With `complete_days`, an end in the last second of a UTC day, as people write the end of a
        day, is the end of that day, and a start that was not given is the start of its day.
        """
        since, until = self.bounds()
        if complete_days and ceil(until, DAY) - until < SECOND:
            until = ceil(until, DAY)
        if complete_days and self.start_date is None:
            since = floor(since, DAY)
        # A quarter hour counts from its start, which may lie before the range. No call lies more
        # than minutes ahead.
        offsets = utc_offsets(
            self.tz, floor(since, QUARTER_HOUR), min(until, datetime.now(UTC) + DAY)
        )
        are_utc_days = not any(change.utc_offset for change in offsets)
        by_utc_day = are_utc_days and self.group_by != "hour"
        return StatsWindow(window_segments(since, until, days=by_utc_day), offsets, by_utc_day)


class StatsWindow(NamedTuple):
    """A time range as it is read: its segments, and the offsets of its time zone.

    `by_utc_day`: daily UTC sums suffice. Hours, and days of other zones, need quarter hours.
    """

    segments: "WindowSegments"
    offsets: list[OffsetChange]
    by_utc_day: bool

    @property
    def cut_days(self) -> list[datetime]:
        """Return the UTC days, at most two, of which the range contains only a part."""
        ends = {self.segments.since, self.segments.until}
        return sorted({floor(end, DAY) for end in ends if floor(end, DAY) != end})


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
    """The totals of one hour, day, week or month in the report's time zone, named by its start.

    The name of an hour has an offset from UTC: `2026-10-25T02:00+02:00`. `partial`: the time range
    contains only a part of the period, or the period is not over yet.
    """

    date: str
    partial: bool = False
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
    """Statistics. `by_day` holds the periods of `group_by` that have calls, newest first.

    Other members `by_...` hold the `top` labels that cost most. If there are more, `(other)` is the
    exact sum of the others, and `truncated` has the number of labels in it: `{"by_model": 59500}`.
    """

    summary: StatsSummary
    by_day: list[StatsPeriod]
    by_model: dict[str, LabelTotals]
    by_provider: dict[str, LabelTotals]
    by_origin: dict[str, OriginTotals]
    by_alias: dict[str, LabelTotals]
    by_profile: dict[str, LabelTotals]
    truncated: dict[str, int]


def mark_partial_periods(
    periods: list[StatsPeriod], query: StatsQuery, window: StatsWindow, now: datetime
) -> None:
    """Mark the periods that are not whole: at the ends of the range, and the present one.

    Periods are listed newest first, and the others are whole.
    """
    until = min(window.segments.until, now)
    for period in periods:
        if _bounds_of(period.date, query)[1] <= until:
            break
        period.partial = True
    for period in reversed(periods):
        if _bounds_of(period.date, query)[0] >= window.segments.since:
            break
        period.partial = True


def _bounds_of(name: str, query: StatsQuery) -> tuple[datetime, datetime]:
    """Return the instants between which the period with this name lies."""
    if query.group_by == "hour":
        hour = datetime.fromisoformat(name)
        return hour, hour + HOUR
    first = date.fromisoformat(name)
    if query.group_by == "month":
        next = (first.replace(day=1) + timedelta(days=31)).replace(day=1)
    else:
        next = first + (WEEK if query.group_by == "week" else DAY)
    return first_instant(first, query.tz), first_instant(next, query.tz)
