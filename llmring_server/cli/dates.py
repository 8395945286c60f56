"""Dates and times on the command line, in a time zone that an option names."""

from datetime import datetime
from typing import Any

import rich_click as click

from llmring_server.core.time_range import first_instant
from llmring_server.core.time_zones import check_time_zone

DATE = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


def _check_tz(_context: Any, _param: Any, value: str) -> str:
    try:
        return check_time_zone(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


tz_option = click.option(
    "--tz",
    default="UTC",
    show_default=True,
    callback=_check_tz,
    help="IANA time zone of dates and times, such as Europe/Madrid.",
)


def in_utc(moment: datetime | None, tz: str) -> datetime | None:
    """Return a date or a time of the zone as an instant; None if there is none."""
    try:
        return first_instant(moment, tz) if moment else None
    except OverflowError as exc:
        raise click.BadParameter("the date lies outside the calendar in this time zone") from exc
