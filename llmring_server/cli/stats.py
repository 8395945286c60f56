"""`llmring-server stats`: what the calls of a project cost, in tables."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import rich_click as click
from pydantic import ValidationError
from rich.table import Column, Table

from llmring_server.cli import environment
from llmring_server.cli.dates import tz_option
from llmring_server.cli.output import CONSOLE
from llmring_server.cli.transfer import DateOrInstant, project_to_read
from llmring_server.core.money import decimal_text
from llmring_server.core.validation import lines_of
from llmring_server.ring import Ring
from llmring_server.usage.stats import MAX_LABELS, LabelTotals, StatsQuery, UsageStats

GROUPINGS = ("hour", "day", "week", "month")


class ProjectStats(NamedTuple):
    project: str
    stats: UsageStats


@click.command()
@environment.project_options
@click.option("--start-date", type=DateOrInstant(), help="First date or time; default: 30 days.")
@click.option("--end-date", type=DateOrInstant(), help="Last date or time, included; default: now.")
@tz_option
@click.option("--group-by", type=click.Choice(GROUPINGS), default="day", show_default=True)
@click.option(
    "--top",
    type=click.IntRange(1, MAX_LABELS),
    default=10,
    show_default=True,
    help="Number of models, aliases, origins and profiles to list, most expensive first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what GET /api/v1/stats returns.")
def stats(env: str, data_dir: Path, project: str, *, as_json: bool, **options: Any) -> None:
    """Show what the calls of a project cost: in total, by period, model, alias and origin."""
    query = _query(**options)

    async def read(ring: Ring) -> ProjectStats:
        found = await project_to_read(ring, project)
        name = found.name or str(found.project_id)
        return ProjectStats(name, await ring.usage.stats(found.project_id, query))

    name, found = environment.with_ring(env, data_dir, read)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        _print(name, query, found)


def _query(
    start_date: datetime | date | None,
    end_date: datetime | date | None,
    tz: str,
    group_by: Literal["hour", "day", "week", "month"],
    top: int,
) -> StatsQuery:
    try:
        return StatsQuery(
            start_date=start_date, end_date=end_date, tz=tz, group_by=group_by, top=top
        )
    except ValidationError as exc:
        raise click.UsageError("\n".join(lines_of(exc, "stats"))) from exc


def _print(project: str, query: StatsQuery, found: UsageStats) -> None:
    summary = found.summary
    since, until = query.bounds()
    CONSOLE.print(f"Project {project}, {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC")
    counts = {
        "failed": summary.total_errors,
        "without a known price": summary.unpriced_requests,
        "of unknown usage": summary.unknown_usage_requests,
    }
    facts = [f"{count:,} {text}" for text, count in counts.items() if count]
    calls = f"{summary.total_requests:,} calls" + (f" ({', '.join(facts)})" if facts else "")
    CONSOLE.print(f"{calls}, {summary.total_tokens:,} tokens, {_usd(summary.total_cost)} USD")
    if not summary.total_requests:
        return
    periods = _table(query.group_by, "calls", "failed", "USD")
    periods.add_column("top model", overflow="fold")
    for period in found.by_day:
        name = f"{period.date}{' (partial)' if period.partial else ''}"
        numbers = _numbers(period.requests, period.errors)
        periods.add_row(name, *numbers, _usd(period.cost), period.top_model)
    CONSOLE.print(periods)
    _print_labels("model", found.by_model)
    _print_labels("alias", found.by_alias)
    _print_labels("origin", found.by_origin)
    # One profile, the default, says nothing.
    if len(found.by_profile) > 1:
        _print_labels("profile", found.by_profile)


def _print_labels(kind: str, totals: Mapping[str, LabelTotals]) -> None:
    if not totals:
        return
    table = _table(kind, "calls", "failed", "input", "output", "cached", "USD")
    for label, total in totals.items():
        tokens = total.input_tokens, total.output_tokens, total.cached_input_tokens
        table.add_row(label, *_numbers(total.requests, total.errors, *tokens), _usd(total.cost))
    CONSOLE.print(table)


def _table(first: str, *numbers: str) -> Table:
    return Table(
        Column(first, overflow="fold"), *(Column(name, justify="right") for name in numbers)
    )


def _numbers(*values: int) -> list[str]:
    return [f"{value:,}" for value in values]


def _usd(amount: Decimal) -> str:
    """Write an exact amount, with at least two digits after the point."""
    whole, _, fraction = decimal_text(amount).partition(".")
    return f"{int(whole):,}.{fraction:0<2}"
