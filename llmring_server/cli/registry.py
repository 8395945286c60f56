"""`llmring-server registry`: models and prices from the public registry."""

from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import rich_click as click
from rich.table import Table

from llmring_server.cli import environment
from llmring_server.cli.output import CONSOLE
from llmring_server.registry.diff import RegistryDiff, diff_registries
from llmring_server.registry.models import RegistryEdition
from llmring_server.registry.price_fields import USD_PER_MILLION_TOKENS
from llmring_server.registry.service import ProviderStatus, QuarantinedFile
from llmring_server.ring import Ring


class Status(NamedTuple):
    edition: RegistryEdition
    providers: dict[str, ProviderStatus]
    quarantined: list[QuarantinedFile]


@click.group()
def registry() -> None:
    """Inspect and refresh the model registry; accept quarantined files."""


@registry.command()
@environment.options
def status(env: str, data_dir: Path) -> None:
    """Show what is served for each provider, and the outcome of the last refresh."""
    status = environment.with_ring(env, data_dir, _status)
    table = Table("provider", "models", "version", "since", title=f"Edition {status.edition.id}")
    for name in ("last success", "last attempt"):
        table.add_column(name, no_wrap=True)
    table.add_column("outcome", ratio=1)
    for file in status.edition.files:
        version = str(file.version) if file.id else "built-in"
        table.add_row(
            file.provider,
            str(len(file.models)),
            version,
            f"{file.valid_from:%F}",
            *_attempts(status.providers.get(file.provider)),
        )
    CONSOLE.print(table)
    if status.quarantined:
        _print_quarantined(status.quarantined)


def _attempts(status: ProviderStatus | None) -> list[str]:
    if not status:
        return ["never", "never", ""]
    return [_ago(status.success_age), _ago(status.attempt_age), status.outcome or "in progress"]


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {name} ago"
    return f"{seconds:.0f} s ago"


async def _status(ring: Ring) -> Status:
    snapshot = await ring.registry.cached_snapshot()
    edition = await ring.registry.edition(snapshot.latest_id)
    providers = {status.provider: status for status in await ring.registry.status()}
    return Status(edition, providers, await ring.registry.quarantined())


def _print_quarantined(files: list[QuarantinedFile]) -> None:
    table = Table("file", "provider", "models", "version", "reason", title="Quarantined")
    for file, reason in files:
        table.add_row(str(file.id), file.provider, str(len(file.models)), str(file.version), reason)
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
    if not all(outcome.succeeded for outcome in outcomes):
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

    async def compare(ring: Ring) -> tuple[str, RegistryDiff]:
        older_id, newer_id = await _editions(ring, before, after)
        older = await ring.registry.proposed_edition(older_id)
        newer = await ring.registry.proposed_edition(newer_id)
        return f"From {older_id} to {newer_id}", diff_registries(older.models, newer.models)

    title, difference = environment.with_ring(env, data_dir, compare)
    _print_diff(title, difference)


async def _editions(ring: Ring, before: int | None, after: int | None) -> tuple[int, int]:
    """Return the editions to compare, with the defaults for those that are None."""
    snapshot = await ring.registry.cached_snapshot()
    accepted = sorted([0, *(file.id for file in snapshot.history)])
    quarantined = [file.id for file, _ in await ring.registry.quarantined()]
    if after is None:
        after = quarantined[-1] if quarantined else accepted[-1]
    if before is None:
        earlier = accepted if after in quarantined else [id for id in accepted if id < after]
        before = earlier[-1] if earlier else 0
    return before, after


def _print_diff(title: str, difference: RegistryDiff) -> None:
    if not any(difference):
        click.echo(f"{title}: no differences.")
        return
    table = Table("model", "USD per million tokens", "before", "after", title=title)
    for key in difference.added:
        table.add_row(key, "", "", "added")
    for key in difference.removed:
        table.add_row(key, "", "", "removed")
    for change in difference.price_changes:
        kind = change.field.removeprefix(USD_PER_MILLION_TOKENS)
        table.add_row(change.model, kind, _price_text(change.before), _price_text(change.after))
    CONSOLE.print(table)


def _price_text(price: Decimal | None) -> str:
    return "unknown" if price is None else f"{price:f}"
