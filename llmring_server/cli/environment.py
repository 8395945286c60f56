"""Environments and shared options: the database, settings and project of a command."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import rich_click as click
from pydantic import ValidationError

from llmring_server.core.identity import Actor, ProjectId, project_of_key
from llmring_server.db import admin
from llmring_server.db.embedded_postgres import EmbeddedPostgres, default_data_dir
from llmring_server.errors import NotFound
from llmring_server.ring import Ring
from llmring_server.settings import PREFIX, Settings

Result = TypeVar("Result")

NAMES = ("dev", "test", "prod")

# Settings for a server on a developer's machine.
LOCAL_DEFAULTS = {"auth": "open"}


class Environment(NamedTuple):
    """The settings of an environment, and where its data is stored, in words."""

    name: str
    settings: Settings
    location: str


data_dir = click.option(
    "--data-dir",
    envvar="LLMRING_DATA_DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_data_dir,
    show_default="~/.local/share/llmring-server; for root /var/lib/llmring-server",
    help="Data directory of the embedded PostgreSQL.",
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --env and --data-dir to a command."""
    env = click.option(
        "--env",
        type=click.Choice(NAMES),
        default="dev",
        show_default=True,
        help="Environment; see llmring-server --help.",
    )
    return env(data_dir(command))


def read(environ: Mapping[str, str], **defaults: str) -> Settings:
    """Read settings from `environ`; report an invalid one as a usage error."""
    defaults = {PREFIX + name.upper(): value for name, value in defaults.items()}
    try:
        return Settings.from_env({**defaults, **environ})
    except ValidationError as exc:
        lines = []
        for error in exc.errors():
            # An error about several settings has no location.
            field = error["loc"][0] if error["loc"] else "auth"
            lines.append(f"{PREFIX}{str(field).upper()}: {error['msg']}")
        raise click.UsageError("\n".join(lines)) from exc


def read_settings(env: str, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of the environment of this name; only prod must name a database."""
    if env != "prod":
        # A variable of some other program must not select the database of an experiment.
        own = {name: value for name, value in environ.items() if name != "DATABASE_URL"}
        return read(own, **LOCAL_DEFAULTS)
    settings = read(environ)
    if not settings.database_url:
        raise click.UsageError(
            "prod has no default database: set LLMRING_DATABASE_URL=postgresql://user@host/name"
        )
    return settings


@contextmanager
def open_environment(
    env: str, data_dir: Path, environ: Mapping[str, str] = os.environ
) -> Iterator[Environment]:
    """Yield the environment of this name; its database exists for as long as it is used."""
    with {"dev": _dev, "test": _test, "prod": _prod}[env](data_dir, environ) as environment:
        yield environment


def operator() -> Actor:
    """Return the user of the command line, for the audit log."""
    return Actor(f"operator {getuser()}")


def with_ring(
    env: str, data_dir: Path, work: Callable[[Ring], Awaitable[Result]], *, writes: bool = False
) -> Result:
    """Run `work` on the environment's ring; migrate the database first, except in production.

    If it `writes`, say on stderr to which database.
    """

    async def run() -> Result:
        # In production, migrating is a separate step (`db migrate`).
        update = {"database_pool_size": 1, "migrate_on_start": env != "prod"}
        async with Ring.open(environment.settings.model_copy(update=update)) as ring:
            return await work(ring)

    with open_environment(env, data_dir) as environment:
        if writes:
            click.echo(f"Database: {environment.location}", err=True)
        return asyncio.run(run())


@contextmanager
def _prod(_: Path, environ: Mapping[str, str]) -> Iterator[Environment]:
    settings = read_settings("prod", environ)
    yield Environment("prod", settings, admin.display_location(settings.database_url or ""))


@contextmanager
def _dev(data_dir: Path, environ: Mapping[str, str]) -> Iterator[Environment]:
    settings = read_settings("dev", environ)
    if settings.database_url:
        yield Environment("dev", settings, admin.display_location(settings.database_url))
        return
    with embedded(data_dir) as server:
        url = server.url("llmring_dev")
        asyncio.run(admin.create_database(url))
        settings = settings.model_copy(update={"database_url": url})
        yield Environment("dev", settings, f"{data_dir} (embedded PostgreSQL)")


@contextmanager
def _test(data_dir: Path, environ: Mapping[str, str]) -> Iterator[Environment]:
    with server_for_tests(data_dir, environ) as server:
        url = admin.throwaway_url(server)
        asyncio.run(admin.create_database(url, throwaway=True))
        settings = read_settings("test", environ).model_copy(update={"database_url": url})
        try:
            yield Environment("test", settings, admin.display_location(url))
        finally:
            asyncio.run(admin.drop_database(url))


@contextmanager
def server_for_tests(data_dir: Path, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield the URL of the server for tests: the one in TEST_DB_*, else an embedded one."""
    variables = ("TEST_DB_USER", "TEST_DB_PASSWORD", "TEST_DB_HOST", "TEST_DB_PORT")
    if not any(environ.get(variable) for variable in variables):
        with embedded(data_dir) as server:
            yield server.url("postgres")
        return
    user = quote(environ.get("TEST_DB_USER") or "postgres", safe="")
    password = quote(environ.get("TEST_DB_PASSWORD") or "", safe="")
    host = quote(environ.get("TEST_DB_HOST") or "localhost", safe="")
    port = environ.get("TEST_DB_PORT") or "5432"
    if not port.isdecimal():
        raise click.UsageError("TEST_DB_PORT must be a number")
    yield f"postgresql://{user}:{password}@{host}:{port}/postgres"


@contextmanager
def embedded(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    def announce() -> None:
        click.echo(f"Starting PostgreSQL in {data_dir} ...", err=True)

    with EmbeddedPostgres(data_dir, on_start=announce) as server:
        yield server


def project_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --project to the options of a command, beside --env and --data-dir."""
    project = click.option(
        "--project",
        default="default",
        show_default=True,
        help="Name or id of the project; in mode open, also an API key.",
    )
    return options(project(command))


def with_project(
    env: str,
    data_dir: Path,
    project: str,
    work: Callable[[Ring, ProjectId], Awaitable[Result]],
    *,
    writes: bool = False,
) -> Result:
    """Run `work` for the project with this name or id."""

    async def work_for_project(ring: Ring) -> Result:
        return await work(ring, await _project_id(ring, project))

    return with_ring(env, data_dir, work_for_project, writes=writes)


async def all_pages(
    pages: Callable[[Any], Awaitable[list[Any]]], project_id: ProjectId, page: Any
) -> list[Any]:
    """Return all items of a list, from `page` on."""
    items: list[Any] = []
    while page_items := await pages(page):
        items += page_items
        page = page.model_copy(update={"cursor": page.next(project_id, page_items[-1])})
    return items


async def _project_id(ring: Ring, project: str) -> ProjectId:
    try:
        return await ring.projects.find(project)
    except NotFound:
        if ring.settings.auth != "open":
            raise
        return project_of_key(project)
