"""ASGI app: wires the routes, the middleware and a Ring, which the app opens or receives."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial

from pgdbm import AsyncDatabaseManager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from llmring_server.access.authentication import Authenticate, Authentication
from llmring_server.db.migrations import migrate
from llmring_server.receipts.signing_keys import Keyring
from llmring_server.ring import Ring
from llmring_server.routes import API_GROUPS, META_GROUPS
from llmring_server.settings import Settings, environment_warnings
from llmring_server.web.body_memory import BodyMemory
from llmring_server.web.middleware import RequestMiddleware
from llmring_server.web.openapi import openapi_document
from llmring_server.web.rate_limits import RateLimits
from llmring_server.web.request import Authenticator
from llmring_server.web.request_limits import may_lose_framing
from llmring_server.web.router import RouteGroup, Router

logger = logging.getLogger(__name__)

CORS_REQUEST_HEADERS = (
    "Authorization",
    "X-API-Key",
    "X-Project-Key",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
)
CORS_RESPONSE_HEADERS = (
    "Link",
    "X-Request-ID",
    "Retry-After",
    "Idempotent-Replayed",
    "ETag",
    "X-Registry-Stale",
    "X-Warnings",
)


class _Cors(CORSMiddleware):
    """Cross-origin resource sharing, except for responses that must close their connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and may_lose_framing(scope):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class MigrateOnFirstRequest:
    """Migrates the schema before the first request; after a failure, before the next one."""

    def __init__(self, app: ASGIApp, ring: Ring) -> None:
        self.app = app
        self.ring = ring
        self._is_migrated = False
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_migrated:
            async with self._lock:
                if not self._is_migrated:
                    await migrate(self.ring.db, self.ring.settings.mcp_schema)
                    self._is_migrated = True
        await self.app(scope, receive, send)


class _App(Starlette):
    """A Starlette app with our router, and with our middleware in place of its error handling.

    The attributes are what endpoints need (`web.request.App`). They are not in `state`, where a
    look-up costs 1 µs for each request.
    """

    ring: Ring
    limits: RateLimits
    authenticator: Authenticator
    body_memory: BodyMemory
    large_bodies: asyncio.Semaphore
    openapi: Callable[[str], bytes]

    def __init__(self, groups: list[RouteGroup], middleware: list[Middleware]) -> None:
        super().__init__(middleware=middleware)
        self._groups = groups

    def build_middleware_stack(self) -> ASGIApp:
        routes = [route for group in self._groups for route in group.routes]
        # Starlette's own router has no routes; it runs the lifespan.
        app: ASGIApp = Router(routes, self.router)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        self._inside_cors = app
        return self._with_cors(app)

    def configure(self, settings: Settings) -> None:
        """Take over the settings that may change while the app serves; see `Ring.reload`."""
        self.state.settings = settings
        self.limits.configure(settings)
        self.body_memory.configure(settings)
        # Requests that are being served end with the former middleware.
        if self.middleware_stack is not None:
            self.middleware_stack = self._with_cors(self._inside_cors)

    def _with_cors(self, app: ASGIApp) -> ASGIApp:
        """Return the app with CORS outside, so that browsers may read error responses, too."""
        origins = self.state.settings.cors_origins
        # Mounted apps have none by default: CORS is up to the parent.
        if not origins:
            return app
        return _Cors(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[*CORS_REQUEST_HEADERS],
            expose_headers=[*CORS_RESPONSE_HEADERS],
        )


@dataclass(frozen=True)
class ASGIFactory:
    settings: Settings
    include_meta_routes: bool = True
    authenticate: Authenticate | None = None
    keyring: Keyring | None = None

    def __post_init__(self) -> None:
        if (self.settings.auth == "parent") != bool(self.authenticate):
            raise ValueError("auth=parent and authenticate=... belong together")

    def mounted(self, db: AsyncDatabaseManager, *, run_migrations: bool = False) -> Starlette:
        """Return an app that uses the caller's `db`. It needs no startup and no shutdown."""
        return self.around(Ring(db, self.settings, self.keyring), run_migrations=run_migrations)

    def around(self, ring: Ring, *, run_migrations: bool = False) -> Starlette:
        """Return an app that serves an open `ring`."""
        app = self._app([Middleware(MigrateOnFirstRequest, ring)] if run_migrations else [])
        _set_ring(app, ring)
        app.state.mode, app.state.external_db = "library", True
        return app

    def standalone(self) -> Starlette:
        """Return an app that opens, migrates and closes its own database."""

        @asynccontextmanager
        async def lifespan(app: _App) -> AsyncIterator[None]:
            async with Ring.open(self.settings, self.keyring) as ring:
                await ring.database_warnings()
                _set_ring(app, ring)
                yield

        app = self._app([])
        app.router.lifespan_context = lifespan
        app.state.mode, app.state.external_db = "standalone", False
        return app

    def _app(self, inner: list[Middleware]) -> _App:
        groups = [*API_GROUPS, *META_GROUPS] if self.include_meta_routes else API_GROUPS
        app = _App(groups, [Middleware(RequestMiddleware), *inner])
        app.limits = RateLimits(self.settings)
        app.body_memory = BodyMemory(self.settings)
        app.large_bodies = asyncio.Semaphore(1)
        app.authenticator = Authentication(self.settings, app.limits, self.authenticate)
        app.openapi = lru_cache(4)(partial(openapi_document, groups, self.settings.auth))
        app.state.settings, app.state.limits = self.settings, app.limits
        return app


def _set_ring(app: _App, ring: Ring) -> None:
    app.ring = app.state.ring = ring
    ring.apps.add(app)
    app.state.db = ring.db
    app.state.schema = ring.db.schema


def build(
    db: AsyncDatabaseManager,
    settings: Settings | None = None,
    authenticate: Authenticate | None = None,
    keyring: Keyring | None = None,
) -> Starlette:
    """Return the app to mount on a migrated `db`: `parent.mount("/llmring", build(db))`.

    `authenticate` identifies the caller of a request: given its ASGI scope, it returns (or awaits)
    the UUID of a project, a `Caller`, or None if the caller is unknown. `keyring` signs receipts.
    """
    return create_app(
        db, run_migrations=False, settings=settings, authenticate=authenticate, keyring=keyring
    )


def create_app(  # noqa: PLR0913, all but the first are options
    db_manager: AsyncDatabaseManager | None = None,
    *,
    run_migrations: bool = True,
    schema: str | None = None,
    settings: Settings | None = None,
    include_meta_routes: bool = True,
    authenticate: Authenticate | None = None,
    keyring: Keyring | None = None,
) -> Starlette:
    """Return an app on the caller's `db_manager`, or without one, on its own database.

    `schema` overrides the manager's. With `run_migrations`, pending migrations are applied when the
    app's lifespan starts, or before its first request is answered. Without `include_meta_routes`,
    `/`, `/health` and `/openapi.json` are left to the parent. `authenticate` and `keyring`: see
    `build`.
    """
    if db_manager is None:
        if settings is None:
            settings = Settings.from_env()
            for warning in environment_warnings():
                logger.warning("%s", warning)
        changes: dict[str, object] = {"migrate_on_start": run_migrations}
        if schema:
            changes["database_schema"] = schema
        settings = Settings(**settings.model_dump() | changes)
        return ASGIFactory(settings, include_meta_routes, authenticate, keyring).standalone()
    if schema and schema != db_manager.schema:
        db_manager = AsyncDatabaseManager(pool=db_manager._pool, schema=schema)
    settings = settings or Settings(auth="parent" if authenticate else "keys")
    factory = ASGIFactory(settings, include_meta_routes, authenticate, keyring)
    return factory.mounted(db_manager, run_migrations=run_migrations)
