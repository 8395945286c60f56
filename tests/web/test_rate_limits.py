"""Rate limits: of requests by key, of failed authentications by network, of exports by project."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings, build
from llmring_server.access.key_format import new_api_key
from llmring_server.asgi import ASGIFactory
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import RateLimited
from llmring_server.usage.models import NewCall
from llmring_server.web.rate_limits import MAX_BUCKETS, TokenBuckets
from tests.conftest import CALL


@asynccontextmanager
async def limited(db: AsyncDatabaseManager, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build(db, Settings.model_validate(settings)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_requests_are_rate_limited_for_each_key(db: AsyncDatabaseManager) -> None:
    async with limited(db, auth="open", rate_limit=0.1, rate_burst=3) as client:
        for key in (uuid4().hex, uuid4().hex):
            headers = {"X-API-Key": key}
            responses = [
                await client.post("/api/v1/log", json=CALL, headers=headers) for _ in range(5)
            ]
            assert [response.status_code for response in responses] == [200, 200, 200, 429, 429]
        last_headers = responses[-1].headers
        assert 1 <= int(last_headers["Retry-After"]) <= 10
        assert (last_headers["RateLimit-Limit"], last_headers["RateLimit-Remaining"]) == ("3", "0")
        assert last_headers["RateLimit-Reset"] == last_headers["Retry-After"]


@pytest.mark.parametrize("auth", ["keys", "open"])
async def test_failed_logins_are_rate_limited_except_for_valid_keys(
    db: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch, auth: str
) -> None:
    good = {"X-API-Key": (await Ring(db).keys.issue(f"project {uuid4()}", actor=LIBRARY)).secret}
    # Without the cache, every request looks up its key.
    monkeypatch.setattr("llmring_server.access.keys.CACHE_TTL", 0)
    async with limited(db, auth=auth, failed_auth_limit=3) as client:
        assert (await client.get("/api/v1/logs", headers=good)).status_code == 200
        for expected in (401, 401, 401, 429):
            response = await client.get("/api/v1/logs", headers={"X-API-Key": new_api_key()})
            assert response.status_code == expected
        assert "Retry-After" in response.headers
        assert (await client.get("/api/v1/logs", headers=good)).status_code == 200


@pytest.mark.parametrize("auth", ["keys", "open"])
async def test_rate_limited_logins_do_not_query_the_database(settings: Settings, auth: str) -> None:
    async with Ring.open(settings.model_copy(update={"auth": auth, "failed_auth_limit": 3})) as own:
        transport = httpx.ASGITransport(app=ASGIFactory(own.settings).around(own))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for _ in range(3):
                response = await client.get("/api/v1/logs", headers={"X-API-Key": new_api_key()})
                assert response.status_code == 401
            # From here on, every use of the database fails.
            assert own.db._pool
            await own.db._pool.close()
            response = await client.get("/api/v1/logs", headers={"X-API-Key": new_api_key()})
            assert response.status_code == 429


def test_checking_a_bucket_takes_no_token() -> None:
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


async def test_concurrent_exports_of_a_project_are_limited(
    db: AsyncDatabaseManager, project_id: ProjectId, key: str
) -> None:
    ring = Ring(db, Settings(auth="open", acquire_timeout=0.5))
    await ring.usage.log(project_id, NewCall(**CALL))
    transport = httpx.ASGITransport(app=ASGIFactory(ring.settings).around(ring))
    async with (
        httpx.AsyncClient(
            transport=transport, base_url="http://test", headers={"X-API-Key": key}
        ) as client,
        aclosing(ring.usage.export(project_id)) as export,
    ):
        await anext(export)
        response = await client.get("/api/v1/logs/export")
        assert response.status_code == 429
        assert response.json()["detail"] == (
            "Your project already has 1 long read (exports, receipts) in progress: run fewer at a"
            " time, or retry in 5 s."
        )
        assert (response.headers["Retry-After"], response.headers["RateLimit-Limit"]) == ("5", "1")
        assert (await client.get("/api/v1/stats")).status_code == 200


async def test_a_finished_export_frees_its_place(db: AsyncDatabaseManager) -> None:
    async with limited(db, auth="open") as client:
        for _ in range(5):
            response = await client.get("/api/v1/logs/export", headers={"X-API-Key": "me"})
            assert response.status_code == 200


def test_bucket_refills_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
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
