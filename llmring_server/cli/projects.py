"""`llmring-server projects` and `audit`: what owns data, and who did what."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rich_click as click
from rich.table import Table

from llmring_server.cli import environment
from llmring_server.cli.tables import SCREEN, folding
from llmring_server.projects import LATECOMERS
from llmring_server.ring import Ring


@click.group()
def projects() -> None:
    """Create, list, rename and erase projects."""


@projects.command()
@environment.options
@click.argument("name")
def create(env: str, data_dir: Path, name: str) -> None:
    """Make a project; its keys: keys issue --project NAME."""
    actor = environment.operator()
    click.echo(
        environment.on_ring(env, data_dir, lambda ring: ring.projects.create(name, actor=actor))
    )


@projects.command("list")
@environment.options
def list_(env: str, data_dir: Path) -> None:
    """List projects, and how many of their keys are good."""
    table = Table("project", "tenant", "created", "keys", "keeps messages")
    for each in environment.on_ring(env, data_dir, lambda ring: ring.projects.list()):
        kept = f"{each.retain_days}d" if each.retain_days else "forever"
        created = f"{each.created_at:%Y-%m-%d}"
        table.add_row(each.name, str(each.tenant), created, str(each.keys), kept)
    SCREEN.print(table)


@projects.command()
@environment.options
@click.argument("project")
@click.argument("name")
def rename(env: str, data_dir: Path, project: str, name: str) -> None:
    """Give PROJECT (its name or tenant) the NAME."""
    actor = environment.operator()

    async def work(ring: Ring) -> None:
        await ring.projects.rename(await ring.projects.find(project), name, actor=actor)

    environment.on_ring(env, data_dir, work)


class Days(click.ParamType[int | None]):
    """A number of days, written 30d, or `forever`."""

    name = "days"

    def convert(self, value: str, *at: Any) -> int | None:
        if not re.fullmatch(r"[1-9]\d{0,4}d|forever", value):
            self.fail("write a number of days, such as 30d, or forever", *at)
        return None if value == "forever" else int(value.removesuffix("d"))


@projects.command()
@environment.options
@click.argument("project")
@click.argument("days", type=Days())
def retain(env: str, data_dir: Path, project: str, days: int | None) -> None:
    """Keep PROJECT's messages and executions of tools for so many DAYS (30d), or forever.

    `db maintain` deletes what is older, with the conversations in which nothing has happened since.
    """
    actor = environment.operator()

    async def work(ring: Ring) -> None:
        await ring.projects.retain(await ring.projects.find(project), days, actor=actor)

    environment.on_ring(env, data_dir, work)


@projects.command()
@environment.options
@click.argument("project")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(env: str, data_dir: Path, project: str, *, yes: bool) -> None:
    """Delete PROJECT (its name or tenant), its keys and all of its data, for ever."""
    if not yes:
        click.confirm(f"Delete everything of {project}, for ever?", abort=True)
    click.echo(f"Erasing; latecomers are waited for: {LATECOMERS:.0f} s or more.", err=True)
    gone = environment.on_ring(env, data_dir, lambda ring: _erase(ring, project))
    for what, rows in gone.items():
        click.echo(f"{what}: {rows:,}")


async def _erase(ring: Ring, project: str) -> dict[str, int]:
    tenant = await ring.projects.find(project)
    return await ring.projects.erase(tenant, actor=environment.operator())


@click.command()
@environment.options
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 400))
def audit(env: str, data_dir: Path, days: int) -> None:
    """Show who did what that only few may do."""
    since = datetime.now(UTC) - timedelta(days=days)
    table = folding("at", "actor", "action", "target", "tenant", "from", "request")
    for each in environment.on_ring(env, data_dir, lambda ring: ring.audit.events(since)):
        at = f"{each.at:%Y-%m-%d %H:%M:%S}"
        row = (at, each.actor, each.action, each.target, each.tenant, each.remote, each.request_id)
        table.add_row(*(str(cell or "") for cell in row))
    SCREEN.print(table)
