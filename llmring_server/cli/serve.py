"""`llmring-server serve`: run the server, with an embedded PostgreSQL if none is configured."""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, cast

import rich_click as click
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.supervisors import ChangeReload

from llmring_server.asgi import ASGIFactory
from llmring_server.cli import environment, running
from llmring_server.cli.environment import Environment, SettingsSource
from llmring_server.core.variables import CONFIG
from llmring_server.errors import InvalidSettings
from llmring_server.ring import Ring
from llmring_server.server.access_log import AccessLog
from llmring_server.server.in_process import listen, url_of, uvicorn_options
from llmring_server.server.workers import Workers, end_with_parent
from llmring_server.settings import Settings
from llmring_server.web.about import EXAMPLE_KEYS, first_call

HANGUP = {signal.SIGHUP}
LOOPBACK = {"127.0.0.1", "::1", "localhost"}

BANNER = """
llmring-server {version}

  API   {url}
  Data  {location}
  Keys  {auth}

Log a call:

  {first_call}

Read the statistics:

  curl {url}/api/v1/stats -H 'X-API-Key: {key}'
"""

AUTH = {
    "open": "open: any API key is accepted and names its own project",
    "keys": "issued keys only; issue one with llmring-server keys issue",
    "proxy": "none: a trusted proxy signs each request (docs/access.md)",
}


@click.command()
@environment.options
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with settings (default: LLMRING_CONFIG). SIGHUP reloads it.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 picks a free port.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Number of server processes.",
)
@click.option("--reload", is_flag=True, help="Restart when a source file changes.")
@click.option(
    "--access-log/--no-access-log",
    default=None,
    help="Write a line to stdout for each request.  [default: with --env dev only]",
)
def serve(  # noqa: PLR0913, PLR0917, they are the options
    env: str,
    data_dir: Path,
    config: Path | None,
    host: str,
    port: int,
    workers: int,
    reload: bool,  # noqa: FBT001
    access_log: bool | None,  # noqa: FBT001
) -> None:
    """Serve the API until Ctrl-C; migrate the database first."""
    environ = dict(os.environ)
    if config:
        environ[CONFIG] = str(config)
    if environ.get(CONFIG):
        _hold_hangups()
    settings = environment.read_settings(env, environ)
    _check(settings, host)
    has_own_database = env == "test" or settings.database_url
    with (
        running.reported(env, None if has_own_database else data_dir),
        environment.open_own_environment(env, data_dir, environ) as target,
    ):
        asyncio.run(_prepare(target.settings))
        # Ctrl-C is the normal way to stop; uvicorn raises it again after stopping.
        with listen(host, port) as listener, suppress(KeyboardInterrupt):
            banner = _banner(target, url_of(listener))
            source = SettingsSource(env, data_dir, environ) if environ.get(CONFIG) else None
            options = _options(target, workers, source, access_log=access_log)
            _run(options, listener, banner, source, reload=reload)
    click.echo("Stopped.", err=True)


def _check(settings: Settings, host: str) -> None:
    """Reject a mode that cannot be served, before a database is started."""
    if settings.auth == "open" and host not in LOOPBACK:
        raise click.UsageError(
            f"Mode open accepts any key, so it cannot be served on {host}:"
            " set LLMRING_AUTH=keys, or serve on 127.0.0.1."
        )
    if settings.auth == "parent":
        raise click.UsageError(
            "Mode parent needs an application that mounts build(db, authenticate=...)."
        )


async def _prepare(settings: Settings) -> None:
    """Check that the database is reachable and migrate it, before anything is served."""
    async with Ring.open(settings) as ring:
        await ring.ready()


def _banner(target: Environment, url: str) -> str:
    mode = target.settings.auth
    return BANNER.format(
        version=version("llmring-server"),
        url=url,
        location=target.location,
        auth=AUTH[mode],
        key=EXAMPLE_KEYS[mode],
        first_call=first_call(url, mode),
    )


def _options(
    target: Environment,
    workers: int,
    source: SettingsSource | None,
    *,
    access_log: bool | None,
) -> uvicorn.Config:
    is_dev = target.name == "dev"
    if access_log is None:
        access_log = is_dev
    return uvicorn.Config(
        partial(logged_application if access_log else application, target.settings, source),
        factory=True,
        workers=workers,
        # A worker that starts on a busy machine answers late; uvicorn's 5 s would kill it.
        timeout_worker_healthcheck=60,
        # The application has its own access log, which costs an eighth of uvicorn's.
        access_log=False,
        log_level="info" if is_dev else "warning",
        **uvicorn_options(target.settings),
    )


def application(settings: Settings, source: SettingsSource | None = None) -> Starlette:
    """Return the standalone app for a process that does nothing but serve it.

    At SIGHUP it takes over what may change of the settings that `source` reads.
    """
    app = ASGIFactory(settings).standalone()
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def with_tuned_garbage_collection(app: Starlette) -> AsyncIterator[None]:
        async with lifespan(app):
            # The objects of the started server are permanent; a collection need not visit them.
            gc.freeze()
            gc.set_threshold(10_000)
            with _reload_at_hangup(app.state.ring, source) if source else nullcontext():
                yield

    app.router.lifespan_context = with_tuned_garbage_collection
    return app


def logged_application(settings: Settings, source: SettingsSource | None = None) -> ASGIApp:
    """Return the standalone app with an access log on standard output."""
    return AccessLog(application(settings, source))


def _hold_hangups() -> None:
    """Let SIGHUP wait until a server handles it, in this process and in those that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANGUP)

    def release() -> None:
        # One that nobody has handled would end this process as if it had failed.
        signal.sigtimedwait(HANGUP, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    if context := click.get_current_context(silent=True):
        context.call_on_close(release)


@contextmanager
def _reload_at_hangup(ring: Ring, source: SettingsSource) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, _reload, ring, source)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANGUP)
    try:
        yield
    finally:
        # Without its handler, the signal would end the process before the last response.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANGUP)
        loop.remove_signal_handler(signal.SIGHUP)


def _reload(ring: Ring, source: SettingsSource) -> None:
    """Read the settings again; if they are invalid, say so on stderr and change nothing."""
    try:
        changed = ring.reload(source.read(ring.settings)).changed
    except (InvalidSettings, click.ClickException) as exc:
        message = exc.format_message() if isinstance(exc, click.ClickException) else str(exc)
        click.echo(f"Settings not reloaded: {message}", err=True)
    else:
        click.echo(f"Settings reloaded; changed: {', '.join(changed) or 'none'}.", err=True)


class _Workers(Workers):
    """Worker processes, of which each reloads its settings at SIGHUP."""

    source: SettingsSource | None

    def handle_hup(self) -> None:
        if self.source is None:
            return
        # A worker that replaces another one starts with the settings that the others have.
        following: Any = self.config.app
        parent, factory = following.args
        settings, source = factory.args
        try:
            reloaded = settings.reloaded(source.read(settings))
        except (InvalidSettings, click.ClickException):
            # The workers report the reason, and change nothing.
            reloaded = settings
        self.config.app = partial(
            _app_ending_with_parent, parent, partial(factory.func, reloaded, source)
        )
        for process in self.processes:
            # Before it is ready, the signal would end it.
            if process.wait_until_ready(self.config.timeout_worker_healthcheck, self.should_exit):
                os.kill(process.pid or 0, signal.SIGHUP)


class _Reloader(ChangeReload):  # type: ignore[valid-type, misc]
    """uvicorn's supervisor of --reload, whose server reloads its settings at SIGHUP.

    SIGHUP is held in this process, and in a server until that handles it.
    """

    def startup(self) -> None:
        self._is_hung_up = False
        super().startup()
        Thread(target=self._pass_hangups_on, name="hangups", daemon=True).start()

    def restart(self) -> None:
        super().restart()
        # The new server starts with the first settings.
        if self._is_hung_up:
            self._hang_up()

    def _pass_hangups_on(self) -> None:
        while True:
            signal.sigwait(HANGUP)
            self._is_hung_up = True
            self._hang_up()

    def _hang_up(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGHUP)


class _BannerServer(uvicorn.Server):
    """A server that prints the banner once it listens, so that Ctrl-C then stops it cleanly."""

    banner: str

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            click.echo(self.banner)


def _run(
    config: uvicorn.Config,
    listener: socket.socket,
    banner: str,
    source: SettingsSource | None,
    *,
    reload: bool,
) -> None:
    if not reload and config.workers == 1:
        server = _BannerServer(config)
        server.banner = banner
        server.run(sockets=[listener])
        return
    click.echo(banner)
    # The other end is open in this process only, as long as it runs.
    parent, end_of_parent = Pipe(duplex=False)
    config.app = partial(_app_ending_with_parent, parent, cast("Any", config.app))
    with end_of_parent:
        if reload:
            reloader = _Reloader if source else ChangeReload
            reloader(config, target=uvicorn.Server(config).run, sockets=[listener]).run()
        else:
            workers = _Workers(config, sockets=[listener])
            workers.source = source
            if source:
                # `workers` has set a handler, and waits for each worker before it signals it.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, HANGUP)
            workers.run()


def _app_ending_with_parent(parent: Connection, factory: Callable[[], ASGIApp]) -> ASGIApp:
    """Return the application, in a process that ends with its parent."""
    end_with_parent(parent)
    return factory()
