"""`llmring-server prices`: show, override and check prices; re-rate calls."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rich_click as click
from pydantic import ValidationError
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from llmring_server.cli import environment
from llmring_server.cli.output import CONSOLE
from llmring_server.pricing.cost import UNITS_PER_PRICE
from llmring_server.pricing.models import PriceDetail, PriceQuery
from llmring_server.pricing.rerating import CostChange, CostDelta, CostDeltas, RerateFilter, add_up
from llmring_server.pricing.sources import OVERRIDES, PriceOverride
from llmring_server.ring import Ring

UNITS = {10**6: "1,000,000 tokens", 10**3: "1,000 requests"}


class Utc(click.DateTime):
    """A date, or a time, in UTC."""

    def convert(self, value: Any, *at: Any) -> datetime:
        return super().convert(value, *at).replace(tzinfo=UTC)


DATE = Utc(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@click.group()
def prices() -> None:
    """Show, override and check prices; re-rate calls."""


@prices.command()
@environment.options
@click.argument("provider")
@click.argument("model")
@click.option("--tier", "service_tier", help="Service tier, such as batch, flex or priority.")
@click.option("--at", type=DATE, help="Show the prices at this time (UTC) instead of now.")
def show(env: str, data_dir: Path, **sought: Any) -> None:
    """Show the prices of a model from every source, in order of precedence."""
    wanted = PriceQuery(**sought)
    for price in environment.with_ring(env, data_dir, lambda ring: ring.prices.find(wanted)):
        _print(price)


def _print(price: PriceDetail) -> None:
    tier = f", {price.service_tier}" if price.service_tier else ""
    since = f", since {price.since:%Y-%m-%d}" if price.since else ""
    click.echo(f"{price.provider} {price.model}{tier}, {price.source}: {price.version}{since}")
    table = Table("kind", "USD", "per")
    for kind, rate in price.rates.items():
        table.add_row(kind, _rate(rate), UNITS[UNITS_PER_PRICE[kind]])
    CONSOLE.print(table)


def _rate(rate: Any) -> str:
    if isinstance(rate, str):
        return rate
    above = (f"{price or '?'} above {int(start):,}" for start, price in rate["above"].items())
    return f"{rate['base']}; {'; '.join(above)}"


def _kinds(command: Any) -> Any:
    for kind in reversed(UNITS_PER_PRICE):
        help = f"USD per {UNITS[UNITS_PER_PRICE[kind]]}."
        option = click.option(f"--{kind.replace('_', '-')}", metavar="USD", help=help)
        command = option(command)
    return command


@prices.command()
@environment.options
@click.argument("provider", required=False)
@click.argument("model", required=False)
@click.option("--tier", help="Only for this service tier.")
@click.option("--since", type=DATE, help="Only for calls from this time (UTC) on.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file with a list of overrides.",
)
@click.option("--remove", is_flag=True, help="Remove the overrides of the model.")
@_kinds
def override(env: str, data_dir: Path, **given: Any) -> None:
    """Set prices of a model that take precedence; without arguments, list all overrides.

    --file reads a JSON list of {provider, model, service_tier, since, rates}. A rate is an amount
    or, for longer prompts, {"base": "1.25", "above": {"200000": "2.50"}}.
    """
    named = given["provider"], given["model"]
    actor = environment.operator()
    if given["remove"] and not all(named):
        raise click.UsageError("--remove needs a provider and a model.")
    if given["remove"]:
        count = environment.with_ring(
            env, data_dir, lambda ring: ring.prices.withdraw(*named, actor=actor)
        )
        click.echo(f"Removed: {count}")
    elif given["file"] or all(named):
        wanted = _overrides(given)
        environment.with_ring(env, data_dir, lambda ring: ring.prices.override(wanted, actor=actor))
        click.echo(f"Set: {len(wanted)}. Every process uses the new prices within 5 seconds.")
        click.echo("Past calls keep their cost; to change it, run: prices rerate", err=True)
    else:
        for price in environment.with_ring(env, data_dir, lambda ring: ring.prices.overrides()):
            _print(price)


def _overrides(given: dict[str, Any]) -> list[PriceOverride]:
    rates = {kind: given[kind] for kind in UNITS_PER_PRICE if given[kind] is not None}
    one = {
        "provider": given["provider"],
        "model": given["model"],
        "service_tier": given["tier"],
        "rates": rates,
    } | ({"since": given["since"]} if given["since"] else {})
    try:
        if given["file"]:
            return OVERRIDES.validate_json(given["file"].read_bytes())
        return [PriceOverride.model_validate(one)]
    except ValidationError as exc:
        wrong = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in exc.errors())
        raise click.UsageError("\n".join(wrong)) from exc


@prices.command()
@environment.options
@click.option(
    "--days",
    default=30,
    show_default=True,
    type=click.IntRange(1, 400),
    help="Number of past days to check.",
)
def check(env: str, data_dir: Path, days: int) -> None:
    """List the models of unpriced calls; exit with 1 if there are any."""
    since = datetime.now(UTC) - timedelta(days=days)
    found = environment.with_ring(env, data_dir, lambda ring: ring.prices.unpriced(since))
    if not found:
        click.echo(f"Every call of the last {days} days has a cost.")
        return
    table = Table("provider", "model", "calls", "first", "last")
    for each in found:
        times = (f"{at:%Y-%m-%d %H:%M}" for at in (each.first_at, each.last_at))
        table.add_row(each.provider, each.model, f"{each.calls:,}", *times)
    CONSOLE.print(table)
    click.echo("Set a price with prices override, then run: prices rerate", err=True)
    raise SystemExit(1)


@prices.command()
@environment.options
@click.option("--since", type=DATE, required=True, help="Start time (UTC).")
@click.option("--until", type=DATE, help="End time (UTC); default: now.")
@click.option("--model", help="Only calls of this model.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
def rerate(env: str, data_dir: Path, **given: Any) -> None:
    """Re-rate past calls with the prices that are known today for their time.

    Costs that clients reported are not changed, and calls are never edited: the difference is
    stored as an adjustment, which statistics show separately.
    """
    calls = RerateFilter(given["since"], given["until"] or datetime.now(UTC), given["model"])
    dry_run = given["dry_run"]
    found = environment.with_ring(env, data_dir, lambda ring: _rerate(ring, calls, dry_run=dry_run))
    if found:
        CONSOLE.print(_differences(found))
    click.echo("Nothing was changed." if dry_run or not found else "Adjustments stored.", err=True)


async def _rerate(ring: Ring, calls: RerateFilter, *, dry_run: bool) -> CostDeltas:
    found: CostDeltas = defaultdict(CostDelta)
    with Progress(
        SpinnerColumn(), TextColumn("{task.completed:,.0f} calls with a different cost")
    ) as progress:
        task = progress.add_task("", total=None)

        def add(page: list[CostChange]) -> None:
            add_up(page, found)
            progress.advance(task, len(page))

        if dry_run:
            async for page in ring.rerating.preview(calls):
                add(page)
        else:
            await ring.rerating.run(calls, actor=environment.operator(), progress=add)
    return found


def _differences(found: CostDeltas) -> Table:
    table = Table("day", "model", "calls", "unpriced", "before", "after", "difference")
    for (day, provider, model), each in sorted(found.items()):
        costs = (each.before, each.after, each.after - each.before)
        amounts = (f"{cost.normalize():f}" for cost in costs)
        table.add_row(
            f"{day}", f"{provider} {model}", f"{each.calls:,}", f"{each.unpriced:,}", *amounts
        )
    return table
