"""Environments and shared options: the database, settings and project of a command."""

import asyncio
import os
import re
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from getpass import getuser
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

import rich_click as click
from click.core import ParameterSource

from llmring_server.access.projects import Project, ProjectPage
from llmring_server.cli.running import running_servers
from llmring_server.core.identity import Actor, ProjectId, project_of_key
from llmring_server.core.ids import new_id
from llmring_server.db import admin
from llmring_server.db.embedded_postgres import EmbeddedPostgres, default_data_dir
from llmring_server.errors import InvalidSettings, NotFound
from llmring_server.mcp.secrets import LOCAL_KEY_NAME, local_key
from llmring_server.ring import Ring
from llmring_server.settings import Settings, environment_warnings

Result = TypeVar("Result")

NAMES = ("dev", "test", "prod")

# Settings for a server on a developer's machine, and for a database that is dropped at the end.
LOCAL_DEFAULTS: dict[str, dict[str, str]] = {
    "dev": {"auth": "open"},
    "test": {"auth": "open", "database_schema": "llmring_test"},
    "prod": {},
}


class Environment(NamedTuple):
    """The settings of an environment, and where its data is stored, in words."""

    name: str
    settings: Settings
    location: str


class SettingsSource(NamedTuple):
    """Where `serve` reads its settings, also again while it runs, in each of its processes."""

    env: str
    data_dir: Path
    environ: dict[str, str]

    def read(self, current: Settings) -> Settings:
        """Read the settings again; a database that the environment has chosen stays."""
        settings = read_settings(self.env, self.environ)
        if self.env == "test" or not settings.database_url:
            settings = settings.model_copy(update={"database_url": current.database_url})
        return settings if self.env == "prod" else with_local_key(settings, self.data_dir)


# Where the options of the command that runs are kept, as they were given.
_GIVEN = "llmring_server.given_options"


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE:
        context.meta.setdefault(_GIVEN, []).append(
            f" {parameter.opts[0]} {shlex.quote(f'{value}')}"
        )
    return value


def in_words_of_command_line(text: str, context: click.Context) -> str:
    """Return an error whose commands work on the database of the command that failed."""
    given = "".join(context.meta.get(_GIVEN, ()))
    text = text.replace(", or call `await migrate(db)`", "")
    return re.sub("`(llmring-server db (create|migrate))`", rf"`\1{given}`", text)


data_dir = click.option(
    "--data-dir",
    callback=_remember,
    envvar="LLMRING_DATA_DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_data_dir,
    help="Data directory of the embedded PostgreSQL. Default: the data of your running server, else"
    " ~/.local/share/llmring-server; for root /var/lib/llmring-server.",
)


def is_default(option: str) -> bool:
    """Tell whether an option of the command that runs was left out."""
    context = click.get_current_context(silent=True)
    return context is not None and (context.get_parameter_source(option) is ParameterSource.DEFAULT)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --env and --data-dir to a command."""
    env = click.option(
        "--env",
        callback=_remember,
        type=click.Choice(NAMES),
        default="dev",
        show_default=True,
        help="Environment; see llmring-server --help.",
    )
    return env(data_dir(command))


def warn_of_variables() -> None:
    """Name the variables on stderr that look like settings and have no effect."""
    for warning in environment_warnings():
        click.echo(f"Warning: {warning}", err=True)


def read(environ: Mapping[str, str], **defaults: str) -> Settings:
    """Read the settings; report an invalid one as a usage error."""
    try:
        return Settings.from_env(environ, defaults=defaults)
    except InvalidSettings as exc:
        raise click.UsageError(str(exc)) from exc


def read_settings(env: str, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of the environment of this name; only prod must name a database."""
    if env != "prod":
        # A variable of some other program must not select the database of an experiment.
        environ = {name: value for name, value in environ.items() if name != "DATABASE_URL"}
    settings = read(environ, **LOCAL_DEFAULTS[env])
    if env == "prod" and not settings.database_url:
        raise click.UsageError(
            "prod has no default database: set LLMRING_DATABASE_URL=postgresql://user@host/name"
        )
    return settings


@contextmanager
def open_environment(
    env: str, data_dir: Path, environ: Mapping[str, str] = os.environ
) -> Iterator[Environment]:
    """Yield the environment of this name, as the running server has it."""
    if env == "dev" and not read_settings(env, environ).database_url:
        data_dir = _data_dir_of_server(data_dir)
    with open_own_environment(env, data_dir, environ) as environment:
        yield environment


@contextmanager
def open_own_environment(
    env: str, data_dir: Path, environ: Mapping[str, str] = os.environ
) -> Iterator[Environment]:
    """Yield the environment of this name; its database exists for as long as it is used."""
    with {"dev": _dev, "test": _test, "prod": _prod}[env](data_dir, environ) as environment:
        yield environment


def operator() -> Actor:
    """Return the user of the command line, for the audit log."""
    try:
        name = getuser()
    except (KeyError, OSError):
        # In a container, the user may have no name.
        name = f"uid {os.getuid()}"
    return Actor(f"operator {name}")


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
        settings = with_local_key(settings, data_dir)
        location = admin.display_location(settings.database_url or "")
        yield Environment("dev", settings, location)
        return
    with embedded(data_dir) as server:
        url = server.url("llmring_dev")
        asyncio.run(admin.create_database(url))
        settings = with_local_key(settings, data_dir).model_copy(update={"database_url": url})
        yield Environment("dev", settings, f"{data_dir} (embedded PostgreSQL)")


@contextmanager
def _test(data_dir: Path, environ: Mapping[str, str]) -> Iterator[Environment]:
    with server_for_tests(data_dir, environ) as server:
        url = admin.throwaway_url(server)
        asyncio.run(admin.create_database(url, throwaway=True))
        settings = with_local_key(read_settings("test", environ), data_dir)
        settings = settings.model_copy(update={"database_url": url})
        try:
            yield Environment("test", settings, admin.display_location(url))
        finally:
            asyncio.run(admin.drop_database(url))


def with_local_key(settings: Settings, data_dir: Path) -> Settings:
    """Add the key of the data directory, so that MCP credentials can be stored while developing.

    If LLMRING_SEALING_KEYS is set, the key of the directory is the last one: it decrypts what was
    stored before.
    """
    if settings.sealing_keys and not (data_dir / LOCAL_KEY_NAME).exists():
        return settings
    try:
        key = local_key(data_dir)
    except OSError:
        # Without a writable directory there is no key, which only requests with credentials need.
        return settings
    return settings.model_copy(update={"sealing_keys": (*settings.sealing_keys, key)})


@contextmanager
def server_for_tests(data_dir: Path, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield the URL of the server for tests: the one in TEST_DB_*, else an embedded one."""
    variables = ("TEST_DB_USER", "TEST_DB_PASSWORD", "TEST_DB_HOST", "TEST_DB_PORT")
    if not any(environ.get(variable) for variable in variables):
        with embedded(data_dir) as server:
            yield server.url("postgres")
        return
    user = quote(environ.get("TEST_DB_USER") or "postgres", safe="")
    password = quote(environ.get("TEST_DB_PASSWORD") or "postgres", safe="")
    # pgdbm reads the same variable, and needs the folder of a socket percent-encoded.
    host = quote(unquote(environ.get("TEST_DB_HOST") or "localhost"), safe="")
    port = environ.get("TEST_DB_PORT") or "5432"
    if not port.isdecimal():
        raise click.UsageError("TEST_DB_PORT must be a number")
    yield f"postgresql://{user}:{password}@{host}:{port}/postgres"


def _data_dir_of_server(data_dir: Path) -> Path:
    """Return the data directory that was named, or else that of the running server.

    A second database, which may be empty, must not be taken for that of the server.
    """
    servers = running_servers() if is_default("data_dir") else []
    data_dirs = {server.data_dir for server in servers}
    if not data_dirs:
        return data_dir
    [first, *others] = data_dirs
    if first and not others:
        return first
    lines = [
        f"  --data-dir {shlex.quote(str(server.data_dir))} (process {server.pid})"
        if server.data_dir
        else f"  process {server.pid} uses {server.database}"
        for server in servers
    ]
    heading = (
        "Several servers are running; choose one with --data-dir:"
        if len(servers) > 1
        else "The running server has a database that this command does not know:"
    )
    if None in data_dirs:
        lines.append("For a database that LLMRING_DATABASE_URL names, set it here too.")
    if data_dir not in data_dirs:
        lines.append(f"For the data that no server uses now, write --data-dir {data_dir}.")
    raise click.UsageError("\n".join((heading, *lines)))


@contextmanager
def embedded(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    def announce() -> None:
        click.echo(f"Starting PostgreSQL in {data_dir} ...", err=True)

    with EmbeddedPostgres(data_dir, on_start=announce) as server:
        yield server


class EnvironmentName(click.Choice[str]):
    """The name of an environment: one of ours, or with --config any name in the file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if ctx is not None and ctx.params.get("config") is not None:
            return str(value)
        return super().convert(value, param, ctx)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config, --env and --data-dir to a command of `db`."""
    env = click.option(
        "--env",
        callback=_remember,
        type=EnvironmentName(NAMES),
        default="dev",
        show_default=True,
        help="Environment; see llmring-server --help. With --config, an environment of the file.",
    )
    config = click.option(
        "--config",
        callback=_remember,
        is_eager=True,
        type=click.Path(dir_okay=False, path_type=Path),
        help="A pgdbm.toml: work on all of its modules, in the database of its environment.",
    )
    return config(env(data_dir(command)))


class ProjectText(click.ParamType[str]):
    """A project's name or id, or its key of mode `open`; `-` reads it from standard input."""

    name = "project"

    def convert(self, value: str, *context: Any) -> str:
        if value != "-":
            return value
        line = sys.stdin.readline().strip()
        return line or self.fail("standard input is empty", *context)


def project_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --project to the options of a command, beside --env and --data-dir."""
    project = click.option(
        "--project",
        type=ProjectText(),
        default="default",
        show_default=True,
        help="Name or id of the project, or its key of mode open; - reads it from standard input.",
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
        return await work(ring, await find_project(ring, project))

    return with_ring(env, data_dir, work_for_project, writes=writes)


async def all_pages(
    pages: Callable[[Any], Awaitable[list[Any]]], project_id: ProjectId | None, page: Any
) -> list[Any]:
    """Return all items of a list, from `page` on: of a project, or of the deployment."""
    items: list[Any] = []
    while page_items := await pages(page):
        items += page_items
        page = page.model_copy(update={"cursor": page.next(project_id, page_items[-1])})
    return items


async def all_projects(ring: Ring) -> list[Project]:
    """Return all projects by name; those without a name last, by their latest call."""
    projects: list[Project] = await all_pages(ring.projects.list, None, ProjectPage())
    projects.sort(key=lambda project: project.last_call or date.min, reverse=True)
    return sorted(projects, key=lambda project: (project.name is None, project.name or ""))


async def find_project(ring: Ring, project: str) -> ProjectId:
    """Return the project that an option names. In mode `open`, every key names one."""
    try:
        return await ring.projects.find(project)
    except NotFound:
        if ring.settings.auth != "open":
            raise
        return project_of_key(project)


async def find_or_create_project(ring: Ring, project: str, *, dry_run: bool) -> ProjectId:
    """Return the project that an option names, to store data in it."""
    try:
        return await ring.projects.find(project)
    except NotFound:
        if ring.settings.auth == "open":
            return project_of_key(project)
        if dry_run:
            return ProjectId(new_id())
        return await ring.projects.create(project, actor=operator())
