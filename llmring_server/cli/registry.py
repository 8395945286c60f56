"""`llmring-server registry`: models and prices from the public registry."""

from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import rich_click as click
from rich.table import Table

from llmring_server.cli import environment
from llmring_server.cli.output import CONSOLE
from llmring_server.registry.diff import RegistryDiff, diff_registries
from llmring_server.registry.models import PRICES, RegistryEdition
from llmring_server.registry.service import ProviderStatus, QuarantinedFile
from llmring_server.ring import Ring


class Status(NamedTuple):
    edition: RegistryEdition
    sources: dict[str, ProviderStatus]
    doubtful: list[QuarantinedFile]


@click.group()
def registry() -> None:
    """Inspect and refresh the model registry; accept quarantined files."""


@registry.command()
@environment.options
def status(env: str, data_dir: Path) -> None:
    """Show what is served for each provider, and the outcome of the last refresh."""
    found = environment.with_ring(env, data_dir, _status)
    table = Table("provider", "models", "version", "since", title=f"Edition {found.edition.id}")
    for name in ("last success", "last attempt"):
        table.add_column(name, no_wrap=True)
    table.add_column("outcome", ratio=1)
    for file in found.edition.files:
        version = str(file.version) if file.id else "built-in"
        tried = _tried(found.sources.get(file.provider))
        table.add_row(file.provider, str(len(file.models)), version, f"{file.since:%F}", *tried)
    CONSOLE.print(table)
    if found.doubtful:
        _tell_doubts(found.doubtful)


def _tried(source: ProviderStatus | None) -> list[str]:
    if not source:
        return ["never", "never", ""]
    return [_ago(source.checked), _ago(source.tried), source.outcome or "under way"]


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {name} ago"
    return f"{seconds:.0f} s ago"


async def _status(ring: Ring) -> Status:
    known = await ring.registry.known()
    edition = await ring.registry.edition(max((file.id for file in known.history), default=0))
    sources = {source.provider: source for source in await ring.registry.sources()}
    return Status(edition, sources, await ring.registry.doubtful())


def _tell_doubts(doubtful: list[QuarantinedFile]) -> None:
    table = Table("file", "provider", "models", "version", "reason", title="Quarantined")
    for file, reason in doubtful:
        told = [str(len(file.models)), str(file.version), reason]
        table.add_row(str(file.id), file.provider, *told)
    CONSOLE.print(table)
    click.echo("Review a file with `registry diff`; accept it with `registry accept FILE`.")


@registry.command()
@environment.options
def refresh(env: str, data_dir: Path) -> None:
    """Refresh all providers from the registry now."""
    outcomes = environment.with_ring(env, data_dir, lambda ring: ring.registry.refresh())
    table = Table("provider", "outcome")
    for outcome in outcomes:
        table.add_row(outcome.provider, outcome.text)
    CONSOLE.print(table)
    if not all(outcome.good for outcome in outcomes):
        raise SystemExit(1)


@registry.command()
@environment.options
@click.argument("file", type=int)
def accept(env: str, data_dir: Path, file: int) -> None:
    """Accept the quarantined FILE. Every process uses it within 5 seconds."""
    actor = environment.operator()
    id = environment.with_ring(env, data_dir, lambda ring: ring.registry.accept(file, actor=actor))
    click.echo(f"Accepted file {file} as edition {id}.")


@registry.command()
@environment.options
@click.argument("before", type=int, required=False)
@click.argument("after", type=int, required=False)
def diff(env: str, data_dir: Path, before: int | None, after: int | None) -> None:
    """Show the differences between two editions, BEFORE and AFTER.

    Editions are numbers: 0 is the built-in price book, and the number of a quarantined file is
    the edition that accepting it would create. By default, AFTER is the latest quarantined file,
    or else the newest edition, and BEFORE is the edition that precedes it.
    """

    async def work(ring: Ring) -> tuple[str, RegistryDiff]:
        older, newer = await _pair(ring, before, after)
        editions = [await ring.registry.proposed(id) for id in (older, newer)]
        return f"From {older} to {newer}", diff_registries(*(each.models for each in editions))

    _show(*environment.with_ring(env, data_dir, work))


async def _pair(ring: Ring, before: int | None, after: int | None) -> tuple[int, int]:
    good = sorted([0, *(file.id for file in (await ring.registry.known()).history)])
    doubtful = [each.file.id for each in await ring.registry.doubtful()]
    newer = [*good, *doubtful][-1] if after is None else after
    followed = good if newer in doubtful else [0, *(id for id in good if id < newer)]
    return followed[-1] if before is None else before, newer


def _show(title: str, difference: RegistryDiff) -> None:
    if not any(difference):
        click.echo(f"{title}: no differences.")
        return
    table = Table("model", "USD per million tokens", "before", "after", title=title)
    for key in difference.added:
        table.add_row(key, "", "", "added")
    for key in difference.removed:
        table.add_row(key, "", "", "removed")
    for key, price, *prices in difference.changes:
        table.add_row(key, price.removeprefix(PRICES[0]), *map(_price, prices))
    CONSOLE.print(table)


def _price(price: Decimal | None) -> str:
    return "unknown" if price is None else f"{price:f}"
