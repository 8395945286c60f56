"""`llmring-server keys`: who may call."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rich_click as click
from rich.table import Table

from llmring_server.caller import DEFAULT_SCOPES, SCOPES
from llmring_server.cli import environment
from llmring_server.cli.tables import SCREEN, folding
from llmring_server.keys import Issued, Key, Wanted

UNITS = {"d": "days", "h": "hours", "m": "minutes"}


class Duration(click.ParamType[timedelta]):
    """A number of days, hours or minutes, written 90d, 24h or 30m."""

    name = "duration"

    def convert(self, value: Any, *at: Any) -> timedelta:
        if isinstance(value, timedelta):
            return value
        if not re.fullmatch(r"\d{1,5}[dhm]", value):
            self.fail("write a number of days, hours or minutes: 90d, 24h, 30m", *at)
        return timedelta(**{UNITS[value[-1]]: int(value[:-1])})


@click.group()
def keys() -> None:
    """Issue, list, rotate and revoke API keys."""


@keys.command()
@environment.options
@click.option("--project", default="default", show_default=True, help="Made if there is none.")
@click.option("--label", default="", help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=DEFAULT_SCOPES,
    show_default=True,
    help="What it may do; once for each.",
)
@click.option("--expires", type=Duration(), help="How long it is good: 90d, 24h.")
def issue(env: str, data_dir: Path, project: str, **given: Any) -> None:
    """Issue a key for a project. It is shown now and never again."""
    expires_at = datetime.now(UTC) + given["expires"] if given["expires"] else None
    wanted = Wanted(given["label"], given["scopes"], expires_at)
    actor = environment.operator()
    _show_once(
        environment.on_ring(
            env, data_dir, lambda ring: ring.keys.issue(project, wanted, actor=actor)
        )
    )


def _show_once(issued: Issued) -> None:
    click.echo(issued.secret)
    click.echo(f"Key {issued.id} of tenant {issued.tenant}. Keep it safe.", err=True)


@keys.command("list")
@environment.options
@click.option("--project", help="Of this project only.")
def list_(env: str, data_dir: Path, project: str | None) -> None:
    """List keys, without their secrets."""
    found = environment.on_ring(env, data_dir, lambda ring: ring.keys.list())
    table = folding("key", "project", "label", "scopes", "created", "last used", "good until")
    for key in found:
        if project in {None, key.project}:
            table.add_row(key.id, key.project, key.label, ", ".join(key.scopes), *_times(key))
    SCREEN.print(table)


def _times(key: Key) -> list[str]:
    until = _day(key.expires_at) if not key.revoked_at else f"revoked {_day(key.revoked_at)}"
    return [_day(key.created_at), _day(key.last_used_at), until]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return _day(value) if isinstance(value, datetime) else str(value or "")


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@keys.command()
@environment.options
@click.argument("id")
def show(env: str, data_dir: Path, id: str) -> None:
    """Show all about a key but its secret."""
    key = environment.on_ring(env, data_dir, lambda ring: ring.keys.get(id))
    table = Table(show_header=False)
    for name in Key.__slots__:
        table.add_row(name.replace("_", " "), _shown(getattr(key, name)))
    SCREEN.print(table)


@keys.command()
@environment.options
@click.argument("id")
@click.option(
    "--overlap",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the old key stays good.",
)
def rotate(env: str, data_dir: Path, id: str, overlap: timedelta) -> None:
    """Issue a key like this one, which stays good for a while."""
    actor = environment.operator()
    _show_once(
        environment.on_ring(env, data_dir, lambda ring: ring.keys.rotate(id, overlap, actor=actor))
    )


@keys.command()
@environment.options
@click.argument("id")
def revoke(env: str, data_dir: Path, id: str) -> None:
    """Refuse the key with this id (8 characters, after llmr_k1_), everywhere within 5 seconds."""
    actor = environment.operator()
    revoked_at = environment.on_ring(env, data_dir, lambda ring: ring.keys.revoke(id, actor=actor))
    click.echo(f"Key {id} is revoked since {revoked_at:%Y-%m-%d %H:%M:%S %Z}.")
