"""Apps that open their own database, although nobody starts them; and databases lent to an app."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from pgdbm import AsyncDatabaseManager
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp

from llmring_server import Ring, Settings, build, create_app
from llmring_server.core.identity import project_of_key
from llmring_server.db import admin
from llmring_server.routes import API, META
from tests.conftest import CALL, SCHEMA, drop, pool_of
from tests.faults.test_kills import until

LOG = "/api/v1/log"
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
OPEN = Settings(auth="open")


def client_of(app: ASGIApp, key: str = "key") -> httpx.AsyncClient:
    """Return a client of an app whose lifespan nobody runs."""
    transport, headers = httpx.ASGITransport(app), {"X-API-Key": key}
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


async def log(app: ASGIApp, key: str = "key", prefix: str = "") -> int:
    async with client_of(app, key) as client:
        return (await client.post(prefix + LOG, json=CALL)).status_code


async def iterate(iterations: int) -> None:
    """Let the event loop run this many iterations."""
    for _ in range(iterations):
        await asyncio.sleep(0)


def is_opened(app: Any) -> bool:
    """Tell whether the app's own database is open, before a request could see it."""
    return app._owned._task is not None and app._owned._opened.done()


@pytest.fixture
def named(settings: Settings) -> Settings:
    """Settings whose connections the database counts apart from others."""
    url = f"{settings.database_url}{'&' if '?' in (settings.database_url or '') else '?'}"
    return settings.model_copy(update={"database_url": f"{url}application_name=unstarted"})


def missing(settings: Settings) -> Settings:
    """Settings with a database that does not exist, which the server refuses at once."""
    url = admin.with_database_name(settings.database_url or "", "missing")
    return settings.model_copy(update={"database_url": url})


async def connections(db: AsyncDatabaseManager) -> int:
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'unstarted'"
    return int(await db.fetch_value(count))


@pytest.mark.parametrize("parent", [FastAPI, Starlette])
async def test_a_mounted_app_opens_its_database_at_the_first_request_once(
    parent: type[Starlette], owner: AsyncDatabaseManager, named: Settings, key: str
) -> None:
    app, parent_app = create_app(settings=named), parent()
    parent_app.mount("/llmring", app)
    assert (app.state.mode, app.state.external_db) == ("standalone", False)
    assert app.state.schema == named.database_schema
    assert await connections(owner) == 0
    statuses = await asyncio.gather(*(log(parent_app, key, "/llmring") for _ in range(10)))
    assert statuses == [200] * 10
    assert app.state.db is app.state.ring.db
    assert 0 < await connections(owner) <= named.database_pool_size + named.database_pool_overflow
    await app.aclose()
    assert await connections(owner) == 0
    assert await log(parent_app, key, "/llmring") == 200
    stats = await app.state.ring.usage.stats(project_of_key(key))
    assert stats.summary.total_requests == 11
    await app.aclose()
    await app.aclose()
    assert await connections(owner) == 0


async def test_a_failed_opening_is_tried_again(settings: Settings, key: str) -> None:
    app = create_app(settings=missing(settings))
    async with client_of(app, key) as client:
        responses = await asyncio.gather(*(client.post(LOG, json=CALL) for _ in range(5)))
        assert {response.status_code for response in responses} == {503}
        for path in ("/", "/docs", "/openapi.json", "/health/live"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/health")).json()["status"] == "unhealthy"
        assert (await client.get("/health/ready")).status_code == 503
        app.state.settings = settings
        assert (await client.post(LOG, json=CALL)).status_code == 200
        assert (await client.get("/health")).json()["status"] == "healthy"
    await app.aclose()


async def test_a_cancelled_first_request_does_not_stop_the_others(
    settings: Settings, key: str
) -> None:
    app = create_app(settings=settings)
    first = asyncio.create_task(log(app, key))
    second = asyncio.create_task(log(app, key))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 200
    await app.aclose()


async def test_closing_an_app_that_is_opening_its_database_stops_that(settings: Settings) -> None:
    before = asyncio.all_tasks()
    app = create_app(settings=settings)
    request = asyncio.create_task(log(app))
    await until(lambda: len(asyncio.all_tasks() - before) > 1)
    await app.aclose()
    assert await request == 503
    assert asyncio.all_tasks() == before


async def test_an_app_may_be_closed_at_any_moment_and_serves_afterwards(
    settings: Settings, key: str
) -> None:
    app = create_app(settings=settings)
    async with asyncio.timeout(60):
        # Also before the task that opens the database has begun.
        for iterations in range(8):
            request = asyncio.create_task(log(app, key))
            await iterate(iterations)
            await app.aclose()
            assert await request in {200, 503}
            assert await log(app, key) == 200
            await app.aclose()
        # When the database has just been opened, and nothing serves it yet.
        request = asyncio.create_task(log(app, key))
        while not is_opened(app):
            await iterate(1)
        await app.aclose()
        assert await request in {200, 503}
        assert await log(app, key) == 200
        await app.aclose()


async def test_an_app_whose_start_was_cancelled_starts_again(settings: Settings, key: str) -> None:
    app = create_app(settings=settings)

    async def run() -> None:
        async with app.router.lifespan_context(app):
            await asyncio.Event().wait()

    async with asyncio.timeout(60):
        for iterations in range(1, 5):
            task = asyncio.create_task(run())
            await iterate(iterations)
            task.cancel()
            await asyncio.wait({task})
        async with app.router.lifespan_context(app):
            assert await log(app, key) == 200


def test_an_app_serves_one_event_loop_after_another(
    settings: Settings, key: str, recwarn: pytest.WarningsRecorder
) -> None:
    app = create_app(settings=settings)
    # The second loop finds a database that was closed with the first one.
    for _ in range(2):
        assert asyncio.run(log(app, key)) == 200
    assert not recwarn


@pytest.mark.parametrize("kind", ["unstarted", "started", "built", "lent"])
async def test_another_running_loop_is_told_to_use_its_own_app(
    kind: str, settings: Settings, db: AsyncDatabaseManager, key: str
) -> None:
    found: list[httpx.Response] = []

    async def ask() -> None:
        async with client_of(app, key) as client:
            found.extend([await client.get(path) for path in ("/health", "/health/live")])
            found.append(await client.post(LOG, json=CALL))

    async with AsyncExitStack() as stack:
        if kind == "built":
            app = build(db, settings)
        else:
            app = create_app(settings=settings)
            if kind == "started":
                await stack.enter_async_context(app.router.lifespan_context(app))
            elif kind == "lent":
                app.state.db = db
        stack.push_async_callback(app.aclose)
        assert await log(app, key) == 200
        await asyncio.to_thread(asyncio.run, ask())
        health, alive, refused = found
        assert alive.status_code == 200
        for response in (health, refused):
            assert response.status_code == 503
            assert "one app for each event loop" in response.json()["detail"]
        assert await log(app, key) == 200


async def test_a_started_app_serves_its_database_until_it_is_shut_down(
    owner: AsyncDatabaseManager, named: Settings, key: str
) -> None:
    app = create_app(settings=named)
    async with app.router.lifespan_context(app):
        ring = app.state.ring
        assert await connections(owner) > 0
        assert await log(app, key) == 200
        assert app.state.ring is ring
    assert await connections(owner) == 0


async def test_an_app_does_not_start_without_its_database(settings: Settings) -> None:
    app = create_app(settings=missing(settings))
    with pytest.raises(Exception, match="database"):
        async with app.router.lifespan_context(app):
            pass


async def test_a_lent_database_is_used_and_stays_open(
    url: str, owner: AsyncDatabaseManager, key: str
) -> None:
    app = create_app(settings=Settings(database_url=NO_DATABASE, auth="open"))
    app.state.db = owner
    assert await log(app, key) == 200
    assert (app.state.mode, app.state.external_db) == ("library", True)
    assert (app.state.schema, app.state.ring.db) == (owner.schema, owner)
    # Each test of a host may lend another one, in a schema that is not migrated yet.
    async with pool_of(url, "lent") as other:
        app.state.db = other
        assert await log(app, key) == 200
        assert app.state.schema == "lent"
        for db in (owner, other):
            stats = await Ring(db).usage.stats(project_of_key(key))
            assert stats.summary.total_requests == 1
        await app.aclose()
        assert await other.fetch_value("SELECT 1") == 1
        await drop(other, "lent")
    assert await owner.fetch_value("SELECT 1") == 1


async def test_a_lent_database_replaces_that_of_a_started_app(
    settings: Settings, db: AsyncDatabaseManager, key: str
) -> None:
    app = create_app(settings=settings)
    async with app.router.lifespan_context(app):
        own = app.state.db
        app.state.db = db
        assert await log(app, key) == 200
        assert app.state.ring.db is db
        app.state["db"] = own
        assert await log(app, key) == 200
        assert (app.state.ring.db, app.state.external_db) == (own, False)
    assert await db.fetch_value("SELECT 1") == 1
    with pytest.raises(asyncpg.InterfaceError):
        await own.fetch_value("SELECT 1")


async def test_settings_can_be_replaced(db: AsyncDatabaseManager, key: str) -> None:
    app = create_app(db)
    assert await log(app, key) == 401
    app.state.settings = OPEN
    assert await log(app, key) == 200
    assert app.state.ring.settings is app.state.settings is OPEN


async def test_a_lent_database_is_taken_back(
    settings: Settings, db: AsyncDatabaseManager, key: str
) -> None:
    app = create_app(settings=settings)
    for is_deleted in (False, True):
        app.state.db = db
        assert await log(app, key) == 200
        assert (app.state.ring.db, app.state.mode) == (db, "library")
        if is_deleted:
            del app.state.db
        else:
            app.state.db = None
        assert await log(app, key) == 200
        assert app.state.mode == "standalone"
        assert app.state.db is app.state.ring.db is not db
    await app.aclose()
    assert await db.fetch_value("SELECT 1") == 1
    # This one has no database of its own.
    app = build(db, OPEN)
    del app.state["db"]
    async with client_of(app) as client:
        response = await client.post(LOG, json=CALL)
    assert (response.status_code, "set app.state.db" in response.text) == (503, True)
    app.state.db = db
    assert await log(app) == 200


async def test_what_is_set_while_an_app_opens_its_database_counts(
    settings: Settings, db: AsyncDatabaseManager, key: str
) -> None:
    app = create_app(settings=settings)
    request = asyncio.create_task(log(app, key))
    tasks = len(asyncio.all_tasks())
    await until(lambda: len(asyncio.all_tasks()) > tasks)
    app.state.db = db
    app.state.settings = strict = settings.replace(strict_fields=True)
    assert await request == 200
    assert (app.state.ring.db, app.state.ring.settings) == (db, strict)
    await app.aclose()


async def test_settings_of_no_use_are_refused_where_they_are_set(db: AsyncDatabaseManager) -> None:
    app = build(db, OPEN)
    with pytest.raises(TypeError, match=r"app\.state\.settings must be Settings"):
        app.state.settings = None
    with pytest.raises(ValueError, match="auth=parent and authenticate"):
        app.state["settings"] = Settings(auth="parent")
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del app.state.settings
    assert await log(app) == 200


async def test_a_ring_with_other_settings_keeps_its_replica_and_its_subscribers(
    url: str, db: AsyncDatabaseManager
) -> None:
    async with pool_of(url, SCHEMA) as read_db:
        app = build(db, OPEN, read_db=read_db)
        former = app.state.ring
        events = former.events.subscribe()
        app.state.settings = strict = OPEN.replace(strict_fields=True)
        assert await log(app) == 200
        assert app.state.ring.settings is strict
        assert app.state.ring.has_replica
        assert (await anext(events)).kind == "call.logged"
        # The former ring is not that of the app any more.
        former.reload(OPEN.replace(max_aliases=1))
        assert app.state.settings is strict
        # An app that is used again after it was closed has new subscribers.
        await app.aclose()
        assert await log(app) == 200
        events = app.state.ring.events.subscribe()
        assert await log(app) == 200
        assert (await anext(events)).kind == "call.logged"
        assert app.state.ring.has_replica
        await app.aclose()


async def test_create_app_takes_its_arguments_by_position(db: AsyncDatabaseManager) -> None:
    app = create_app(db, False, db.schema, OPEN, False, False)  # noqa: FBT003, the old order
    async with client_of(app) as client:
        assert (await client.post(LOG, json=CALL)).status_code == 200
        assert (await client.get("/health")).status_code == 404
    with pytest.raises(ValueError, match="db_manager required when standalone=False: pass"):
        create_app(standalone=False)


async def test_config_has_settings_by_name(
    db: AsyncDatabaseManager, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMRING_DATABASE_SCHEMA", "of_the_environment")
    monkeypatch.setenv("LLMRING_MIGRATE_ON_START", "false")
    app = create_app(config={"database_url": settings.database_url, "auth": "open"})
    assert (app.state.schema, app.state.settings.auth) == ("of_the_environment", "open")
    assert app.state.settings.migrate_on_start is False
    app = create_app(db, config={"auth": "open"})
    assert (app.state.schema, await log(app)) == (SCHEMA, 200)
    with pytest.raises(ValueError, match=r"settings=\.\.\. or config=\.\.\., not both"):
        create_app(settings=settings, config={})


async def test_an_app_keeps_the_settings_that_it_is_given(settings: Settings) -> None:
    app = create_app(settings=settings)
    assert app.state.settings is settings
    app = create_app(settings=settings, schema="other", run_migrations=False)
    assert app.state.settings.migrate_on_start is False
    assert (app.state.schema, app.state.settings.database_schema) == ("other", "other")


async def mine(request: Request) -> Response:
    if "fail" in request.query_params:
        raise HTTPException(418, "no tea")
    return PlainTextResponse("mine")


async def test_a_host_adds_routes_to_the_app_and_replaces_some(db: AsyncDatabaseManager) -> None:
    app: Any = build(db, OPEN)
    async with client_of(app) as client:
        assert (await client.get("/mine")).status_code == 404
        app.add_route("/mine", mine)
        app.add_route("/health", mine)
        app.mount("/files", Starlette(routes=[StarletteRoute("/", mine)]))
        app.add_route("/slash/", mine)
        app.add_route("/{anything:path}", mine)
        assert (await client.get("/mine")).text == "mine"
        assert (await client.get("/mine?fail")).status_code == 418
        assert (await client.get("/health")).text == "mine"
        assert (await client.get("/files/none")).status_code == 404
        for path in ("/files/", "/slash/", "/mine/", "/health/"):
            assert (await client.get(path)).text == "mine"
        assert (await client.get("/anything/else")).text == "mine"
        assert (await client.get("/")).json()["name"] == "LLMRing Server"
        assert (await client.post(LOG, json=CALL)).status_code == 200


@pytest.mark.parametrize("parent", [FastAPI, Starlette])
async def test_the_routes_of_the_app_can_be_added_to_a_host(
    parent: type[Starlette], db: AsyncDatabaseManager
) -> None:
    app, host = build(db, OPEN), parent()
    paths = [getattr(route, "path", "") for route in app.routes]
    assert {*paths} == {route.path for route in API + META}
    host.add_route("/health", mine)
    host.router.routes.extend(app.routes)
    async with client_of(host) as client:
        assert (await client.get("/health")).text == "mine"
        assert (await client.get("/health/ready")).json()["status"] == "ready"
        assert (await client.post(LOG, json=CALL)).status_code == 200
        assert (await client.get("/api/v1/aliases/default/none")).status_code == 404
