"""In-process server: `async with Server(ring, port=0) as server: server.url`."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import uvicorn

from llmring_server.asgi import ASGIFactory
from llmring_server.ring import Ring
from llmring_server.server.protocol import BoundedHttpProtocol
from llmring_server.settings import Settings


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

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Return the options of uvicorn that `serve` and `Server` share."""
    return {
        "http": BoundedHttpProtocol,
        "ws": "none",
        "server_header": False,
        "timeout_graceful_shutdown": 15,
        # Always set: otherwise uvicorn would trust the environment variable FORWARDED_ALLOW_IPS.
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": list(settings.trusted_proxies),
    }


def listen(host: str, port: int) -> socket.socket:
    """Open the socket to serve on; raise OSError if the address is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server:
    """Serves `ring` until stopped. Port 0 picks a free port; the ring stays open afterwards."""

    def __init__(self, ring: Ring, host: str = "127.0.0.1", port: int = 8000) -> None:
        self._address = host, port
        self._app = ASGIFactory(ring.settings).around(ring)
        self._options = uvicorn_options(ring.settings)
        self._running: tuple[_InProcessServer, asyncio.Task[None]] | None = None
        self.url = ""

    async def start(self) -> None:
        """Start to serve; return when the server is listening."""
        if self._running:
            return
        listener = listen(*self._address)
        self.url = url_of(listener)
        config = _Config(self._app, log_config=None, log_level=None, **self._options)
        server = _InProcessServer(config)
        self._running = server, asyncio.create_task(server.serve(sockets=[listener]))
        await server.is_up.wait()

    async def stop(self) -> None:
        """Finish the running requests, for at most 15 seconds, then close."""
        if self._running:
            (server, task), self._running = self._running, None
            server.should_exit = True
            await task

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
