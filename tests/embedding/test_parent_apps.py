"""Parent applications: the mounted app leaves their pool, process and routes as they were."""

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from pgdbm import AsyncDatabaseManager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from llmring_server import Ring, Settings, build, create_app, migrate
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.db.database import Pool
from llmring_server.usage.models import NewCall
from tests.conftest import CALL, drop

OPEN = Settings(auth="open", failed_auth_limit=0)
LOG = "/api/v1/log"
SESSION_SETUP = (
    "SET search_path = mine; SET jit = off; LISTEN me; SELECT pg_advisory_lock_shared(42)"
)
SESSION = """
    SELECT pg_backend_pid(), array(SELECT s FROM pg_show_all_settings() s),
        array(SELECT pg_listening_channels()), array(SELECT (classid, objid, mode) FROM pg_locks
            WHERE pid = pg_backend_pid() AND locktype = 'advisory')
"""


class ConnectionWithoutReset(asyncpg.Connection):
    """A connection that is not reset on release: what a guest changed would stay."""

    def get_reset_query(self) -> str:
        return ""


async def set_up_session(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.execute(SESSION_SETUP)


@pytest.fixture
async def pool(url: str) -> AsyncIterator[Pool]:
    """A parent's pool, whose sessions have settings of the parent."""
    pool = asyncpg.create_pool(
        url, min_size=3, max_size=3, connection_class=ConnectionWithoutReset, init=set_up_session
    )
    async with pool:
        yield pool


@pytest.fixture
async def fresh(pool: Pool) -> AsyncIterator[AsyncDatabaseManager]:
    """A manager of a schema that does not exist yet."""
    fresh = AsyncDatabaseManager(pool=pool, schema=f"fresh_{uuid4().hex[:8]}")
    yield fresh
    await drop(fresh, fresh.schema or "")


def client_of(app: ASGIApp, key: str = "key") -> httpx.AsyncClient:
    transport, headers = httpx.ASGITransport(app), {"X-API-Key": key}
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


async def state_of(pool: Pool) -> dict[str, Any]:
    """Return all that a guest could change in the process and in every connection."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(pool.acquire()) for _ in range(3)]
        rows = [await connection.fetchrow(SESSION) for connection in connections]
        sessions = sorted(tuple(row or ()) for row in rows)
    root = logging.getLogger()
    return {
        "sessions": sessions,
        "pool": (pool.get_size(), pool.get_idle_size(), pool.get_max_size()),
        "logging": (root.level, list(root.handlers), list(root.filters), root.manager.disable),
        "signals": {each: signal.getsignal(each) for each in signal.valid_signals()},
        "environment": dict(os.environ),
    }


async def one_request(client: httpx.AsyncClient, number: int) -> int:
    """Log a call, or for every tenth number, send an invalid request."""
    invalid: list[dict[str, Any]] = [
        {"json": CALL, "headers": {"X-API-Key": ""}},
        {"content": b"{", "headers": {"Content-Type": "application/json"}},
        {"json": CALL | {"input_tokens": -1}},
        {"json": CALL | {"cost": number}, "headers": {"Idempotency-Key": "the same"}},
    ]
    request = {"json": CALL} if number % 10 else invalid[number // 10 % 4]
    return (await client.post("/llmring" + LOG, **request)).status_code


@pytest.mark.slow
@pytest.mark.parametrize("parent", [FastAPI, Starlette])
async def test_1000_requests_change_nothing_of_the_parent(
    parent: type[Starlette], pool: Pool, fresh: AsyncDatabaseManager, key: str
) -> None:
    before = await state_of(pool)
    await migrate(fresh)
    app = parent()
    app.mount("/llmring", build(fresh, OPEN))
    async with client_of(app, key) as client:
        await client.post("/llmring" + LOG, json=CALL, headers={"Idempotency-Key": "the same"})
        statuses: Counter[int] = Counter()
        for start in range(0, 1000, 50):
            batch = (one_request(client, number) for number in range(start, start + 50))
            statuses.update(await asyncio.gather(*batch))
    assert statuses == {200: 900, 401: 25, 400: 25, 422: 50}
    assert (await Ring(fresh).usage.stats(project_of_key(key))).summary.total_requests == 901
    assert await state_of(pool) == before


@pytest.mark.parametrize("prefix", ["", "/", "/llmring"])
async def test_a_parent_can_keep_its_own_root_and_health(
    db: AsyncDatabaseManager, prefix: str
) -> None:
    app = Starlette(routes=[Route(path, PlainTextResponse("mine")) for path in ("/", "/health")])
    app.mount(prefix, create_app(db, settings=OPEN, include_meta_routes=prefix == "/llmring"))
    async with client_of(app) as client:
        assert (await client.get("/")).text == (await client.get("/health")).text == "mine"
        prefix = prefix.rstrip("/")
        assert (await client.post(prefix + LOG, json=CALL)).status_code == 200
        assert (await client.get(prefix + "/health/live")).is_success == bool(prefix)


async def test_two_instances_on_one_pool_have_separate_data(
    pool: Pool, fresh: AsyncDatabaseManager, db: AsyncDatabaseManager, key: str
) -> None:
    app = Starlette()
    app.mount("/a", create_app(fresh, settings=OPEN))
    app.mount("/b", create_app(fresh, schema=db.schema, settings=OPEN))
    async with client_of(app, key) as client:
        for path, count in {"/a": 2, "/b": 1}.items():
            for _ in range(count):
                assert (await client.post(path + LOG, json=CALL)).status_code == 200
        for path, count in {"/a": 2, "/b": 1}.items():
            assert len((await client.get(path + "/api/v1/logs")).json()) == count
    assert pool.get_size() == 3


async def test_of_20_concurrent_first_requests_one_migrates(
    pool: Pool, fresh: AsyncDatabaseManager
) -> None:
    statements: list[str] = []
    async with AsyncExitStack() as stack:
        for each in [await stack.enter_async_context(pool.acquire()) for _ in range(3)]:
            each.add_query_logger(lambda query: statements.append(query.query))
    async with client_of(create_app(fresh, settings=OPEN)) as client:
        assert not statements
        answers = await asyncio.gather(*(client.post(LOG, json=CALL) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert sum(statement.startswith("CREATE SCHEMA") for statement in statements) == 2
    assert sum("pg_advisory_xact_lock(hashtext($1))" in statement for statement in statements) == 2


async def test_the_next_request_retries_failed_migrations(
    fresh: AsyncDatabaseManager,
) -> None:
    await fresh.execute("CREATE SCHEMA {{schema}}; CREATE VIEW {{tables.usage_logs}} AS SELECT 1")
    async with client_of(create_app(fresh, settings=OPEN)) as client:
        assert (await client.post(LOG, json=CALL)).status_code == 503
        await fresh.execute("DROP VIEW {{tables.usage_logs}}")
        assert (await client.post(LOG, json=CALL)).status_code == 200


async def test_app_state_says_who_owns_the_database(
    db: AsyncDatabaseManager, settings: Settings
) -> None:
    state = create_app(db, settings=OPEN).state
    assert (state.mode, state.external_db) == ("library", True)
    assert (state.db, state.schema, state.settings) == (db, db.schema, OPEN)
    app = create_app(settings=settings)
    assert (app.state.mode, app.state.external_db) == ("standalone", False)
    async with app.router.lifespan_context(app):
        assert (app.state.schema, app.state.settings) == (db.schema, settings)
        assert app.state.ring.db is app.state.db is not db


async def log_within(
    db: AsyncDatabaseManager, ring: Ring, project_id: ProjectId, divisor: int
) -> None:
    async with db.transaction() as transaction:
        inside = ring.within(transaction).usage
        await inside.log(project_id, NewCall(**CALL), "a key")
        await inside.log_many(project_id, [NewCall(**CALL)] * 2)
        assert len(await inside.logs(project_id)) == 3
        assert await ring.usage.logs(project_id) == []
        1 / divisor


async def test_calls_are_committed_or_rolled_back_with_the_caller_s_transaction(
    db: AsyncDatabaseManager, ring: Ring, project_id: ProjectId
) -> None:
    with pytest.raises(ZeroDivisionError):
        await log_within(db, ring, project_id, divisor=0)
    assert (await ring.usage.stats(project_id)).summary.total_requests == 0
    await log_within(db, ring, project_id, divisor=1)
    assert (await ring.usage.stats(project_id)).summary.total_requests == 3
