"""What is known of a registry: by all processes, for as long as it is true, without waiting."""

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

LONGEST = 20


@pytest.fixture
def settings(settings: Settings, fake: FakeRegistry) -> Settings:
    return settings.model_copy(update={"registry_url": fake.url})


@pytest.fixture
async def ring(settings: Settings) -> AsyncIterator[Ring]:
    async with Ring.open(settings) as ring:
        yield ring


async def test_processes_ask_once_per_ttl_and_share_what_they_learn(
    settings: Settings, fake: FakeRegistry, ring: Ring
) -> None:
    async with two_processes(settings) as ports, httpx.AsyncClient(timeout=60) as client:
        urls = [f"http://127.0.0.1:{port}/registry" for port in ports]
        for _ in range(2):
            answers = await asyncio.gather(*(client.get(url) for url in urls * 20))
            assert all(each.is_success for each in answers)
        async with asyncio.timeout(LONGEST):
            while "3" not in [(await client.get(url)).json()["version"] for url in urls]:  # noqa: ASYNC110, a server sets no event
                await asyncio.sleep(0.1)
    assert fake.asked == {f"/{provider}/models.json": 1 for provider in PROVIDERS}
    # It survives a restart, and is not asked for again.
    assert (await ring.registry.snapshot()).files.keys() == set(PROVIDERS)
    assert not ring.registry._sweeps


async def test_pools_that_sweep_at_once_sweep_once(settings: Settings, fake: FakeRegistry) -> None:
    async with AsyncExitStack() as stack:
        rings = [await stack.enter_async_context(Ring.open(settings)) for _ in range(4)]
        await asyncio.gather(*(ring.registry.snapshot() for ring in rings * 10))
        for ring in rings:
            await swept(ring)
    assert set(fake.asked.values()) == {1}


async def test_no_request_waits_for_a_registry_that_hangs(
    client: httpx.AsyncClient, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.mode, callers, fetch = "hang", [], registry_client.fetch_provider_file

    async def watched(*where: Any) -> Any:
        callers.append(asyncio.current_task())
        return await fetch(*where)

    monkeypatch.setattr(registry_client, "fetch_provider_file", watched)
    async with asyncio.timeout(LONGEST):
        for path in ("/registry", "/registry/openai/models.json", "/api/v1/stats"):
            assert (await client.get(path)).status_code == 200
        assert (await client.post("/api/v1/log", json=CALL)).status_code == 200
        while not fake.asked:  # noqa: ASYNC110, a server sets no event
            await asyncio.sleep(0.01)
    assert (await client.get("/registry")).json()["version"] == "0"
    # A request runs in the task of its client here.
    assert callers
    assert asyncio.current_task() not in callers


async def test_a_ring_that_closes_leaves_off_fetching(
    settings: Settings, fake: FakeRegistry
) -> None:
    fake.mode = "hang"
    async with Ring.open(settings) as ring:
        await ring.registry.snapshot()
        [sweep] = ring.registry._sweeps
    assert sweep.cancelled()


async def test_a_transaction_shares_what_is_known(ring: Ring) -> None:
    await ring.registry.refresh()
    async with ring.db.transaction() as tx:
        inside = ring.within(tx).registry
        assert (await inside.snapshot()).files is (await ring.registry.snapshot()).files


async def test_a_database_that_is_away_takes_nothing_from_memory(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ring.registry.refresh()
    known = await ring.registry.known()
    monkeypatch.setattr(ring._database._connections, "_timeout", 0.01)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(ring.db.acquire())
        ring.registry._memory.asked_at = NEVER
        assert await ring.registry.known() is known


async def test_a_registry_that_is_none_is_never_asked(db: AsyncDatabaseManager) -> None:
    ring = Ring(db)
    await ring.registry.snapshot()
    assert not ring.registry._sweeps
    with pytest.raises(InvalidRequest, match="none"):
        await ring.registry.refresh()


@pytest.mark.parametrize(("age", "status"), [(0, 200), (2, 200), (24 * 6, 200), (24 * 8, 503)])
async def test_listing_says_if_it_is_stale(
    client: httpx.AsyncClient, db: AsyncDatabaseManager, age: int, status: int
) -> None:
    file = document("openai")
    await db.execute(
        "INSERT INTO {{tables.registry_files}}"
        " (provider, version, content, since, fetched_at, state)"
        " VALUES ('openai', 7, $1, now(), now(), 'good')",
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
    # What cannot change cannot be stale.
    for path in ("/registry/v/1/registry.json", "/registry/google/models.json"):
        assert "X-Registry-Stale" not in (await client.get(path)).headers
