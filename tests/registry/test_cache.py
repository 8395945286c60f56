"""Registry cache: shared by processes, refreshed in the background, kept during outages."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.errors import InvalidRequest
from llmring_server.registry import client as registry_client
from llmring_server.registry.service import NEVER
from tests.conftest import CALL
from tests.faults.test_kills import two_processes
from tests.support.fake_registry import PROVIDERS, FakeRegistry, document, swept

TIMEOUT_SECONDS = 20


@pytest.fixture
def settings(settings: Settings, fake: FakeRegistry) -> Settings:
    return settings.model_copy(update={"registry_url": fake.url})


@pytest.fixture
async def ring(settings: Settings) -> AsyncIterator[Ring]:
    async with Ring.open(settings) as ring:
        yield ring


async def test_processes_fetch_once_per_ttl_and_share_the_files(
    settings: Settings, fake: FakeRegistry, ring: Ring
) -> None:
    async with two_processes(settings) as ports, httpx.AsyncClient(timeout=60) as client:
        urls = [f"http://127.0.0.1:{port}/registry" for port in ports]
        for _ in range(2):
            answers = await asyncio.gather(*(client.get(url) for url in urls * 20))
            assert all(each.is_success for each in answers)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while "3" not in [(await client.get(url)).json()["version"] for url in urls]:  # noqa: ASYNC110, a server sets no event
                await asyncio.sleep(0.1)
    assert fake.asked == {f"/{provider}/models.json": 1 for provider in PROVIDERS}
    # The files survive a restart, and are not fetched again.
    assert (await ring.registry.snapshot()).files.keys() == set(PROVIDERS)
    assert not ring.registry._refreshes


async def test_concurrent_refreshes_fetch_once(settings: Settings, fake: FakeRegistry) -> None:
    async with AsyncExitStack() as stack:
        rings = [await stack.enter_async_context(Ring.open(settings)) for _ in range(4)]
        await asyncio.gather(*(ring.registry.snapshot() for ring in rings * 10))
        for ring in rings:
            await swept(ring)
    assert set(fake.asked.values()) == {1}


async def test_no_request_waits_for_a_hanging_registry(
    client: httpx.AsyncClient, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.mode = "hang"
    tasks = []
    fetch = registry_client.fetch_provider_files

    async def watched(*arguments: Any) -> Any:
        tasks.append(asyncio.current_task())
        return await fetch(*arguments)

    monkeypatch.setattr(registry_client, "fetch_provider_files", watched)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        for path in ("/registry", "/registry/openai/models.json", "/api/v1/stats"):
            assert (await client.get(path)).status_code == 200
        assert (await client.post("/api/v1/log", json=CALL)).status_code == 200
        while not fake.asked:  # noqa: ASYNC110, a server sets no event
            await asyncio.sleep(0.01)
    assert (await client.get("/registry")).json()["version"] == "0"
    # A request runs in the task of its client here.
    assert tasks
    assert asyncio.current_task() not in tasks


async def test_closing_cancels_the_refresh(settings: Settings, fake: FakeRegistry) -> None:
    fake.mode = "hang"
    async with Ring.open(settings) as ring:
        await ring.registry.snapshot()
        [refresh] = ring.registry._refreshes
    assert refresh.cancelled()


async def test_a_transaction_shares_the_cache(ring: Ring) -> None:
    await ring.registry.refresh()
    async with ring.db.transaction() as tx:
        inside = ring.within(tx).registry
        assert (await inside.snapshot()).files is (await ring.registry.snapshot()).files


async def test_the_cache_is_used_while_the_database_is_away(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ring.registry.refresh()
    snapshot = await ring.registry.cached_snapshot()
    monkeypatch.setattr(ring._database._connections, "_timeout", 0.01)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(ring.db.acquire())
        ring.registry._cache.checked_at = NEVER
        assert await ring.registry.cached_snapshot() is snapshot


async def test_a_registry_of_none_is_never_fetched(db: AsyncDatabaseManager) -> None:
    ring = Ring(db)
    await ring.registry.snapshot()
    assert not ring.registry._refreshes
    with pytest.raises(InvalidRequest, match="none"):
        await ring.registry.refresh()


@pytest.mark.parametrize(("age", "status"), [(0, 200), (2, 200), (24 * 6, 200), (24 * 8, 503)])
async def test_get_registry_says_if_it_is_stale(
    client: httpx.AsyncClient, db: AsyncDatabaseManager, age: int, status: int
) -> None:
    file = document("openai")
    await db.execute(
        "INSERT INTO {{tables.registry_files}}"
        " (provider, version, content, valid_from, fetched_at, state)"
        " VALUES ('openai', 7, $1, now(), now(), 'accepted')",
        json.dumps(file).encode(),
    )
    await db.execute(
        "INSERT INTO {{tables.registry_sources}}"
        " SELECT unnest($1::text[]), now(), now() - $2::interval",
        [*PROVIDERS],
        timedelta(hours=age),
    )
    for path in ("/registry", "/registry/openai/models.json"):
        answer = await client.get(path)
        assert answer.status_code == status
        stale = int(answer.headers.get("X-Registry-Stale", 0))
        assert stale // 3600 == (age if status == 200 else 0)
        assert ("Retry-After" in answer.headers) == (status == 503)
    # Content that cannot change cannot be stale.
    for path in ("/registry/v/1/registry.json", "/registry/google/models.json"):
        assert "X-Registry-Stale" not in (await client.get(path)).headers
