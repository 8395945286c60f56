"""`llmring-server keys`: who may call."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rich_click as click
from rich.table import Table

from llmring_server.access.keys import ApiKey, IssuedKey, KeyOptions
from llmring_server.access.projects import ERASE_GRACE_SECONDS
from llmring_server.cli import environment
from llmring_server.cli.output import CONSOLE, wrapping_table
from llmring_server.core.identity import DEFAULT_SCOPES, SCOPES
from llmring_server.ring import Ring

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


@keys.command("issue")
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
def issue_key(env: str, data_dir: Path, project: str, **given: Any) -> None:
    """Issue a key for a project. It is shown now and never again."""
    expires_at = datetime.now(UTC) + given["expires"] if given["expires"] else None
    wanted = KeyOptions(given["label"], given["scopes"], expires_at)
    actor = environment.operator()
    _show_once(
        environment.with_ring(
            env, data_dir, lambda ring: ring.keys.issue(project, wanted, actor=actor)
        )
    )


def _show_once(issued: IssuedKey) -> None:
    click.echo(issued.secret)
    click.echo(f"Key {issued.id} of project {issued.project_id}. Keep it safe.", err=True)


@keys.command("list")
@environment.options
@click.option("--project", help="Of this project only.")
def list_keys(env: str, data_dir: Path, project: str | None) -> None:
    """List keys, without their secrets."""
    found = environment.with_ring(env, data_dir, lambda ring: ring.keys.list())
    table = wrapping_table(
        "key", "project", "label", "scopes", "created", "last used", "good until"
    )
    for key in found:
        if project in {None, key.project}:
            table.add_row(key.id, key.project, key.label, ", ".join(key.scopes), *_times(key))
    CONSOLE.print(table)


def _times(key: ApiKey) -> list[str]:
    until = _day(key.expires_at) if not key.revoked_at else f"revoked {_day(key.revoked_at)}"
    return [_day(key.created_at), _day(key.last_used_at), until]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return _day(value) if isinstance(value, datetime) else str(value or "")


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@keys.command("show")
@environment.options
@click.argument("id")
def show_key(env: str, data_dir: Path, id: str) -> None:
    """Show all about a key but its secret."""
    key = environment.with_ring(env, data_dir, lambda ring: ring.keys.get(id))
    table = Table(show_header=False)
    for name in ApiKey.__slots__:
        table.add_row(name.replace("_", " "), _shown(getattr(key, name)))
    CONSOLE.print(table)


@keys.command("rotate")
@environment.options
@click.argument("id")
@click.option(
    "--overlap",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the old key stays good.",
)
def rotate_key(env: str, data_dir: Path, id: str, overlap: timedelta) -> None:
    """Issue a key like this one, which stays good for a while."""
    actor = environment.operator()
    _show_once(
        environment.with_ring(
            env, data_dir, lambda ring: ring.keys.rotate(id, overlap, actor=actor)
        )
    )


@keys.command("revoke")
@environment.options
@click.argument("id")
def revoke_key(env: str, data_dir: Path, id: str) -> None:
    """Refuse the key with this id (8 characters, after llmr_k1_), everywhere within 5 seconds."""
    actor = environment.operator()
    revoked_at = environment.with_ring(
        env, data_dir, lambda ring: ring.keys.revoke(id, actor=actor)
    )
    click.echo(f"Key {id} is revoked since {revoked_at:%Y-%m-%d %H:%M:%S %Z}.")


@click.group()
def projects() -> None:
    """Create, list, rename and erase projects."""


@projects.command("create")
@environment.options
@click.argument("name")
def create_project(env: str, data_dir: Path, name: str) -> None:
    """Make a project; its keys: keys issue --project NAME."""
    actor = environment.operator()
    click.echo(
        environment.with_ring(env, data_dir, lambda ring: ring.projects.create(name, actor=actor))
    )


@projects.command("list")
@environment.options
def list_projects(env: str, data_dir: Path) -> None:
    """List projects, and how many of their keys are good."""
    table = Table("project", "project_id", "created", "keys", "keeps messages")
    for each in environment.with_ring(env, data_dir, lambda ring: ring.projects.list()):
        kept = f"{each.retain_days}d" if each.retain_days else "forever"
        created = f"{each.created_at:%Y-%m-%d}"
        table.add_row(each.name, str(each.project_id), created, str(each.keys), kept)
    CONSOLE.print(table)


@projects.command("rename")
@environment.options
@click.argument("project")
@click.argument("name")
def rename_project(env: str, data_dir: Path, project: str, name: str) -> None:
    """Give PROJECT (its name or project) the NAME."""
    actor = environment.operator()

    async def work(ring: Ring) -> None:
        await ring.projects.rename(await ring.projects.find(project), name, actor=actor)

    environment.with_ring(env, data_dir, work)


class RetentionDays(click.ParamType[int | None]):
    """A number of days, written 30d, or `forever`."""

    name = "days"

    def convert(self, value: str, *at: Any) -> int | None:
        if not re.fullmatch(r"[1-9]\d{0,4}d|forever", value):
            self.fail("write a number of days, such as 30d, or forever", *at)
        return None if value == "forever" else int(value.removesuffix("d"))


@projects.command("retain")
@environment.options
@click.argument("project")
@click.argument("days", type=RetentionDays())
def retain_messages(env: str, data_dir: Path, project: str, days: int | None) -> None:
    """Keep PROJECT's messages and executions of tools for so many DAYS (30d), or forever.

    `db maintain` deletes what is older, with the conversations in which nothing has happened since.
    """
    actor = environment.operator()

    async def work(ring: Ring) -> None:
        await ring.projects.retain(await ring.projects.find(project), days, actor=actor)

    environment.with_ring(env, data_dir, work)


@projects.command("erase")
@environment.options
@click.argument("project")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase_project(env: str, data_dir: Path, project: str, *, yes: bool) -> None:
    """Delete PROJECT (its name or project), its keys and all of its data, for ever."""
    if not yes:
        click.confirm(f"Delete everything of {project}, for ever?", abort=True)
    click.echo(
        f"Erasing; latecomers are waited for: {ERASE_GRACE_SECONDS:.0f} s or more.", err=True
    )
    gone = environment.with_ring(env, data_dir, lambda ring: _erase(ring, project))
    for what, rows in gone.items():
        click.echo(f"{what}: {rows:,}")


async def _erase(ring: Ring, project: str) -> dict[str, int]:
    project_id = await ring.projects.find(project)
    return await ring.projects.erase(project_id, actor=environment.operator())


@click.command()
@environment.options
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 400))
def audit(env: str, data_dir: Path, days: int) -> None:
    """Show who did what that only few may do."""
    since = datetime.now(UTC) - timedelta(days=days)
    table = wrapping_table("at", "actor", "action", "target", "project_id", "from", "request")
    for each in environment.with_ring(env, data_dir, lambda ring: ring.audit.events(since)):
        at = f"{each.at:%Y-%m-%d %H:%M:%S}"
        row = (
            at,
            each.actor,
            each.action,
            each.target,
            each.project_id,
            each.remote,
            each.request_id,
        )
        table.add_row(*(str(cell or "") for cell in row))
    CONSOLE.print(table)
