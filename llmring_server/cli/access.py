"""`llmring-server keys`, `projects` and `audit`: access to the server."""

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import rich_click as click
from rich.table import Table

from llmring_server.access.audit import AuditEvent, AuditPage
from llmring_server.access.keys import ApiKey, IssuedKey, KeyOptions, KeyPage
from llmring_server.access.projects import ERASE_GRACE_SECONDS, Project
from llmring_server.cli import environment
from llmring_server.cli.output import CONSOLE, wrapping_table
from llmring_server.core.identity import DEFAULT_SCOPES, SCOPES
from llmring_server.errors import NotFound
from llmring_server.ring import Ring

NO_NAME = "(no name)"

UNITS = {"d": "days", "h": "hours", "m": "minutes"}


class Duration(click.ParamType[timedelta]):
    """A number of days, hours or minutes, written 90d, 24h or 30m."""

    name = "duration"

    def convert(self, value: Any, *context: Any) -> timedelta:
        if isinstance(value, timedelta):
            return value
        if not re.fullmatch(r"\d{1,5}[dhm]", value):
            self.fail(
                "expected a number of days, hours or minutes, such as 90d, 24h or 30m", *context
            )
        unit = UNITS[value[-1]]
        return timedelta(**{unit: int(value[:-1])})


@click.group()
def keys() -> None:
    """Issue, list, rotate and revoke API keys."""


@keys.command("issue")
@environment.options
@click.option(
    "--project",
    type=environment.ProjectText(),
    default="default",
    show_default=True,
    help="Name or id of the project, or its key of mode open; - reads it from standard input."
    " Created, with this name, if there is none.",
)
@click.option("--label", default="", help="Purpose of the key.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=DEFAULT_SCOPES,
    show_default=True,
    help="Scope of the key; repeat for more.",
)
@click.option(
    "--expires", type=Duration(), help="Lifetime of the key, e.g. 90d or 24h; default: no expiry."
)
def issue_key(  # noqa: PLR0913, PLR0917, they are the options
    env: str,
    data_dir: Path,
    project: str,
    label: str,
    scopes: tuple[str, ...],
    expires: timedelta | None,
) -> None:
    """Issue a key for a project. The key is shown only once.

    If data was stored in mode open under a key that equals --project, the key is for that data.
    """
    expires_at = datetime.now(UTC) + expires if expires else None
    options = KeyOptions(label, scopes, expires_at)
    actor = environment.operator()

    async def work(ring: Ring) -> tuple[IssuedKey, Project, str]:
        try:
            project_id = await ring.projects.find(project)
        except NotFound:
            issued = await ring.keys.issue(project, options, actor=actor)
            created = await ring.projects.get(issued.project_id)
            return issued, created, _created(created, ring.settings.auth)
        await ring.projects.register(project_id, actor=actor)
        issued = await ring.keys.issue_for(project_id, options, actor=actor)
        existing = await ring.projects.get(project_id)
        calls = await ring.projects.count_calls(project_id)
        return issued, existing, _existing(existing, calls)

    issued, found, about = environment.with_ring(env, data_dir, work, writes=True)
    _print_issued(issued, found.name)
    click.echo(about, err=True)
    if found.name is None:
        click.echo(
            "The project has no name yet. To give it one:"
            f" llmring-server projects rename {issued.project_id} NAME",
            err=True,
        )


def _created(project: Project, mode: str) -> str:
    text = f"Created the project {project.name} (no data yet)."
    if mode == "open":
        text += (
            " What is logged under this name as a key of mode open is not in it, but in another"
            " project: log with the issued key."
        )
    return text


def _existing(project: Project, calls: int) -> str:
    last = f", last {project.last_call}" if project.last_call else ""
    return (
        f"Issued a key for the existing project {project.name or NO_NAME} ({calls:,} calls{last})."
    )


def _print_issued(issued: IssuedKey, name: str | None) -> None:
    project = f"{name} ({issued.project_id})" if name else str(issued.project_id)
    click.echo(issued.secret)
    click.echo(
        f"Key {issued.id} of project {project}. Store it now; it is not shown again.", err=True
    )


async def _find_key(ring: Ring, id: str) -> ApiKey:
    try:
        return await ring.keys.get(id)
    except NotFound as exc:
        raise click.ClickException(f"No key with the id {id}.") from exc


@keys.command("list")
@environment.options
@click.option(
    "--project",
    type=environment.ProjectText(),
    help="Only keys of the project with this name, id or key of mode open; - reads it from"
    " standard input.",
)
def list_keys(env: str, data_dir: Path, project: str | None) -> None:
    """List keys, without their secrets. Some revoked and expired keys may have been deleted."""

    async def read(ring: Ring) -> list[ApiKey]:
        project_id = await ring.projects.find(project) if project else None
        pages = partial(ring.keys.list, project_id)
        keys: list[ApiKey] = await environment.all_pages(pages, project_id, KeyPage())
        return sorted(keys, key=lambda key: (key.project is None, key.project or ""))

    table = wrapping_table(
        "key", "project", "label", "scopes", "created", "last used", "valid until"
    )
    for key in environment.with_ring(env, data_dir, read):
        name = key.project or str(key.project_id)
        table.add_row(key.id, name, key.label, ", ".join(key.scopes), *_times(key))
    CONSOLE.print(table)


def _times(key: ApiKey) -> list[str]:
    revoked = f"revoked {_time(key.revoked_at)}" if key.revoked_at else ""
    return [_time(key.created_at), _time(key.last_used_at), revoked or _time(key.expires_at)]


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@keys.command("show")
@environment.options
@click.argument("id")
def show_key(env: str, data_dir: Path, id: str) -> None:
    """Show the details of a key, without its secret."""
    key = environment.with_ring(env, data_dir, lambda ring: _find_key(ring, id))
    table = Table(show_header=False)
    details = {
        "id": key.id,
        "project": key.project or NO_NAME,
        "project id": str(key.project_id),
        "label": key.label,
        "scopes": ", ".join(key.scopes),
        "created at": _time(key.created_at),
        "last used at": _time(key.last_used_at),
        "expires at": _time(key.expires_at),
        "revoked at": _time(key.revoked_at),
    }
    for name, value in details.items():
        table.add_row(name, value)
    CONSOLE.print(table)


@keys.command("rotate")
@environment.options
@click.argument("id")
@click.option(
    "--overlap",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the old key remains valid, e.g. 24h.",
)
def rotate_key(env: str, data_dir: Path, id: str, overlap: timedelta) -> None:
    """Issue a new key with the same project, label and scopes; the old one expires."""
    actor = environment.operator()

    async def work(ring: Ring) -> tuple[IssuedKey, str | None]:
        old = await _find_key(ring, id)
        return await ring.keys.rotate(id, overlap, actor=actor), old.project

    _print_issued(*environment.with_ring(env, data_dir, work, writes=True))


@keys.command("revoke")
@environment.options
@click.argument("id")
def revoke_key(env: str, data_dir: Path, id: str) -> None:
    """Revoke the key with this ID (the 8 characters after llmr_k1_).

    Every process rejects it within 5 seconds.
    """
    actor = environment.operator()

    async def work(ring: Ring) -> datetime:
        await _find_key(ring, id)
        return await ring.keys.revoke(id, actor=actor)

    revoked_at = environment.with_ring(env, data_dir, work, writes=True)
    click.echo(f"Key {id} was revoked at {revoked_at:%Y-%m-%d %H:%M:%S %Z}.")


@click.group()
def projects() -> None:
    """Create, list, show, rename and erase projects, and set their retention."""


@projects.command("create")
@environment.options
@click.argument("name")
def create_project(env: str, data_dir: Path, name: str) -> None:
    """Create a project and print its id. `keys issue --project NAME` issues keys for it."""
    actor = environment.operator()
    project_id = environment.with_ring(
        env, data_dir, lambda ring: ring.projects.create(name, actor=actor), writes=True
    )
    click.echo(project_id)


@projects.command("list")
@environment.options
def list_projects(env: str, data_dir: Path) -> None:
    """List projects with their number of valid keys and the day of their latest call.

    A project of mode open has no name until `projects rename` gives it one.
    """
    table = wrapping_table("project", "id", "created", "keys", "retention", "last call")
    for project in environment.with_ring(env, data_dir, environment.all_projects):
        details = _project_details(project)
        table.add_row(project.name or NO_NAME, *details.values())
    CONSOLE.print(table)


def _project_details(project: Project) -> dict[str, str]:
    return {
        "id": str(project.project_id),
        "created": f"{project.created_at:%Y-%m-%d}" if project.created_at else "",
        "keys": str(project.keys),
        "retention": f"{project.retain_days}d" if project.retain_days else "forever",
        "last call": str(project.last_call or ""),
    }


@projects.command("show")
@environment.options
@click.argument("project", type=environment.ProjectText())
def show_project(env: str, data_dir: Path, project: str) -> None:
    """Show the project with this name, id or key of mode open.

    With -, PROJECT is read from standard input, so that a key is not in the shell's history.
    """

    found = environment.with_ring(env, data_dir, lambda ring: _get_project(ring, project))
    table = Table(show_header=False)
    for name, value in {"project": found.name or NO_NAME, **_project_details(found)}.items():
        table.add_row(name, value)
    CONSOLE.print(table)


async def _get_project(ring: Ring, project: str) -> Project:
    return await ring.projects.get(await ring.projects.find(project))


@projects.command("rename")
@environment.options
@click.argument("project", type=environment.ProjectText())
@click.argument("name")
def rename_project(env: str, data_dir: Path, project: str, name: str) -> None:
    """Rename PROJECT to NAME.

    PROJECT is a name, an id or a key of mode open; - reads it from standard input.
    """
    actor = environment.operator()

    async def work(ring: Ring) -> None:
        await ring.projects.rename(await ring.projects.find(project), name, actor=actor)

    environment.with_ring(env, data_dir, work, writes=True)


class RetentionDays(click.ParamType[int | None]):
    """A number of days, written 30d, or `forever`."""

    name = "days"

    def convert(self, value: str, *context: Any) -> int | None:
        if not re.fullmatch(r"[1-9]\d{0,4}d|forever", value):
            self.fail("expected a number of days, such as 30d, or forever", *context)
        return None if value == "forever" else int(value.removesuffix("d"))


@projects.command("retain")
@environment.options
@click.argument("project", type=environment.ProjectText())
@click.argument("days", type=RetentionDays())
def retain_messages(env: str, data_dir: Path, project: str, days: int | None) -> None:
    """Set how long PROJECT keeps messages and tool executions: DAYS such as 30d, or forever.

    `db maintain` deletes older ones, and conversations without activity since then.
    """
    actor = environment.operator()

    async def work(ring: Ring) -> None:
        await ring.projects.retain(await ring.projects.find(project), days, actor=actor)

    environment.with_ring(env, data_dir, work, writes=True)


@projects.command("erase")
@environment.options
@click.argument("project", type=environment.ProjectText())
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def erase_project(env: str, data_dir: Path, project: str, *, yes: bool) -> None:
    """Permanently delete PROJECT, its keys and all its data.

    PROJECT is a name, an id or a key of mode open; - reads it from standard input. A server in mode
    open goes on accepting its key: stop it first, or the key's next call starts the project again.
    """
    if not yes:
        found = environment.with_ring(env, data_dir, lambda ring: _get_project(ring, project))
        name = f"{found.name or NO_NAME} ({found.project_id})"
        click.confirm(f"Permanently delete the project {name} and all its data?", abort=True)
    click.echo(
        f"Erasing takes at least {ERASE_GRACE_SECONDS:.0f} s: processes may cache the keys.",
        err=True,
    )
    erased = environment.with_ring(env, data_dir, lambda ring: _erase(ring, project), writes=True)
    for kind, rows in erased.items():
        click.echo(f"{kind}: {rows:,}")


async def _erase(ring: Ring, project: str) -> dict[str, int]:
    project_id = await ring.projects.find(project)
    return await ring.projects.erase(project_id, actor=environment.operator())


@click.command()
@environment.options
@click.option(
    "--days",
    default=30,
    show_default=True,
    type=click.IntRange(1, 400),
    help="Number of past days to show.",
)
def audit(env: str, data_dir: Path, days: int) -> None:
    """Show the audit log of privileged actions."""
    since = datetime.now(UTC) - timedelta(days=days)
    table = wrapping_table("at", "actor", "action", "target", "project id", "remote", "request")

    async def read(ring: Ring) -> list[AuditEvent]:
        async def pages(page: AuditPage) -> list[AuditEvent]:
            return await ring.audit.events(since, page=page)

        return await environment.all_pages(pages, None, AuditPage())

    for event in environment.with_ring(env, data_dir, read):
        table.add_row(
            f"{event.at:%Y-%m-%d %H:%M:%S}",
            event.actor,
            event.action,
            event.target,
            str(event.project_id or ""),
            event.remote or "",
            event.request_id or "",
        )
    CONSOLE.print(table)
