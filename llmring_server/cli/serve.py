"""`llmring-server serve`: run the server, with an embedded PostgreSQL if none is configured."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import rich_click as click
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.supervisors import ChangeReload

from llmring_server.asgi import ASGIFactory
from llmring_server.cli import environment, running
from llmring_server.cli.environment import Environment
from llmring_server.ring import Ring
from llmring_server.server.access_log import AccessLog
from llmring_server.server.in_process import listen, url_of, uvicorn_options
from llmring_server.server.workers import Workers, follow
from llmring_server.settings import Settings
from llmring_server.web.about import EXAMPLE_KEYS, first_call

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
    host: str,
    port: int,
    workers: int,
    reload: bool,  # noqa: FBT001
    access_log: bool | None,  # noqa: FBT001
) -> None:
    """Serve the API until Ctrl-C; migrate the database first."""
    settings = environment.read_settings(env)
    _check(settings, host)
    has_own_database = env == "test" or settings.database_url
    with (
        running.reported(env, None if has_own_database else data_dir),
        environment.open_own_environment(env, data_dir) as target,
    ):
        asyncio.run(_prepare(target.settings))
        # Ctrl-C is the normal way to stop; uvicorn raises it again after stopping.
        with _listening(host, port) as listener, suppress(KeyboardInterrupt):
            banner = _banner(target, url_of(listener))
            config = _config(target, workers, access_log=access_log)
            _run(config, listener, banner, reload=reload)
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


def _listening(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as exc:
        raise click.ClickException(
            f"Cannot listen on {host}:{port}: {exc.strerror}. Choose another --port."
        ) from exc


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


def _config(target: Environment, workers: int, *, access_log: bool | None) -> uvicorn.Config:
    is_dev = target.name == "dev"
    if access_log is None:
        access_log = is_dev
    return uvicorn.Config(
        partial(logged_application if access_log else application, target.settings),
        factory=True,
        workers=workers,
        # A worker that starts on a busy machine answers late; uvicorn's 5 s would kill it.
        timeout_worker_healthcheck=60,
        # The application has its own access log, which costs an eighth of uvicorn's.
        access_log=False,
        log_level="info" if is_dev else "warning",
        **uvicorn_options(target.settings),
    )


def application(settings: Settings) -> Starlette:
    """Return the standalone app for a process that does nothing but serve it."""
    app = ASGIFactory(settings).standalone()
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def with_tuned_garbage_collection(app: Starlette) -> AsyncIterator[None]:
        async with lifespan(app):
            # The objects of the started server are permanent; a collection need not visit them.
            gc.freeze()
            gc.set_threshold(10_000)
            yield

    app.router.lifespan_context = with_tuned_garbage_collection
    return app


def logged_application(settings: Settings) -> ASGIApp:
    """Return the standalone app with an access log on standard output."""
    return AccessLog(application(settings))


class _BannerServer(uvicorn.Server):
    """A server that prints the banner once it listens, so that Ctrl-C then stops it cleanly."""

    banner: str

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            click.echo(self.banner)


def _run(config: uvicorn.Config, listener: socket.socket, banner: str, *, reload: bool) -> None:
    if not reload and config.workers == 1:
        server = _BannerServer(config)
        server.banner = banner
        server.run(sockets=[listener])
        return
    click.echo(banner)
    # The other end is open in this process only, as long as it runs.
    parent, end_of_parent = Pipe(duplex=False)
    config.app = partial(_following, parent, cast("Any", config.app))
    with end_of_parent:
        if reload:
            ChangeReload(config, target=uvicorn.Server(config).run, sockets=[listener]).run()
        else:
            Workers(config, sockets=[listener]).run()


def _following(parent: Connection, factory: Callable[[], ASGIApp]) -> ASGIApp:
    """Return the application, in a process that ends with its parent."""
    follow(parent)
    return factory()
