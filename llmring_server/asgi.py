"""One app, two owners: it opens its own database, or borrows its parent's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial

from pgdbm import AsyncDatabaseManager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from llmring_server.access.authentication import Authenticate
from llmring_server.db.migrations import migrate
from llmring_server.receipts.signing_keys import Keyring
from llmring_server.ring import Ring
from llmring_server.routes import API, META
from llmring_server.settings import Settings
from llmring_server.web.middleware import RequestMiddleware
from llmring_server.web.openapi import openapi_document
from llmring_server.web.problems import HANDLERS
from llmring_server.web.rate_limits import RateLimits
from llmring_server.web.router import Exact

CORS_REQUEST_HEADERS = (
    "Authorization",
    "X-API-Key",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
)
CORS_RESPONSE_HEADERS = (
    "Link", "X-Request-ID", "Retry-After", "Idempotent-Replayed", "ETag", "X-Registry-Stale",
)  # fmt: skip


class MigrateOnFirstRequest:
    """Brings the schema up to date before the first request, once; tries again if it fails."""

    def __init__(self, app: ASGIApp, ring: Ring) -> None:
        self.app = app
        self.ring = ring
        self._done = False
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._done:
            async with self._one_at_a_time:
                if not self._done:
                    await migrate(self.ring.db, self.ring.settings.mcp_schema)
                    self._done = True
        await self.app(scope, receive, send)


class _App(Starlette):
    """Starlette without its own last resort: that is Edge, which keeps the connection."""

    # Also in `state`, for everybody else: to look there twice a request costs 1 µs.
    ring: Ring
    limits: RateLimits

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = ExceptionMiddleware(self.router, handlers=self.exception_handlers)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app


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
        """Return an app that borrows `db`. There is nothing to start, and nothing to stop."""
        return self.around(Ring(db, self.settings, self.keyring), run_migrations=run_migrations)

    def around(self, ring: Ring, *, run_migrations: bool = False) -> Starlette:
        """Return an app that serves an open `ring`."""
        app = self._app(*[Middleware(MigrateOnFirstRequest, ring)] * run_migrations)
        self._give(app, ring)
        app.state.mode, app.state.external_db = "library", True
        return app

    def standalone(self) -> Starlette:
        """Return an app that opens, migrates and closes a database of its own."""

        @asynccontextmanager
        async def lifespan(app: _App) -> AsyncIterator[None]:
            async with Ring.open(self.settings, self.keyring) as ring:
                self._give(app, ring)
                yield

        app = self._app()
        app.router.lifespan_context = lifespan
        app.state.mode, app.state.external_db = "standalone", False
        return app

    def _app(self, *inner: Middleware) -> _App:
        routes = API + META if self.include_meta_routes else API
        # Edge answers errors, so CORS stands before it: a browser may read those, too.
        middleware = [
            *self._cors(),
            Middleware(RequestMiddleware),
            *inner,
            Middleware(Exact, routes),
        ]
        app = _App(middleware=middleware, exception_handlers=HANDLERS)
        app.router = Router(routes, redirect_slashes=False)
        app.state.settings, app.state.authenticate = self.settings, self.authenticate
        app.limits = app.state.limits = RateLimits(self.settings)
        app.state.describe = lru_cache(4)(partial(openapi_document, routes, self.settings.auth))
        return app

    def _cors(self) -> list[Middleware]:
        # A parent says itself who may call.
        if not self.settings.cors_origins:
            return []
        return [
            Middleware(
                CORSMiddleware,
                allow_origins=self.settings.cors_origins,
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=[*CORS_REQUEST_HEADERS],
                expose_headers=[*CORS_RESPONSE_HEADERS],
            )
        ]

    def _give(self, app: _App, ring: Ring) -> None:
        app.ring = app.state.ring = ring
        app.state.db = ring.db
        app.state.schema = ring.db.schema
