"""Rate limits: of requests by key, of failed logins by network, of exports by project."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings, build
from llmring_server.access.key_format import new_api_key
from llmring_server.asgi import ASGIFactory
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import RateLimited
from llmring_server.web.rate_limits import MAX_BUCKETS, RateLimits, TokenBuckets
from tests.conftest import CALL


@asynccontextmanager
async def limited(db: AsyncDatabaseManager, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build(db, Settings.model_validate(settings)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_key_with_too_many_requests_waits_and_no_other(db: AsyncDatabaseManager) -> None:
    async with limited(db, auth="open", rate_limit=0.1, rate_burst=3) as client:
        for key in (uuid4().hex, uuid4().hex):
            headers = {"X-API-Key": key}
            answers = [
                await client.post("/api/v1/log", json=CALL, headers=headers) for _ in range(5)
            ]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        last_headers = answers[-1].headers
        assert 1 <= int(last_headers["Retry-After"]) <= 10
        assert (last_headers["RateLimit-Limit"], last_headers["RateLimit-Remaining"]) == ("3", "0")
        assert last_headers["RateLimit-Reset"] == last_headers["Retry-After"]


@pytest.mark.parametrize("auth", ["keys", "open"])
async def test_too_many_failed_logins_block_bad_keys_and_no_good_one(
    db: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch, auth: str
) -> None:
    good = {"X-API-Key": (await Ring(db).keys.issue(f"project {uuid4()}", actor=LIBRARY)).secret}
    # The key is looked up every time, since nothing is believed for long.
    monkeypatch.setattr("llmring_server.access.keys.CACHE_TTL", 0)
    async with limited(db, auth=auth, failed_auth_limit=3) as client:
        assert (await client.get("/api/v1/logs", headers=good)).status_code == 200
        for expected in (401, 401, 401, 429):
            answer = await client.get("/api/v1/logs", headers={"X-API-Key": new_api_key()})
            assert answer.status_code == expected
        assert "Retry-After" in answer.headers
        assert (await client.get("/api/v1/logs", headers=good)).status_code == 200


@pytest.mark.parametrize("auth", ["keys", "open"])
async def test_too_many_failed_logins_cost_no_lookup(settings: Settings, auth: str) -> None:
    async with Ring.open(settings.model_copy(update={"auth": auth, "failed_auth_limit": 3})) as own:
        transport = httpx.ASGITransport(app=ASGIFactory(own.settings).around(own))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for _ in range(3):
                answer = await client.get("/api/v1/logs", headers={"X-API-Key": new_api_key()})
                assert answer.status_code == 401
            # Whatever needs a database fails from now on.
            assert own.db._pool
            await own.db._pool.close()
            answer = await client.get("/api/v1/logs", headers={"X-API-Key": new_api_key()})
            assert answer.status_code == 429


def test_to_check_a_bucket_takes_nothing() -> None:
    buckets = TokenBuckets(rate=1e-9, burst=1)
    for _ in range(3):
        buckets.check("me", "no")
    buckets.take("me", "no")
    with pytest.raises(RateLimited):
        buckets.check("me", "no")


async def test_a_client_cannot_forge_its_address(db: AsyncDatabaseManager) -> None:
    ring = Ring(db, Settings(failed_auth_limit=1))
    async with (
        Server(ring, port=0) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        for address, expected in {"192.0.2.1": 401, "198.51.100.1": 429}.items():
            headers = {"X-API-Key": uuid4().hex, "X-Forwarded-For": address}
            assert (await client.get("/api/v1/logs", headers=headers)).status_code == expected


async def test_a_project_exports_twice_at_a_time(project_id: ProjectId) -> None:
    limits, other = RateLimits(Settings()), ProjectId(uuid4())
    slots = [limits.concurrency_slot(each) for each in (project_id, project_id, other)]
    for slot in slots:
        slot.__enter__()
    with pytest.raises(RateLimited):
        limits.concurrency_slot(project_id).__enter__()
    for slot in slots:
        slot.__exit__(None, None, None)
    assert not limits._long_running


async def test_an_export_that_ends_makes_way_for_the_next(db: AsyncDatabaseManager) -> None:
    async with limited(db, auth="open") as client:
        for _ in range(5):
            answer = await client.get("/api/v1/logs/export", headers={"X-API-Key": "me"})
            assert answer.status_code == 200


def test_a_bucket_fills_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    buckets = TokenBuckets(rate=2, burst=2)
    taken = []
    for step in (0, 0, 0, 0.4, 0.1, 10, 0, 0):
        now += step
        try:
            buckets.take("me", "no")
            taken.append(True)
        except RateLimited:
            taken.append(False)
    assert taken == [True, True, False, False, True, True, True, False]


def test_buckets_of_many_callers_are_bounded() -> None:
    buckets = TokenBuckets(rate=1, burst=1)
    for key in range(MAX_BUCKETS + 5):
        buckets.take(key, "no")
    assert len(buckets._buckets) == MAX_BUCKETS
