"""`llmring-server prices`: what models cost, and what calls should have cost."""

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

UNITS = {10**6: "a million tokens", 10**3: "a thousand"}


class Utc(click.DateTime):
    """A date, or a time, in UTC."""

    def convert(self, value: Any, *at: Any) -> datetime:
        return super().convert(value, *at).replace(tzinfo=UTC)


DATE = Utc(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@click.group()
def prices() -> None:
    """Show, set and check what models cost; rate calls again."""


@prices.command()
@environment.options
@click.argument("provider")
@click.argument("model")
@click.option("--tier", "service_tier", help="The service tier: batch, flex, priority ...")
@click.option("--at", type=DATE, help="At a time (UTC), rather than now.")
def show(env: str, data_dir: Path, **sought: Any) -> None:
    """Show what a model costs: each price in the book, the one that goes first first."""
    wanted = PriceQuery(**sought)
    for price in environment.with_ring(env, data_dir, lambda ring: ring.prices.find(wanted)):
        _print(price)


def _print(price: PriceDetail) -> None:
    tier = f", {price.service_tier}" if price.service_tier else ""
    since = f", since {price.since:%Y-%m-%d}" if price.since else ""
    click.echo(f"{price.provider} {price.model}{tier}, {price.source}: {price.version}{since}")
    table = Table("kind", "USD", "for")
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
        help = f"USD for {UNITS[UNITS_PER_PRICE[kind]]}."
        option = click.option(f"--{kind.replace('_', '-')}", metavar="USD", help=help)
        command = option(command)
    return command


@prices.command()
@environment.options
@click.argument("provider", required=False)
@click.argument("model", required=False)
@click.option("--tier", help="For this service tier only.")
@click.option("--since", type=DATE, help="For calls from then on (UTC), rather than for all.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--remove", is_flag=True, help="Take back what was set for the model.")
@_kinds
def override(env: str, data_dir: Path, **given: Any) -> None:
    """Set what a model costs here, before what anyone else says; without a model, list what is set.

    --file takes a JSON list of {provider, model, service_tier, since, rates}, where a rate may be
    {"base": "1.25", "above": {"200000": "2.50"}} for longer prompts.
    """
    named = given["provider"], given["model"]
    actor = environment.operator()
    if given["remove"] and not all(named):
        raise click.UsageError("Name the provider and the model whose price to take back.")
    if given["remove"]:
        count = environment.with_ring(
            env, data_dir, lambda ring: ring.prices.withdraw(*named, actor=actor)
        )
        click.echo(f"Removed: {count}")
    elif given["file"] or all(named):
        wanted = _overrides(given)
        environment.with_ring(env, data_dir, lambda ring: ring.prices.override(wanted, actor=actor))
        click.echo(f"Set: {len(wanted)}. In force everywhere within 5 seconds.")
        click.echo("Calls of the past keep their cost until: prices rerate", err=True)
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
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 400))
def check(env: str, data_dir: Path, days: int) -> None:
    """List the models whose calls have no price; exit with 1 if there are any."""
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
    click.echo("Set a price with prices override, then: prices rerate", err=True)
    raise SystemExit(1)


@prices.command()
@environment.options
@click.option("--since", type=DATE, required=True, help="From then on (UTC).")
@click.option("--until", type=DATE, help="Until then, rather than now.")
@click.option("--model", help="Of this model only.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
def rerate(env: str, data_dir: Path, **given: Any) -> None:
    """Rate calls again by the prices of their time as they are known today.

    Costs that clients gave stay. What a call was recorded with stays, too: the difference is added
    as an adjustment, which statistics show apart.
    """
    calls = RerateFilter(given["since"], given["until"] or datetime.now(UTC), given["model"])
    dry_run = given["dry_run"]
    found = environment.with_ring(env, data_dir, lambda ring: _rerate(ring, calls, dry_run=dry_run))
    if found:
        CONSOLE.print(_differences(found))
    click.echo("Nothing was changed." if dry_run or not found else "Adjusted.", err=True)


async def _rerate(ring: Ring, calls: RerateFilter, *, dry_run: bool) -> CostDeltas:
    found: CostDeltas = defaultdict(CostDelta)
    with Progress(
        SpinnerColumn(), TextColumn("{task.completed:,.0f} calls cost something else")
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
    table = Table("day", "model", "calls", "of these unpriced", "before", "after", "difference")
    for (day, provider, model), each in sorted(found.items()):
        costs = (each.before, each.after, each.after - each.before)
        amounts = (f"{cost.normalize():f}" for cost in costs)
        table.add_row(
            f"{day}", f"{provider} {model}", f"{each.calls:,}", f"{each.unpriced:,}", *amounts
        )
    return table
