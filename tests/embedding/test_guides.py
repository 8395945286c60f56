"""Guides: the ways in which those of pgdbm use a package, with the server as the package."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from pgdbm import (
    AsyncDatabaseManager,
    AsyncMigrationManager,
    DatabaseConfig,
    DatabaseDebugger,
    SchemaManager,
)

from llmring_server import Ring, Settings, create_app, migrate
from llmring_server.aliases.models import BindAlias
from llmring_server.core.identity import ProjectId
from llmring_server.db.database import Pool
from llmring_server.db.errors import NOT_CONNECTED
from llmring_server.errors import LockTimeout, Overloaded
from llmring_server.usage.models import NewCall
from tests.conftest import CALL, SCHEMA
from tests.support.hosts import serving
from tests.support.postgres import database

ENTRY = NewCall(**CALL, cost=Decimal(1))
OPEN = Settings(auth="open")


def config(url: str, **options: Any) -> DatabaseConfig:
    defaults = {"min_connections": 1, "max_connections": 4, "retry_attempts": 1}
    return DatabaseConfig(connection_string=url, **defaults | options)


async def requests(ring: Ring, project_id: ProjectId) -> int:
    return (await ring.usage.stats(project_id)).summary.total_requests


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    async with database(server_url, "guide") as url:
        yield url


@pytest.fixture
async def pool(url: str) -> AsyncIterator[Pool]:
    """The shared pool of an application."""
    pool = await AsyncDatabaseManager.create_shared_pool(config(url))
    yield pool
    await pool.close()


class Service:
    """A library on a database of its own, or on the manager of an application."""

    def __init__(
        self, connection_string: str = "", db: AsyncDatabaseManager | None = None, **options: Any
    ) -> None:
        self.owns_db = db is None
        self.db = db or AsyncDatabaseManager(config(connection_string, **options))

    async def initialize(self) -> list[str]:
        if self.owns_db:
            await self.db.connect()
        applied = await migrate(self.db)
        self.ring = Ring(self.db)
        return applied

    async def shutdown(self) -> None:
        await self.ring.aclose()
        if self.owns_db:
            await self.db.disconnect()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="public"),
        pytest.param({"schema": "my_service"}, id="schema", marks=pytest.mark.full),
    ],
)
async def test_a_standalone_service_owns_its_database(
    options: dict[str, Any], empty_url: str, project_id: ProjectId
) -> None:
    for calls in (1, 2):
        service = Service(empty_url, **options)
        assert bool(await service.initialize()) == (calls == 1)
        await service.ring.usage.log(project_id, ENTRY)
        assert await requests(service.ring, project_id) == calls
        table = await service.db.fetch_value("SELECT '{{tables.usage_logs}}'::regclass::text")
        assert table.endswith("usage_logs")
        assert await service.db.table_exists("usage_logs")
        await service.shutdown()


async def test_a_reusable_library_leaves_a_borrowed_pool_open(
    pool: Pool, project_id: ProjectId
) -> None:
    library = Service(db=AsyncDatabaseManager(pool=pool, schema=SCHEMA))
    await library.initialize()
    await library.ring.usage.log(project_id, ENTRY)
    await library.shutdown()
    assert await library.db.fetch_value("SELECT 1") == 1
    # And it can be opened again on the same pool.
    await library.initialize()
    assert await requests(library.ring, project_id) == 1
    await library.shutdown()


async def test_an_application_shares_its_pool_with_services_that_migrate_themselves(
    empty_url: str, project_id: ProjectId, tmp_path: Path
) -> None:
    (tmp_path / "001_users.sql").write_text("CREATE TABLE {{tables.users}} (name text)")
    pool = await AsyncDatabaseManager.create_shared_pool(config(empty_url))
    users, llmring = (AsyncDatabaseManager(pool=pool, schema=name) for name in ("users", "llmring"))
    await SchemaManager(users).ensure_schema_exists()
    migrations = AsyncMigrationManager(users, str(tmp_path), module_name="users")
    library = Service(db=llmring)
    # pgdbm's migrations of another module may run at the same time.
    applied, ours = await asyncio.gather(
        migrations.apply_pending_migrations(), library.initialize()
    )
    assert [each["filename"] for each in applied["applied"]] == ["001_users.sql"]
    assert ours
    async with users.transaction() as transaction:
        # One transaction for both schemas: pgdbm's is of a connection, not of a manager.
        await transaction.execute("INSERT INTO {{tables.users}} VALUES ('ada')")
        await library.ring.within(transaction).usage.log(project_id, ENTRY)
    assert await users.fetch_value("SELECT count(*) FROM {{tables.users}}") == 1
    assert await requests(library.ring, project_id) == 1
    health = await DatabaseDebugger(llmring).check_connection_health()
    assert health["status"] == "healthy"
    sizes = await DatabaseDebugger(llmring).analyze_table_sizes()
    assert "usage_recent" in {size["tablename"] for size in sizes}
    await library.shutdown()
    await pool.close()


@pytest.mark.full
async def test_each_tenant_can_have_a_schema(empty_url: str, project_id: ProjectId) -> None:
    pool = await AsyncDatabaseManager.create_shared_pool(config(empty_url))
    tenants = [AsyncDatabaseManager(pool=pool, schema=f"tenant_{name}") for name in ("a", "b")]
    # Whoever comes first creates the schema of a tenant.
    await asyncio.gather(*(migrate(db) for db in tenants for _ in range(2)))
    rings = [Ring(db) for db in tenants]
    await rings[0].usage.log(project_id, ENTRY)
    assert [await requests(ring, project_id) for ring in rings] == [1, 0]
    for ring in rings:
        await ring.aclose()
    await pool.close()


async def test_a_dual_mode_library_is_mounted_twice_on_the_managers_own_pool(
    empty_url: str, key: str
) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        db = AsyncDatabaseManager(config(empty_url))
        await db.connect()
        for name in ("service1", "service2"):
            service = create_app(db, schema=name, run_migrations=True, settings=OPEN)
            setattr(app.state, name, service)
            app.mount(f"/{name}", service)
        yield
        await db.disconnect()

    app = FastAPI(lifespan=lifespan)
    async with serving(app) as client:
        client.headers["X-API-Key"] = key
        assert (await client.post("/service1/api/v1/log", json=CALL)).status_code == 200
        counts = [len((await client.get(f"/service{n}/api/v1/logs")).json()) for n in (1, 2)]
    assert counts == [1, 0]
    assert (app.state.service1.state.external_db, app.state.service1.state.schema) == (
        True,
        "service1",
    )


async def test_a_manager_that_is_not_connected_is_reported(url: str, key: str) -> None:
    db = AsyncDatabaseManager(config(url, schema=SCHEMA))
    with pytest.raises(ValueError, match="needs the pool"):
        create_app(db, schema="another")
    transport = httpx.ASGITransport(create_app(db, settings=OPEN, run_migrations=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        client.headers["X-API-Key"] = key
        assert (await client.get("/health/live")).status_code == 200
        refused = await client.get("/api/v1/logs")
        assert (refused.status_code, refused.json()["detail"]) == (503, NOT_CONNECTED)
        # An app may be built before the manager is connected.
        await db.connect()
        assert (await client.get("/api/v1/logs")).json() == []
        await db.disconnect()
        assert (await client.get("/api/v1/logs")).status_code == 503


async def test_endpoints_of_the_application_depend_on_the_ring(
    pool: Pool, project_id: ProjectId
) -> None:
    app = FastAPI()
    app.state.ring = Ring(AsyncDatabaseManager(pool=pool, schema=SCHEMA))

    def ring_of(request: Request) -> Ring:
        ring: Ring = request.app.state.ring
        return ring

    @app.post("/work")
    async def work(ring: Annotated[Ring, Depends(ring_of)]) -> dict[str, str]:
        return {"cost": str((await ring.usage.log(project_id, ENTRY)).cost)}

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.post("/work")).json() == {"cost": "1"}
    assert await requests(app.state.ring, project_id) == 1


async def test_a_worker_logs_the_calls_of_its_jobs_in_the_transaction_of_the_job(
    pool: Pool, project_id: ProjectId
) -> None:
    db = AsyncDatabaseManager(pool=pool, schema=SCHEMA)
    ring = Ring(db)
    jobs: asyncio.Queue[int] = asyncio.Queue()

    async def process(job: int) -> None:
        async with db.transaction() as transaction:
            await ring.within(transaction).usage.log(project_id, ENTRY, f"job {job}")
            1 / (job % 5)

    async def worker() -> None:
        while not jobs.empty():
            job = jobs.get_nowait()
            try:
                await process(job)
            except ZeroDivisionError:
                jobs.put_nowait(job + 101)

    for job in range(1, 21):
        jobs.put_nowait(job)
    await asyncio.gather(*(worker() for _ in range(4)))
    # Each job is logged once, and those that failed, when they succeeded.
    assert await requests(ring, project_id) == 20


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_any_size_of_the_pool_serves_more_requests_than_it_has_connections(
    size: int, url: str, key: str
) -> None:
    options = config(url, min_connections=1, max_connections=size)
    pool = await AsyncDatabaseManager.create_shared_pool(options)
    db = AsyncDatabaseManager(pool=pool, schema=SCHEMA)
    app = create_app(db, settings=OPEN)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        client.headers["X-API-Key"] = key
        conversation = {"title": "t", "messages": [{"role": "user", "content": "hello"}]}
        responses = await asyncio.gather(
            *(client.post("/api/v1/log", json=CALL) for _ in range(20)),
            *(client.post("/api/v1/conversations", json=conversation) for _ in range(5)),
            *(client.get("/api/v1/stats") for _ in range(5)),
            *(client.get("/api/v1/logs/export") for _ in range(2)),
        )
    assert {response.is_success for response in responses} == {True}
    stats = await db.get_pool_stats()
    assert (stats["max_size"], stats["used_size"]) == (size, 0)
    assert stats["size"] <= size
    await app.state.ring.aclose()
    await pool.close()


@pytest.mark.parametrize(
    ("option", "error"), [("lock_timeout_ms", LockTimeout), ("statement_timeout_ms", Overloaded)]
)
async def test_the_timeouts_of_the_parents_sessions_hold_and_are_reported(
    option: str,
    error: type[Exception],
    url: str,
    owner: AsyncDatabaseManager,
    project_id: ProjectId,
) -> None:
    options = {"lock_timeout_ms": None, "statement_timeout_ms": None} | {option: 50}
    pool = await AsyncDatabaseManager.create_shared_pool(config(url, **options))
    ring = Ring(AsyncDatabaseManager(pool=pool, schema=SCHEMA))
    alias = BindAlias(alias="fast", model="openai:gpt-4o-mini")
    async with owner.transaction() as transaction:
        await transaction.execute("LOCK TABLE {{tables.alias_bindings}} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(error):
            await ring.aliases.bind(project_id, alias)
    await ring.aliases.bind(project_id, alias)
    await ring.aclose()
    await pool.close()


async def test_sessions_are_as_the_parent_configured_them(url: str, project_id: ProjectId) -> None:
    options = config(
        url,
        max_connections=1,
        server_settings={"timezone": "Asia/Tokyo", "application_name": "parent"},
        idle_in_transaction_session_timeout_ms=7000,
        init_commands=["SET work_mem TO '7MB'"],
    )
    pool = await AsyncDatabaseManager.create_shared_pool(options)
    db = AsyncDatabaseManager(pool=pool, schema=SCHEMA)
    ring = Ring(db)
    await ring.usage.log(project_id, ENTRY)
    assert await requests(ring, project_id) == 1
    names = ("timezone", "application_name", "idle_in_transaction_session_timeout", "work_mem")
    session = [await db.fetch_value("SELECT current_setting($1)", name) for name in names]
    # pgdbm's commands hold until a connection is first released, when the driver resets it.
    assert session == ["Asia/Tokyo", "parent", "7s", "4MB"]
    await ring.aclose()
    await pool.close()
