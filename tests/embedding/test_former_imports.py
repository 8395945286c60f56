"""The import paths of llmring-server 0.1, and how hosts and the client's own tests use them."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager, AsyncMigrationManager, MonitoredAsyncDatabaseManager
from pydantic import ValidationError

import llmring_server
from llmring_server import NewCall, Settings, create_app, main
from llmring_server import config as former
from llmring_server.core.identity import ProjectId
from llmring_server.database import Database
from llmring_server.service import LLMRingService
from tests.conftest import CALL, SCHEMA, drop, pool_of

LOG = "/api/v1/log"
MODULES = ("main", "config", "service", "database", "migrations")


PROGRAM = f"""
import importlib, os, sys

for name in {MODULES}:
    importlib.import_module(f"llmring_server.{{name}}")
assert "starlette" not in sys.modules

import llmring_server
from llmring_server import main

try:
    main.app
except ValueError:
    os.environ["LLMRING_DATABASE_SCHEMA"] = "from_env"
assert main.app is llmring_server.app
print(main.app.state.schema, main.app.state.mode)
"""


def test_importing_the_modules_reads_no_environment_and_loads_no_web_framework() -> None:
    # The schema is invalid, which is not seen before the app is used.
    environment = {"LLMRING_DATABASE_SCHEMA": "NO SCHEMA"}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("from_env standalone\n", "")


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'unknown'"):
        _ = main.unknown


def test_former_settings_read_the_environment_when_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMRING_DATABASE_URL", "postgresql://localhost/custom_db")
    monkeypatch.setenv("LLMRING_DATABASE_SCHEMA", "custom_schema")
    settings = former.Settings(database_pool_size=3)
    assert settings.database_url == "postgresql://localhost/custom_db"
    assert (settings.database_schema, settings.database_pool_size) == ("custom_schema", 3)
    assert former.Settings(database_schema="mine").database_schema == "mine"
    app = create_app(settings=settings)
    assert app.state.settings == settings


async def test_former_calls_on_a_lent_database_read_the_environment(
    url: str, db: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMRING_MESSAGE_LOGGING_LEVEL", "none")
    monkeypatch.setenv("LLMRING_ENABLE_CONVERSATION_TRACKING", "false")
    for app in (
        main.create_app(db, config={"auth": "open"}),
        main.create_app(db_manager=db, authenticate=lambda _: None),
        main.create_app(config={"auth": "open"}),
    ):
        assert app.state.settings.conversation_content == "none"
    assert main.create_app(db, settings=Settings()).state.settings.conversation_content == "full"
    for service in (LLMRingService(db), LLMRingService(connection_string=url, schema=SCHEMA)):
        assert service.settings.conversation_content == "none"
    assert service.settings.database_url == url
    assert LLMRingService(db, Settings()).settings.conversation_content == "full"
    with pytest.raises(ValueError, match=r"settings=\.\.\. or config=\.\.\., not both"):
        main.create_app(db, settings=Settings(), config={})


def test_former_names_of_settings_are_accepted() -> None:
    settings = former.Settings(
        message_logging_level=former.MessageLoggingLevel.METADATA,
        registry_base_url="https://registry.example/",
        cache_ttl=60,
        enable_conversation_tracking=True,
        api_key_validation_mode="strict",
        cors_origins="https://a.example, https://b.example",
    )
    assert (settings.conversation_content, settings.auth) == ("metadata", "keys")
    assert (settings.registry_url, settings.registry_ttl) == ("https://registry.example", 60)
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.message_logging_level is former.MessageLoggingLevel.METADATA
    assert settings.registry_base_url == "https://registry.example/"
    assert settings.cache_ttl == 60
    assert former.Settings(message_logging_level="none").message_logging_level == "none"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"api_key_validation_mode": "bridge"}, "set auth instead"),
        ({"enable_conversation_tracking": False}, "conversation_content='none'"),
        ({"message_retention_days": 30}, "projects retain"),
        ({"redis_url": "redis://localhost"}, "needs no Redis"),
        ({"enforce_membership_verification": True}, "auth sets who may access"),
        ({"message_logging_level": "some"}, "'none', 'metadata' or 'full'"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_a_former_setting_without_effect_is_refused_with_its_replacement(
    values: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError, match=text):
        former.Settings(**values)


async def test_a_service_borrows_a_database(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    for service in (
        LLMRingService(db, Settings()),
        LLMRingService(db_manager=db, schema=db.schema, run_migrations=False),
    ):
        await service.initialize()
        await service.usage.log(project_id, NewCall(**CALL))
        assert service.db is db
        assert (await service.check_health())["status"] == "healthy"
        await service.close()
    assert (await service.usage.stats(project_id)).summary.total_requests == 2
    assert LLMRingService(db, schema="other").db.schema == "other"


async def test_a_service_opens_a_database(
    role_url: str, settings: Settings, project_id: ProjectId
) -> None:
    before = asyncio.all_tasks()
    small = settings.model_copy(update={"database_url": None})
    service = LLMRingService(connection_string=role_url, schema=SCHEMA, settings=small)
    with pytest.raises(RuntimeError, match=r"await initialize\(\) first"):
        _ = service.usage
    assert not hasattr(service, "pricing")
    async with service:
        assert hasattr(service, "pricing")
        await service.usage.log(project_id, NewCall(**CALL))
        assert await service.run_migrations() == {"applied": []}
        pool = service.db._pool
        health = await service.check_health()
        assert health["database"] == "healthy"
    assert pool
    assert pool.is_closing()
    assert asyncio.all_tasks() == before
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = service.unknown


async def test_the_health_of_a_service_without_its_database(url: str) -> None:
    async with pool_of(url, SCHEMA) as db:
        service = LLMRingService(db)
    health = await service.check_health()
    assert health["status"] == "degraded"
    assert health["database"].startswith("unhealthy: ")


@pytest.mark.parametrize("values", [{}, {"connection_string": "postgresql://x/y", "db": 1}])
def test_a_service_and_a_database_are_given_one_source(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pass either connection_string="):
        LLMRingService(**values)
    database = {"db_manager" if name == "db" else name: value for name, value in values.items()}
    with pytest.raises(ValueError, match="pass either connection_string="):
        Database(**database)


async def test_a_database_of_its_own(url: str) -> None:
    database = Database(url, schema="of_database", min_connections=1, max_connections=2)
    assert (database.db, database.schema, database.external_db) == (None, "of_database", False)
    with pytest.raises(RuntimeError, match=r"await connect\(\) first"):
        await database.run_migrations()
    async with database:
        await database.connect()
        assert database.db
        assert "001_usage.sql" in (await database.run_migrations())["applied"]
        app = create_app(database.db, settings=Settings(auth="open"))
        async with client_of(app) as client:
            assert (await client.post(LOG, json=CALL)).status_code == 200
        await drop(database.db, "of_database")
        pool = database.db._pool
    assert pool
    assert pool.is_closing()
    await database.disconnect()
    assert database.db is None


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (10, 20)),
        ({"max_connections": 5}, (5, 5)),
        ({"min_connections": 0}, (0, 20)),
        ({"min_connections": 30}, (30, 30)),
    ],
)
async def test_the_pool_of_a_database_has_the_sizes_that_are_given(
    sizes: dict[str, Any], expected: tuple[int, int]
) -> None:
    config = Database("postgresql://h/x", **sizes).config
    assert config
    assert (config.min_connections, config.max_connections) == expected


async def test_a_database_that_is_connected_twice_at_once_has_one_pool(
    url: str, owner: AsyncDatabaseManager
) -> None:
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    before = await owner.fetch_value(count)
    database = Database(url, min_connections=1, max_connections=1)
    await asyncio.gather(database.connect(), database.connect())
    assert await owner.fetch_value(count) == before + 1
    await database.disconnect()


async def test_a_monitored_manager_counts_the_statements_of_another_schema(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    manager = MonitoredAsyncDatabaseManager(pool=db._pool, schema="mine")
    async with LLMRingService(manager, Settings(), schema=db.schema) as service:
        await service.usage.log(project_id, NewCall(**CALL))
    logged = (await manager.get_metrics()).queries_executed
    assert logged > 0
    database = Database(db_manager=manager, schema=db.schema).db
    assert database
    await database.fetch_value("SELECT 1")
    assert (await manager.get_metrics()).queries_executed == logged + 1


async def test_a_borrowed_database(db: AsyncDatabaseManager) -> None:
    database = Database(db_manager=db)
    async with database:
        assert (database.db, database.schema, database.external_db) == (db, db.schema, True)
    assert await db.fetch_value("SELECT 1") == 1
    other = Database(db_manager=db, schema="other").db
    assert other
    assert (other.schema, other._pool) == ("other", db._pool)


def client_of(app: Any) -> httpx.AsyncClient:
    transport, headers = httpx.ASGITransport(app), {"X-Project-Key": "proj_test"}
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


async def one_test_of_the_client(app: Any, url: str, schema: str) -> None:
    """Do what the fixture of the client's own tests does: it finds, migrates and lends."""
    migrations = Path(llmring_server.__file__).parent / "migrations"
    assert migrations.exists()
    async with pool_of(url, schema) as db:
        await db.execute(f"CREATE SCHEMA {schema}")
        manager = AsyncMigrationManager(
            db, migrations_path=str(migrations), module_name="llmring_test"
        )
        await manager.apply_pending_migrations()
        app.state.db = db
        async with client_of(app) as client:
            assert (await client.post(LOG, json=CALL | {"cost": 0.0001})).status_code == 200
            stats = (await client.get("/api/v1/stats")).json()
            assert stats["summary"]["total_requests"] == 1
        await drop(db, schema)


def test_the_client_s_own_tests_lend_a_database_for_each_event_loop(url: str) -> None:
    # `llmring_server.main.app` is this app when LLMRING_AUTH is `open`.
    app = create_app(settings=Settings(auth="open"))
    for schema in ("client_1", "client_2"):
        asyncio.run(one_test_of_the_client(app, url, schema))
