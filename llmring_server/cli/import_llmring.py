"""`llmring-server import llmring`: the data of an llmring-server 0.1, compared at the end."""

import sys
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import rich_click as click
from rich.table import Table

from llmring_server.cli import environment
from llmring_server.cli.dates import DATE, in_utc, tz_option
from llmring_server.cli.environment import project_options
from llmring_server.cli.output import CONSOLE, Progress
from llmring_server.core.connection_string import parse
from llmring_server.core.identity import project_of_key
from llmring_server.imports.llmring import KindReport, LlmringReport
from llmring_server.imports.llmring_source import LEFT_OUT, Totals, open_llmring
from llmring_server.ring import Ring

# Names of kinds for people; the others are called as they are.
_NAMES: Mapping[str, str] = {
    "servers": "MCP servers",
    "tools": "MCP tools",
    "resources": "MCP resources",
    "prompts": "MCP prompts",
    "executions": "MCP executions",
}
# Rows of these have tokens and costs; those of conversations are their totals.
_WITH_AMOUNTS = ("calls", "conversations", "messages")


class DatabaseUrl(click.ParamType[str]):
    """The URL of a database; `-` reads it from standard input."""

    name = "url"

    def convert(self, value: str, *context: Any) -> str:
        url = sys.stdin.readline().strip() if value == "-" else value
        try:
            parse(url)
        except ValueError as exc:
            self.fail(str(exc), *context)
        return url


@click.command("llmring")
@project_options
@click.option(
    "--from",
    "url",
    type=DatabaseUrl(),
    required=True,
    help="Database of the llmring-server 0.1: postgresql://...; - reads it from standard input.",
)
@click.option(
    "--schema", default="llmring", show_default=True, help="Schema of that server's tables."
)
@click.option(
    "--since",
    type=DATE,
    help="Only calls and MCP executions from this date or time on, and conversations that were"
    " changed since then.",
)
@tz_option
@click.option(
    "--zero-cost",
    type=click.Choice(["unpriced", "free"]),
    default="unpriced",
    show_default=True,
    help="How to import a call that used tokens and has a cost of 0.",
)
@click.option("--dry-run", is_flag=True, help="Read everything and change nothing.")
def import_llmring(  # noqa: PLR0913, PLR0917, they are the options
    env: str,
    data_dir: Path,
    project: str,
    url: str,
    schema: str,
    since: datetime | None,
    tz: str,
    *,
    zero_cost: str,
    dry_run: bool,
) -> None:
    """Import all data of an llmring-server 0.1. Each row is imported once.

    Calls, conversations with their messages, templates, and MCP servers with their capabilities and
    executions are read in one snapshot; the source is not changed. Each API key becomes the project
    that it names in mode open; keys are not stored. Rows of neither a key nor a project go to
    --project.

    The command can be interrupted and repeated. It ends with a comparison of both sides, and with
    the exit code 1 if something is not stored.
    """
    progress = Progress()

    def show(kind: KindReport) -> None:
        name = _name(kind)
        progress.show(f"{name}: {kind.read:,} of {kind.source.rows:,} read")

    async def store(ring: Ring) -> tuple[LlmringReport, Mapping[str, int], list[str]]:
        async with open_llmring(url, schema, in_utc(since, tz)) as source:
            project_id = None
            if source.without_owner:
                # A key of the source must not become the name of a project: it would be stored.
                if await source.has_key(project):
                    project_id = project_of_key(project)
                else:
                    project_id = await environment.find_or_create_project(
                        ring, project, dry_run=dry_run
                    )
            report = await ring.llmring_import.run(
                source,
                actor=environment.operator(),
                without_owner=project_id,
                zero_cost_is_free=zero_cost == "free",
                dry_run=dry_run,
                progress=show,
            )
            return report, source.left_out, source.absent

    report, left_out, absent = environment.with_ring(env, data_dir, store, writes=not dry_run)
    _print(report, left_out, dry_run=dry_run)
    if absent:
        click.echo(f"The database has no tables {', '.join(absent)}: nothing was read of them.")
    if not report.is_complete:
        raise SystemExit(1)


def _print(report: LlmringReport, left_out: Mapping[str, int], *, dry_run: bool) -> None:
    table = Table("", "", "source", "would be here" if dry_run else "here", "difference")
    for column in table.columns[2:]:
        column.justify = "right"
        column.no_wrap = True
    for kind in report.kinds:
        sides = (kind.source, kind.here, kind.difference)
        name = _name(kind)
        table.add_row(name, "rows", *(f"{side.rows:,}" for side in sides))
        if kind.kind in _WITH_AMOUNTS:
            table.add_row("", "tokens", *(f"{side.tokens:,}" for side in sides))
            table.add_row("", "USD", *(_dollars(side.cost) for side in sides))
    CONSOLE.print(table)
    for kind in report.kinds:
        name = _name(kind)
        for reason, totals in kind.refused.items():
            click.echo(f"{name} not stored: {_amount(kind.kind, totals)}: {reason}.")
            more = ", ..." if totals.rows > len(kind.ids[reason]) else ""
            click.echo(f"  ids: {', '.join(map(str, kind.ids[reason]))}{more}")
        if kind.unexplained != Totals():
            # Someone changes rows meanwhile, such as deleting messages that were just stored.
            click.echo(
                f"{name} that differ without a known reason:"
                f" {_amount(kind.kind, kind.unexplained)}."
            )
    for note, count in report.notes.items():
        click.echo(f"{count:,} rows with {note}.")
    for name, rows in left_out.items():
        click.echo(f"Not imported: {rows:,} rows of {name}; {LEFT_OUT[name]}.")
    stored = sum(kind.stored for kind in report.kinds)
    known = sum(kind.known for kind in report.kinds)
    click.echo(f"{'to be stored' if dry_run else 'stored'}: {stored:,}")
    click.echo(f"stored before: {known:,}")


def _name(kind: KindReport) -> str:
    return _NAMES.get(kind.kind, kind.kind)


def _amount(kind: str, totals: Totals) -> str:
    if kind not in _WITH_AMOUNTS:
        return f"{totals.rows:,} rows"
    return f"{totals.rows:,} rows, {totals.tokens:,} tokens, {_dollars(totals.cost)} USD"


def _dollars(cost: Decimal) -> str:
    return f"{cost.normalize():,f}"
