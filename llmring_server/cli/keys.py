"""`llmring-server keys`: who may call."""

from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.table import Table

from llmring_server.cli import environment
from llmring_server.keys import Key


@click.group()
def keys() -> None:
    """Issue, list and revoke API keys."""


@keys.command()
@environment.options
@click.option("--project", default="default", show_default=True, help="Made if there is none.")
def issue(env: str, data_dir: Path, project: str) -> None:
    """Issue a key for a project. It is shown now and never again."""
    issued = environment.on_ring(env, data_dir, lambda ring: ring.keys.issue(project))
    click.echo(issued.secret)
    click.echo(f"Key {issued.id} of project {project} ({issued.tenant}). Keep it safe.", err=True)


@keys.command("list")
@environment.options
def list_(env: str, data_dir: Path) -> None:
    """List the keys of all projects."""
    table = Table("key", "project", "tenant", "created", "revoked")
    for key in environment.on_ring(env, data_dir, lambda ring: ring.keys.list()):
        table.add_row(*_cells(key))
    Console().print(table)


def _cells(key: Key) -> list[str]:
    times = (f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (key.created_at, key.revoked_at))
    return [key.id, key.project, str(key.tenant), *times]


@keys.command()
@environment.options
@click.argument("id")
def revoke(env: str, data_dir: Path, id: str) -> None:
    """Refuse the key with this id (8 characters, after llmr_k1_), everywhere within 5 seconds."""
    revoked_at = environment.on_ring(env, data_dir, lambda ring: ring.keys.revoke(id))
    click.echo(f"Key {id} is revoked since {revoked_at:%Y-%m-%d %H:%M:%S %Z}.")
