"""Programs of each kind that have the server inside: it is mounted at /llmring, beside a route."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
from fastapi import FastAPI, Request
from hypercorn.middleware import DispatcherMiddleware
from pgdbm import AsyncDatabaseManager, DatabaseConfig
from quart import Quart
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope

from llmring_server import Caller, NewCall, Ring, Server, Settings, build, migrate
from llmring_server.core.identity import ProjectId

PREFIX = "/llmring"
PROJECT = ProjectId(UUID("019a0000-0000-7000-8000-000000000001"))
SCOPES = frozenset({"log:write", "read"})
USER = {"X-User": "ada"}
SETTINGS = Settings(auth="parent")
Result = TypeVar("Result")


def authenticate(scope: Scope) -> Caller | None:
    is_ada = dict(scope["headers"]).get(b"x-user") == b"ada"
    return Caller(PROJECT, SCOPES, "ada") if is_ada else None


@asynccontextmanager
async def mounted_server(url: str, schema: str) -> AsyncIterator[Starlette]:
    """Open a parent's pool, and yield the server on it; close both at the end."""
    config = DatabaseConfig(connection_string=url, min_connections=1, max_connections=3)
    pool = await AsyncDatabaseManager.create_shared_pool(config)
    db = AsyncDatabaseManager(pool=pool, schema=schema)
    await migrate(db)
    server = build(db, SETTINGS, authenticate=authenticate)
    yield server
    await server.state.ring.aclose()
    await pool.close()


async def log(ring: Ring, call: dict[str, Any]) -> dict[str, Any]:
    """Log a call of the host's own, without HTTP."""
    logged = await ring.usage.log(PROJECT, NewCall(**call))
    return {"cost": str(logged.cost)}


def fastapi_host(url: str, schema: str) -> ASGIApp:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with mounted_server(url, schema) as server:
            app.state.ring = server.state.ring
            app.mount(PREFIX, server)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/answers")
    async def answers(request: Request, call: dict[str, Any]) -> dict[str, Any]:
        return await log(request.app.state.ring, call)

    return app


def starlette_host(url: str, schema: str) -> ASGIApp:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with mounted_server(url, schema) as server:
            app.state.ring = server.state.ring
            app.mount(PREFIX, server)
            yield

    async def answers(request: StarletteRequest) -> JSONResponse:
        return JSONResponse(await log(request.app.state.ring, await request.json()))

    return Starlette(routes=[Route("/answers", answers, methods=["POST"])], lifespan=lifespan)


def quart_host(url: str, schema: str) -> ASGIApp:
    """Quart mounts no ASGI applications: Hypercorn's dispatcher passes it the other paths."""
    app = Quart("host")
    ring: Ring

    @app.while_serving
    async def serving() -> AsyncGenerator[None]:
        nonlocal ring
        async with mounted_server(url, schema) as server:
            ring = server.state.ring
            app.asgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
                {PREFIX: server, "": app.asgi_app}  # type: ignore[dict-item]
            )
            yield

    @app.post("/answers")
    async def answers() -> dict[str, Any]:
        from quart import request  # noqa: PLC0415, FastAPI and Starlette have others

        return await log(ring, await request.get_json())

    return app  # type: ignore[return-value]


HOSTS = {"fastapi": fastapi_host, "starlette": starlette_host, "quart": quart_host}


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """Start an application as an HTTP server does; yield a client; shut it down."""
    events: asyncio.Queue[Message] = asyncio.Queue()
    replies: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}

    async def run() -> None:
        await app(scope, events.get, replies.put)

    async def send(event: str) -> None:
        await events.put({"type": f"lifespan.{event}"})
        assert (await replies.get())["type"] == f"lifespan.{event}.complete"

    running = asyncio.create_task(run())
    await send("startup")
    try:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
    finally:
        await send("shutdown")
        await running


class ServerThread:
    """The server in a thread with an event loop of its own, for a program without one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with Ring.open(self._settings) as ring, Server(ring, port=0) as server:
            self.ring, self.url = ring, server.url
            self._started.set()
            await self._stop.wait()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a method of the ring in the thread's loop; wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()
