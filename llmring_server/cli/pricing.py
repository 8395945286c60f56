"""`llmring-server prices`: show, override and check prices; re-rate calls."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import rich_click as click
from pydantic import ValidationError
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from llmring_server.cli import environment
from llmring_server.cli.dates import DATE, in_utc, tz_option
from llmring_server.cli.output import CONSOLE
from llmring_server.core.identity import Actor
from llmring_server.core.money import decimal_text
from llmring_server.core.providers import normal_provider
from llmring_server.core.time_range import first_instant
from llmring_server.core.time_zones import zone_of
from llmring_server.core.validation import lines_of
from llmring_server.pricing.cost import UNITS_PER_PRICE
from llmring_server.pricing.models import PriceDetail, PriceQuery
from llmring_server.pricing.price_book import EPOCH
from llmring_server.pricing.rerating import (
    CostChange,
    CostDelta,
    CostDeltas,
    RerateFilter,
    add_changes,
)
from llmring_server.pricing.service import MAX_UNPRICED_MODELS
from llmring_server.pricing.service_tiers import normal_tier
from llmring_server.pricing.sources import MAX_OVERRIDE_USD, OVERRIDES, PriceOverride
from llmring_server.ring import Ring

UNITS = {
    "web_search": "1,000 searches",
    "request": "1,000 requests",
    "audio_second": "hour of audio",
    "video_second": "second of video",
    "character": "1,000,000 characters",
    "image": "image",
}

# An option says its unit where the kind does not.
OPTION_NAMES = {"audio_second": "audio-hour"}

NO_MODEL = "A price needs a provider and a model, such as openai gpt-4o or openai:gpt-4o."


@click.group()
def prices() -> None:
    """Show, override and check prices; re-rate calls."""


@prices.command()
@environment.options
@click.argument("provider")
@click.argument("model", required=False)
@click.option("--tier", "service_tier", help="Service tier, such as batch, flex or priority.")
@click.option("--at", type=DATE, help="Show the prices at this time instead of now.")
@tz_option
def show(env: str, data_dir: Path, provider: str, model: str | None, **options: Any) -> None:
    """Show the prices of a model from every source, in order of precedence.

    Name it with two arguments, or with one: provider:model.
    """
    provider, model = _provider_and_model(provider, model)
    tz = options.pop("tz")
    options["at"] = in_utc(options["at"], tz)
    query = PriceQuery(provider=provider, model=model, **options)
    for price in environment.with_ring(env, data_dir, lambda ring: ring.pricing.find(query)):
        _print_price(price, tz)


def _provider_and_model(provider: str, model: str | None) -> tuple[str, str]:
    """Return provider and model, which may both be in the first argument: provider:model."""
    if model is None:
        provider, _, model = provider.partition(":")
    if not (provider and model):
        raise click.UsageError(NO_MODEL)
    return provider, model


def _print_price(price: PriceDetail, tz: str) -> None:
    tier = f", {price.service_tier}" if price.service_tier else ""
    valid_from = price.valid_from and price.valid_from.astimezone(zone_of(tz))
    since = f", since {valid_from:%Y-%m-%d}" if valid_from else ""
    click.echo(f"{price.provider} {price.model}{tier}, {price.source}: {price.version}{since}")
    table = Table("kind", "USD", "per")
    for kind, rate in price.rates.items():
        table.add_row(kind, _rate_text(rate), _unit(kind))
    CONSOLE.print(table)


def _unit(kind: str) -> str:
    return UNITS.get(kind, "1,000,000 tokens")


def _rate_text(rate: Any) -> str:
    if isinstance(rate, str):
        return rate
    tiers = [
        f"{price or '?'} above {int(threshold):,}" for threshold, price in rate["above"].items()
    ]
    return "; ".join([rate["base"], *tiers])


class Amount(click.ParamType[str]):
    """An amount of money, as it is written."""

    name = "amount"

    def convert(self, value: str, *context: Any) -> str:
        try:
            amount = Decimal(value)
        except InvalidOperation:
            amount = Decimal("NaN")
        if not amount.is_finite():
            self.fail(f"{value} is not a number.", *context)
        if not 0 <= amount <= MAX_OVERRIDE_USD:
            self.fail(f"{value} is not between 0 and {MAX_OVERRIDE_USD:,}.", *context)
        return value


def _rate_options(command: Any) -> Any:
    """Add an option for the rate of each kind of usage."""
    for kind in reversed(UNITS_PER_PRICE):
        name = OPTION_NAMES.get(kind, kind.replace("_", "-"))
        help = f"USD per {_unit(kind)}."
        option = click.option(f"--{name}", kind, type=Amount(), metavar="USD", help=help)
        command = option(command)
    return command


@prices.command()
@environment.options
@click.argument("provider", required=False)
@click.argument("model", required=False)
@click.option("--tier", help="Only for this service tier.")
@click.option("--valid-from", type=DATE, help="Only for calls from this time on.")
@tz_option
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file with a list of overrides.",
)
@click.option("--remove", is_flag=True, help="Remove the overrides of the model.")
@_rate_options
def override(env: str, data_dir: Path, **options: Any) -> None:
    """Set prices of a model that take precedence; without arguments, list all overrides.

    An override has all rates of its model, service tier and --valid-from: it replaces the earlier
    one, also those of its rates that are not given now.

    --file reads a JSON list of {provider, model, service_tier, valid_from, rates}. A rate is an
    amount or, for longer prompts, {"base": "1.25", "above": {"200000": "2.50"}}.
    """
    provider = options["provider"]
    model = options["model"]
    tz = options.pop("tz")
    options["valid_from"] = in_utc(options["valid_from"], tz)
    if provider:
        provider, model = _provider_and_model(provider, model)
        options |= {"provider": provider, "model": model}
    actor = environment.operator()
    if options["remove"]:
        if not provider:
            raise click.UsageError("--remove needs a provider and a model.")
        count = environment.with_ring(
            env,
            data_dir,
            lambda ring: ring.pricing.withdraw(provider, model, actor=actor),
            writes=True,
        )
        click.echo(f"Removed: {count}")
    elif options["file"] or provider:
        prices = _parse_overrides(options)
        changes = environment.with_ring(
            env, data_dir, lambda ring: _override(ring, prices, actor), writes=True
        )
        for change in changes:
            _print_change(change)
        click.echo(f"Set: {len(prices)}. Every process uses the new prices within 5 seconds.")
        click.echo("Past calls keep their cost; to change it, run: prices rerate", err=True)
    elif any(value is not None for name, value in options.items() if name != "remove"):
        raise click.UsageError(NO_MODEL)
    else:
        for price in environment.with_ring(env, data_dir, lambda ring: ring.pricing.overrides()):
            _print_price(price, tz)


class _Change(NamedTuple):
    """A price that was set, the one that it replaces, and what has prices of its own."""

    before: PriceDetail | None
    price: PriceDetail
    dated_names: list[str]


async def _override(ring: Ring, prices: list[PriceOverride], actor: Actor) -> list[_Change]:
    """Set prices; return what each changed."""
    before = {_key(price): price for price in await ring.pricing.overrides()}
    await ring.pricing.override(prices, actor=actor)
    after = {_key(price): price for price in await ring.pricing.overrides()}
    keys = dict.fromkeys(map(_key_of_override, prices))
    book = await ring.pricing.book()
    changes = []
    for key in keys:
        price = after[key]
        dated_names = book.dated_names(price.provider, price.model)
        changes.append(_Change(before.get(key), price, dated_names))
    return changes


def _key(price: PriceDetail) -> tuple[object, ...]:
    """Return what two overrides have in common of which the newer one counts."""
    provider = normal_provider(price.provider)
    return provider, price.model, price.service_tier, price.valid_from


def _key_of_override(price: PriceOverride) -> tuple[object, ...]:
    valid_from = None if price.valid_from == EPOCH else price.valid_from
    tier = price.service_tier and normal_tier(price.service_tier)
    return normal_provider(price.provider), price.model, tier or None, valid_from


def _print_change(change: _Change) -> None:
    before, price, dated_names = change
    old, new = before.rates if before else {}, price.rates
    tier = f", {price.service_tier}" if price.service_tier else ""
    click.echo(f"{price.provider} {price.model}{tier}")
    table = Table("kind", "USD before", "USD now", "per")
    for kind in [kind for kind in UNITS_PER_PRICE if kind in old or kind in new]:
        rates = [_rate_text(rates[kind]) if kind in rates else "none" for rates in (old, new)]
        table.add_row(kind, *rates, _unit(kind))
    CONSOLE.print(table)
    if before:
        click.echo("All earlier rates of this override are replaced.", err=True)
    if dated_names:
        click.echo(
            f"Versions with prices of their own keep them: {', '.join(dated_names)}. To change"
            " them, override them, too.",
            err=True,
        )


def _parse_overrides(options: dict[str, Any]) -> list[PriceOverride]:
    """Return the overrides of the file, or the one that the options describe."""
    try:
        if options["file"]:
            return OVERRIDES.validate_json(options["file"].read_bytes())
        rates = {kind: options[kind] for kind in UNITS_PER_PRICE if options[kind] is not None}
        if not rates:
            raise click.UsageError("Give at least one price, such as --input 2.")
        override = {
            "provider": options["provider"],
            "model": options["model"],
            "service_tier": options["tier"],
            "rates": rates,
        }
        if options["valid_from"]:
            override["valid_from"] = options["valid_from"]
        return [PriceOverride.model_validate(override)]
    except ValidationError as exc:
        raise click.UsageError("\n".join(lines_of(exc, "override"))) from exc


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
    models = environment.with_ring(env, data_dir, lambda ring: ring.pricing.unpriced(since))
    if not models:
        click.echo(f"Every call of the last {days} days has a cost.")
        return
    table = Table("provider", "model", "calls", "first", "last")
    for model in models:
        table.add_row(
            model.provider,
            model.model,
            f"{model.calls:,}",
            f"{model.first_at:%Y-%m-%d %H:%M}",
            f"{model.last_at:%Y-%m-%d %H:%M}",
        )
    CONSOLE.print(table)
    if len(models) == MAX_UNPRICED_MODELS:
        click.echo(f"Only the {len(models):,} models with most calls are listed.", err=True)
    click.echo("Set a price with prices override, then run: prices rerate", err=True)
    raise SystemExit(1)


@prices.command()
@environment.options
@click.option("--since", type=DATE, required=True, help="Start time.")
@click.option("--until", type=DATE, help="End time; default: now.")
@tz_option
@click.option("--model", help="Only calls of this model.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
def rerate(env: str, data_dir: Path, **options: Any) -> None:
    """Re-rate past calls with the prices that are known today for their time.

    Costs that clients reported are not changed, and calls are never edited: the difference is
    stored as an adjustment, which statistics show separately.
    """
    tz = options["tz"]
    until = in_utc(options["until"], tz) or datetime.now(UTC)
    calls = RerateFilter(first_instant(options["since"], tz), until, options["model"])
    dry_run = options["dry_run"]
    deltas = environment.with_ring(
        env, data_dir, lambda ring: _rerate(ring, calls, dry_run=dry_run)
    )
    if deltas:
        CONSOLE.print(_delta_table(deltas))
    click.echo("Nothing was changed." if dry_run or not deltas else "Adjustments stored.", err=True)


async def _rerate(ring: Ring, calls: RerateFilter, *, dry_run: bool) -> CostDeltas:
    deltas: CostDeltas = defaultdict(CostDelta)
    with Progress(
        SpinnerColumn(), TextColumn("{task.completed:,.0f} calls with a different cost")
    ) as progress:
        task = progress.add_task("", total=None)

        def add(changes: list[CostChange]) -> None:
            add_changes(changes, deltas)
            progress.advance(task, len(changes))

        if dry_run:
            async for changes in ring.rerating.preview(calls):
                add(changes)
        else:
            await ring.rerating.run(calls, actor=environment.operator(), progress=add)
    return deltas


def _delta_table(deltas: CostDeltas) -> Table:
    table = Table("day", "model", "calls", "unpriced", "before", "after", "difference")
    for (day, provider, model), delta in sorted(deltas.items()):
        table.add_row(
            f"{day}",
            f"{provider} {model}",
            f"{delta.calls:,}",
            f"{delta.unpriced:,}",
            decimal_text(delta.before),
            decimal_text(delta.after),
            decimal_text(delta.after - delta.before),
        )
    return table
