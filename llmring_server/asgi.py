"""ASGI app: wires the routes, the middleware and a Ring, which the app opens or receives."""

import asyncio
import logging
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from pgdbm import AsyncDatabaseManager
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from llmring_server.access.authentication import Authenticate, Authentication
from llmring_server.core.fair_queue import FairSlots
from llmring_server.db.database import loop_of
from llmring_server.db.migrations import migrate
from llmring_server.db.monitored import with_schema
from llmring_server.errors import RingError, Unavailable
from llmring_server.owned_ring import (
    CLOSED,
    LENT_IN_OTHER_LOOP,
    NOT_LENT,
    OTHER_LOOP,
    ClosedDatabase,
    OwnedRing,
)
from llmring_server.receipts.signing_keys import Keyring
from llmring_server.ring import Ring
from llmring_server.routes import API_GROUPS, META_GROUPS
from llmring_server.settings import Settings, environment_warnings
from llmring_server.web.body_memory import BodyMemory, large_body_slots
from llmring_server.web.cors import with_cors
from llmring_server.web.health import TIMEOUT_SECONDS
from llmring_server.web.middleware import RequestMiddleware
from llmring_server.web.openapi import openapi_document
from llmring_server.web.rate_limits import RateLimits
from llmring_server.web.request import Authenticator
from llmring_server.web.router import Router, path_below_root

logger = logging.getLogger(__name__)

# The paths that are served before the database is opened, or although it cannot be.
WITHOUT_DATABASE = {"/", "/docs", "/redoc", "/openapi.json", "/health/live"}
HEALTH_CHECKS = {"/health", "/health/ready"}


class _State(State):
    """The state of an app. A host may set `db` and `settings`; the next request uses them.

    Without `db`, or if it is None, that is the app's own database.
    """

    def __init__(self, app: "App") -> None:
        super().__init__()
        vars(self)["_app"] = app

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "settings":
            self._app.check(value)
        super().__setattr__(key, value)
        self._app.prepared_in = None

    def __delattr__(self, key: Any) -> None:
        if key == "settings":
            raise AttributeError("app.state.settings cannot be deleted: set other settings")
        super().__delattr__(key)
        self._app.prepared_in = None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __delitem__(self, key: str) -> None:
        delattr(self, key)


class _Prepare:
    """Prepares the app before the first request; after a failure, before the next one."""

    def __init__(self, app: ASGIApp, prepared: "App") -> None:
        self.app = app
        self._prepared = prepared

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._prepared.prepared_in is get_running_loop() or scope["type"] != "http":
            return self.app(scope, receive, send)
        return self._prepare(scope, receive, send)

    async def _prepare(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_below_root(scope)
        if path in HEALTH_CHECKS:
            # They tell whether the database can be reached, and soon.
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await self._prepared.prepare()
            except (RingError, TimeoutError):
                # The ring of another event loop must not be used in this one.
                if self._prepared.prepared_in is not None:
                    raise
        elif path not in WITHOUT_DATABASE:
            await self._prepared.prepare()
        await self.app(scope, receive, send)


class App(Starlette):
    """A Starlette app with our router, and with our middleware in place of its error handling.

    The attributes are what endpoints need (`web.request.App`). They are not in `state`, where a
    look-up costs 1 µs for each request.
    """

    ring: Ring
    limits: RateLimits
    authenticator: Authenticator
    body_memory: BodyMemory
    large_bodies: FairSlots
    openapi: Callable[[str], bytes]

    def __init__(self, factory: "ASGIFactory", owned: OwnedRing | None, *, migrates: bool) -> None:
        super().__init__(middleware=[Middleware(RequestMiddleware), Middleware(_Prepare, self)])
        self._factory = factory
        self._groups = [*API_GROUPS, *META_GROUPS] if factory.include_meta_routes else API_GROUPS
        # The ring that the app opens itself, and its database: None if the app borrows one.
        self._owned = owned
        self._owned_db: AsyncDatabaseManager | None = None
        # Whether a borrowed database is migrated, and the one that was migrated last.
        self._migrates = migrates
        self._migrated_db: AsyncDatabaseManager | None = None
        # The event loop in which `ring` is ready for the next request.
        self.prepared_in: asyncio.AbstractEventLoop | None = None
        self._preparing: asyncio.Task[None] | None = None
        self.large_bodies = large_body_slots()
        self.state = _State(self)
        self._configure(factory.settings)

    @property
    def routes(self) -> list[BaseRoute]:
        """Our routes, and before them those that the host has added to this app."""
        ours = dict.fromkeys(route.path for group in self._groups for route in group.routes)
        return [*self.router.routes, *(StarletteRoute(path, self) for path in ours)]

    async def prepare(self) -> None:
        """Make `ring` that of the app's own database, or of the one that the host has lent.

        All who ask meanwhile get the same result; after a failure, the next one tries again.
        """
        loop = get_running_loop()
        if self.prepared_in is loop:
            return
        task = self._preparing
        if task is None or task.done() or task.get_loop().is_closed():
            task = self._preparing = loop.create_task(self._prepare(loop))
        elif task.get_loop() is not loop:
            raise Unavailable(OTHER_LOOP)
        # It goes on for the others if one of those who wait is cancelled.
        await asyncio.wait({task})
        if task.cancelled():
            raise Unavailable(CLOSED)
        task.result()

    async def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            lent, settings = self._lent_db(), self.state.settings
            ring = await (self._open(settings) if lent is None else self._borrow(lent, settings))
            # The host may have set others meanwhile.
            if lent is self._lent_db() and settings is self.state.settings:
                break
        if lent is None:
            self._owned_db = ring.db
        self.use(ring)
        self.prepared_in = loop

    def _lent_db(self) -> AsyncDatabaseManager | None:
        db: AsyncDatabaseManager | None = getattr(self.state, "db", None)
        return None if db is self._owned_db else db

    async def _open(self, settings: Settings) -> Ring:
        if self._owned is None:
            raise Unavailable(NOT_LENT)
        ring = await self._owned.open(settings)
        if self._is_replaced(settings, ring):
            await self._owned.aclose()
            ring = await self._owned.open(settings)
        return ring

    async def _borrow(self, db: AsyncDatabaseManager, settings: Settings) -> Ring:
        if loop_of(db) not in {None, get_running_loop()}:
            raise Unavailable(LENT_IN_OTHER_LOOP)
        ring = self.ring
        if ring.db is not db:
            ring = Ring(db, settings, self._factory.keyring)
        elif ring.events.is_closed or self._is_replaced(settings, ring):
            ring = ring.with_settings(settings)
        if self._migrates and self._migrated_db is not db:
            await migrate(db, settings.mcp_schema)
            self._migrated_db = db
        return ring

    def _is_replaced(self, settings: Settings, ring: Ring) -> bool:
        """Whether the host has set `state.settings` since they were last applied."""
        return settings is not self._settings and settings is not ring.settings

    def use(self, ring: Ring) -> None:
        """Serve `ring`, and show it in `state`."""
        self._configure(self.state.settings)
        is_own = ring.db is self._owned_db
        if former := getattr(self, "ring", None):
            former.apps.discard(self)
        self.ring = self.state.ring = ring
        ring.apps.add(self)
        self.state.db, self.state.schema = ring.db, ring.db.schema
        self.state.mode = "standalone" if is_own else "library"
        self.state.external_db = not is_own

    async def aclose(self) -> None:
        """End all background work, and close the database if the app opened it.

        The app opens it again if another request comes.
        """
        self.prepared_in = None
        task = self._preparing
        if task and not task.done() and task.get_loop() is get_running_loop():
            # It must not serve a ring that is closed.
            task.cancel()
            await asyncio.wait({task})
        if self.ring.db is not self._owned_db:
            await self.ring.aclose()
        if self._owned:
            await self._owned.aclose()

    def check(self, settings: object) -> None:
        """Raise an error, in the line of the host that is at fault, for settings of no use."""
        if not isinstance(settings, Settings):
            raise TypeError("app.state.settings must be Settings")
        replace(self._factory, settings=settings)

    def _configure(self, settings: Settings) -> None:
        if getattr(self, "_settings", None) is settings:
            return
        factory = replace(self._factory, settings=settings)
        self._settings = settings
        self.limits = RateLimits(settings)
        self.body_memory = BodyMemory(settings)
        self.authenticator = Authentication(settings, self.limits, factory.authenticate)
        self.openapi = lru_cache(4)(partial(openapi_document, self._groups, settings.auth))
        self.state.settings, self.state.limits = settings, self.limits

    def build_middleware_stack(self) -> ASGIApp:
        routes = [route for group in self._groups for route in group.routes]
        # Starlette's own router runs the lifespan, and has the routes that the host adds.
        app: ASGIApp = Router(routes, self.router)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        self._inside_cors = app
        return with_cors(app, self.state.settings.cors_origins)

    def configure(self, settings: Settings) -> None:
        """Take over the settings that may change while the app serves; see `Ring.reload`."""
        # The ring that was prepared has these settings, too.
        prepared_in = self.prepared_in
        self._settings = self.state.settings = settings
        self.prepared_in = prepared_in
        self.limits.configure(settings)
        self.body_memory.configure(settings)
        # Requests that are being served end with the former middleware.
        if self.middleware_stack is not None:
            self.middleware_stack = with_cors(self._inside_cors, settings.cors_origins)


@dataclass(frozen=True)
class ASGIFactory:
    settings: Settings
    include_meta_routes: bool = True
    authenticate: Authenticate | None = None
    keyring: Keyring | None = None

    def __post_init__(self) -> None:
        if (self.settings.auth == "parent") != bool(self.authenticate):
            raise ValueError("auth=parent and authenticate=... belong together")

    def mounted(
        self,
        db: AsyncDatabaseManager,
        *,
        run_migrations: bool = False,
        read_db: AsyncDatabaseManager | None = None,
    ) -> App:
        """Return an app that uses the caller's `db`. It needs no startup and no shutdown."""
        ring = Ring(db, self.settings, self.keyring, read_db)
        return self.around(ring, run_migrations=run_migrations)

    def around(self, ring: Ring, *, run_migrations: bool = False) -> App:
        """Return an app that serves an open `ring`."""
        app = App(self, None, migrates=run_migrations)
        app.use(ring)
        if not run_migrations:
            # So that the first requests do not wait for one another.
            app.prepared_in = loop_of(ring.db)
        return app

    def standalone(self) -> App:
        """Return an app that opens, migrates and closes its own database.

        It opens it when it starts. If nobody runs its lifespan, as of an app that is mounted, it
        opens it before the first request, and `aclose` closes it.
        """

        @asynccontextmanager
        async def lifespan(app: App) -> AsyncIterator[None]:
            try:
                await app.prepare()
                yield
            finally:
                await app.aclose()

        app = App(self, OwnedRing(self.keyring), migrates=self.settings.migrate_on_start)
        app.router.lifespan_context = lifespan
        app.state.mode, app.state.external_db = "standalone", False
        app.state.schema = self.settings.database_schema
        # Until the database is opened.
        app.ring = Ring(ClosedDatabase(self.settings.database_schema), self.settings)
        return app


def build(
    db: AsyncDatabaseManager,
    settings: Settings | None = None,
    authenticate: Authenticate | None = None,
    keyring: Keyring | None = None,
    read_db: AsyncDatabaseManager | None = None,
) -> App:
    """Return the app to mount on a migrated `db`: `parent.mount("/llmring", build(db))`.

    `authenticate` identifies the caller of a request: given its ASGI scope, it returns (or awaits)
    the UUID of a project, a `Caller`, or None if the caller is unknown. `keyring` signs receipts.
    `read_db` is the manager of a read replica, with the same schema.
    """
    return create_app(
        db,
        run_migrations=False,
        settings=settings,
        authenticate=authenticate,
        keyring=keyring,
        read_db=read_db,
    )


def create_app(  # noqa: PLR0913, PLR0917, the order is that of llmring-server 0.1
    db_manager: AsyncDatabaseManager | None = None,
    run_migrations: bool = True,  # noqa: FBT001, FBT002, as above
    schema: str | None = None,
    settings: Settings | None = None,
    standalone: bool = True,  # noqa: FBT001, FBT002, as above
    include_meta_routes: bool = True,  # noqa: FBT001, FBT002, as above
    *,
    config: Mapping[str, Any] | None = None,
    authenticate: Authenticate | None = None,
    keyring: Keyring | None = None,
    read_db: AsyncDatabaseManager | None = None,
) -> App:
    """Return an app on the caller's `db_manager`, or without one, on its own database.

    `schema` overrides the manager's. With `run_migrations`, pending migrations are applied when an
    app with its own database starts, otherwise before the first request is answered. `config` has
    settings by name: of an app with its own database, those that differ from the environment.
    `standalone=False` demands a `db_manager`. Without `include_meta_routes`, `/`, `/docs`,
    `/health` and `/openapi.json` are left to the parent. `authenticate`,
    `keyring` and `read_db`: see `build`.
    """
    if settings is not None and config is not None:
        raise ValueError("pass settings=... or config=..., not both")
    if db_manager is None:
        if not standalone:
            raise ValueError(
                "db_manager required when standalone=False: pass a manager of pgdbm, or leave out"
                " standalone=False for an app that opens its own database"
            )
        settings = _own_settings(settings, config, schema, run_migrations=run_migrations)
        return ASGIFactory(settings, include_meta_routes, authenticate, keyring).standalone()
    if schema and schema != db_manager.schema:
        db_manager = with_schema(db_manager, schema)
    if settings is None:
        settings = Settings(**{"auth": "parent" if authenticate else "keys"} | dict(config or {}))
    factory = ASGIFactory(settings, include_meta_routes, authenticate, keyring)
    return factory.mounted(db_manager, run_migrations=run_migrations, read_db=read_db)


def _own_settings(
    settings: Settings | None,
    config: Mapping[str, Any] | None,
    schema: str | None,
    *,
    run_migrations: bool,
) -> Settings:
    """Return the settings of an app with its own database; the same object if nothing differs."""
    if settings is None:
        settings = Settings.from_env()
        for warning in environment_warnings():
            logger.warning("%s", warning)
    changes = dict(config or {})
    if schema and schema != settings.database_schema:
        changes["database_schema"] = schema
    if settings.migrate_on_start and not run_migrations:
        changes["migrate_on_start"] = False
    return Settings(**settings.model_dump() | changes) if changes else settings
