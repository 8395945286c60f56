"""In-process server: `async with Server(ring, port=0) as server: server.url`."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self

import uvicorn

from llmring_server.asgi import ASGIFactory
from llmring_server.errors import CannotListen, ListenNotPermitted, PortInUse
from llmring_server.receipts.signing_keys import Keyring
from llmring_server.ring import ReloadedSettings, Ring
from llmring_server.server.protocol import BoundedHttpProtocol
from llmring_server.server.thread import ServerThread
from llmring_server.settings import Settings

# How long running requests may take to finish when a server stops, unless it is told otherwise.
SHUTDOWN_TIMEOUT = 15
MAX_PORT = 65_535
# How long cancelled requests may take to end.
CANCEL_TIMEOUT = 1.0


class _Config(uvicorn.Config):
    """A configuration that leaves logging to the program."""

    def configure_logging(self) -> None:
        pass


class _InProcessServer(uvicorn.Server):
    """A server that leaves signals to the program, and sets an event once it is listening."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    def close_listeners(self) -> None:
        """Accept no more connections, also if the shutdown was cancelled."""
        for each in getattr(self, "servers", ()):
            each.close()

    async def close_connections(self) -> None:
        """Close what is open after the shutdown, which cancels requests and does not wait."""
        state = self.server_state
        if state.tasks:
            await asyncio.wait([*state.tasks], timeout=CANCEL_TIMEOUT)
        for connection in [*state.connections]:
            connection.transport.abort()
        # They are closed in the next iteration of the loop.
        await asyncio.sleep(0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Return the options of uvicorn that `serve` and `Server` share."""
    return {
        "http": BoundedHttpProtocol,
        "ws": "none",
        "server_header": False,
        "timeout_graceful_shutdown": SHUTDOWN_TIMEOUT,
        # Always set: otherwise uvicorn would trust the environment variable FORWARDED_ALLOW_IPS.
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": list(settings.trusted_proxies),
    }


def listen(host: str, port: int) -> socket.socket:
    """Open the socket to serve on; raise CannotListen, which says why and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    target = f"Cannot listen on {_host_in_url(host)}:{port}"
    if not 0 <= port <= MAX_PORT:
        raise CannotListen(f"{target}: a port is a number from 0 to {MAX_PORT}.")
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"{target}: the port is in use. Choose another one (0 picks a free one), or stop"
                " the program that listens on it."
            ) from exc
        if exc.errno in {errno.EACCES, errno.EPERM}:
            raise ListenNotPermitted(
                f"{target}: this program may not listen on the port. Choose one above 1023, or"
                " let a proxy listen on it."
            ) from exc
        # The errors of a look-up have negative numbers.
        number = exc.errno or 0
        reason = os.strerror(number) if number > 0 else "there is no such host"
        raise CannotListen(
            f"{target}: {reason}. Choose an address of this machine, such"
            " as 127.0.0.1, or 0.0.0.0 for all."
        ) from exc


def _host_in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{_host_in_url(host)}:{port}"


class Server:
    """Serves `ring` until stopped. Port 0 picks a free port; the ring stays open afterwards.

    `shutdown_timeout` is how many seconds running requests have to finish when it stops.
    """

    def __init__(
        self,
        ring: Ring,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
    ) -> None:
        self.ring = ring
        self.url = ""
        self._address = host, port
        self._shutdown_timeout = shutdown_timeout
        self._app = ASGIFactory(ring.settings).around(ring)
        self._running: tuple[_InProcessServer, asyncio.Task[None]] | None = None
        # One start or stop at a time.
        self._changing = asyncio.Lock()

    @classmethod
    def run_in_thread(
        cls,
        settings: Settings | str,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        keyring: Keyring | None = None,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
    ) -> ServerThread:
        """Serve in a thread with a loop of its own, for programs without asyncio.

        The thread opens the database in `settings`, or at a URL, as `Ring.open` does, and closes
        it when the server is stopped. Return when the server is listening; raise what prevents it.
        """

        @asynccontextmanager
        async def open_server() -> AsyncIterator[Server]:
            async with (
                Ring.open(settings, keyring) as ring,
                cls(ring, host, port, shutdown_timeout=shutdown_timeout) as server,
            ):
                yield server

        return ServerThread(open_server)

    async def start(self) -> None:
        """Start to serve; return when the server is listening.

        Raise PortInUse, ListenNotPermitted or another CannotListen if it cannot.
        """
        async with self._changing:
            if not self._running:
                await self._start()

    async def _start(self) -> None:
        listener = listen(*self._address)
        config = _Config(
            self._app,
            log_config=None,
            log_level=None,
            # The app on an open ring has none.
            lifespan="off",
            **uvicorn_options(self.ring.settings),
        )
        server = _InProcessServer(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        task.add_done_callback(lambda _: server.is_up.set())
        self._running = server, task
        try:
            await server.is_up.wait()
            if task.done():
                task.result()
        except BaseException:
            self._running = None
            task.cancel()
            listener.close()
            raise
        self.url = url_of(listener)

    async def stop(self, timeout: float | None = None) -> None:  # noqa: ASYNC109, to finish requests
        """Accept no more requests, finish those that run, and close all connections.

        Requests that still run after `timeout` seconds (default: `shutdown_timeout`) are cancelled,
        and so they are when this is cancelled.
        """
        async with self._changing:
            if self._running:
                await self._stop(*self._running, timeout)

    async def _stop(
        self,
        server: _InProcessServer,
        task: asyncio.Task[None],
        timeout: float | None,  # noqa: ASYNC109, as above
    ) -> None:
        seconds: Any = self._shutdown_timeout if timeout is None else timeout
        server.config.timeout_graceful_shutdown = seconds
        server.should_exit = True
        try:
            # If this is cancelled, so is the task.
            await task
        finally:
            self._running = None
            server.close_listeners()
            await server.close_connections()

    def reload(self, settings: Settings) -> ReloadedSettings:
        """Take over the settings that may change while the server runs: see `Ring.reload`."""
        return self.ring.reload(settings)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
