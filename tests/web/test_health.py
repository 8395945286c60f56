"""Health checks: quick and correct in every state of the database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import LIBRARY, Ring, Settings, build
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import PROJECT_SCOPES
from llmring_server.db.database import open_database
from llmring_server.errors import NotMigrated


@asynccontextmanager
async def client_of(db: AsyncDatabaseManager) -> AsyncIterator[httpx.AsyncClient]:
    app = build(db, Settings(auth="open", acquire_timeout=0.1))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Settings of a pool of one connection."""
    return settings.model_copy(update={"database_pool_size": 1, "database_pool_overflow": 0})


async def test_health_is_healthy(client_of_each_kind: httpx.AsyncClient) -> None:
    response = (await client_of_each_kind.get("/health", headers={"X-API-Key": ""})).json()
    assert (response["status"], response["database"]) == ("healthy", "connected")
    assert response["version"] == version("llmring-server")


async def test_live_and_ready_return_200(client_of_each_kind: httpx.AsyncClient) -> None:
    for path in ("/health/live", "/health/ready"):
        assert (await client_of_each_kind.get(path)).status_code == 200


async def test_ready_reports_pending_migrations_without_their_names(
    db: AsyncDatabaseManager,
) -> None:
    fresh = AsyncDatabaseManager(pool=db._pool, schema="never_migrated")
    async with client_of(fresh) as client:
        response = await client.get("/health/ready")
        assert response.status_code == 503
        assert response.json()["code"] == "not_migrated"
        assert "llmring-server db migrate" in response.json()["detail"]
        assert ".sql" not in response.text
    with pytest.raises(NotMigrated, match=r"001_usage\.sql"):
        await Ring(fresh).ready()


async def test_health_without_a_database_returns_200_and_unhealthy(small: Settings) -> None:
    async with open_database(small) as db:
        pass
    async with client_of(db) as client:
        response = await client.get("/health")
        assert (response.status_code, response.json()["status"]) == (200, "unhealthy")
        assert response.json()["database"] == "disconnected"
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 503


async def test_health_does_not_wait_for_an_exhausted_pool(small: Settings) -> None:
    async with open_database(small) as db, db.acquire(), client_of(db) as client:
        assert (await client.get("/health")).json()["status"] == "unhealthy"
        refused = await client.get("/api/v1/stats", headers={"X-API-Key": "k"})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")


async def test_verbose_health_is_for_operators(ring: Ring, keys_client: httpx.AsyncClient) -> None:
    path = "/health?verbose=true"
    assert (await keys_client.get(path)).status_code == 401
    project = f"project {uuid4()}"
    issued = await ring.keys.issue(project, KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY)
    refused = await keys_client.get(path, headers={"X-API-Key": issued.secret})
    assert (refused.status_code, "scope operator" in refused.json()["detail"]) == (403, True)
    issued = await ring.keys.issue(project, KeyOptions(scopes=["operator"]), actor=LIBRARY)
    allowed = await keys_client.get(path, headers={"X-API-Key": issued.secret})
    health = allowed.json()
    assert (allowed.status_code, health["status"]) == (200, "healthy")
    stats = health.pop("stats")
    assert stats["pool"]["max_size"] == 5
    assert stats["pool"]["in_use"] >= 0
    assert [module["pending"] for module in stats["modules"]] == [[], []]
    assert stats["commit_queue"]["batch_size"] == 500
    assert stats["long_reads"]["statements"]["waiting"] == 0
    assert stats["body_memory"]["bytes"] == 0
    for path in ("/health", "/health?verbose=false", "/health?other=1"):
        plain = await keys_client.get(path, headers={"X-API-Key": issued.secret})
        assert plain.json() == health
    assert (await keys_client.get("/health?verbose=perhaps")).status_code == 422
