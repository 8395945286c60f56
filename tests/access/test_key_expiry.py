"""Limits of keys: rotation adds no rights, revocation takes effect at once, caching is bounded."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.key_format import new_api_key
from llmring_server.access.keys import IssuedKey, KeyOptions
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import Unavailable
from tests.access.test_keys import admin, headers_of
from tests.conftest import CALL

__all__ = ["admin"]


async def test_rotate_key_cannot_extend_scopes_or_lifetime(
    keys_client: httpx.AsyncClient, ring: Ring, admin: IssuedKey
) -> None:
    weak = await ring.keys.issue_for(admin.project_id, KeyOptions(scopes=["admin"]), actor=LIBRARY)
    path = f"/api/v1/keys/{admin.id}/rotate"
    assert (await keys_client.post(path, json={}, headers=headers_of(weak))).status_code == 403
    soon = datetime.now(UTC) + timedelta(hours=1)
    brief = await ring.keys.issue_for(admin.project_id, KeyOptions(expires_at=soon), actor=LIBRARY)
    new = await ring.keys.get((await ring.keys.rotate(brief.id, timedelta(0), actor=LIBRARY)).id)
    assert new.expires_at
    assert abs(new.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)


async def test_key_revoked_during_a_slow_body_is_rejected(
    keys_client: httpx.AsyncClient, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.web.endpoint.REAUTHENTICATE_AFTER_SECONDS", 0)
    monkeypatch.setattr("llmring_server.access.keys.CACHE_TTL", 0)
    issued = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)

    async def body() -> AsyncIterator[bytes]:
        yield orjson.dumps(CALL)[:20]
        await ring.keys.revoke(issued.id, actor=LIBRARY)
        yield orjson.dumps(CALL)[20:]

    headers = headers_of(issued) | {"Content-Type": "application/json"}
    response = await keys_client.post("/api/v1/log", content=body(), headers=headers)
    assert (response.status_code, await ring.usage.logs(issued.project_id)) == (401, [])


async def slow() -> AsyncIterator[bytes]:
    yield orjson.dumps(CALL)[:20]
    yield orjson.dumps(CALL)[20:]


async def test_slow_body_counts_once_for_the_rate_limit(
    db: AsyncDatabaseManager, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.web.endpoint.REAUTHENTICATE_AFTER_SECONDS", 0)
    issued = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    for auth, key in (("keys", issued.secret), ("open", issued.secret), ("open", uuid4().hex)):
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        settings = Settings.model_validate({"auth": auth, "rate_limit": 1e-6, "rate_burst": 2})
        transport = httpx.ASGITransport(app=build(db, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            responses = [
                await client.post("/api/v1/log", content=slow(), headers=headers) for _ in range(3)
            ]
        assert [response.status_code for response in responses] == [200, 200, 429]


async def test_parent_authenticates_a_slow_request_once(
    db: AsyncDatabaseManager, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.web.endpoint.REAUTHENTICATE_AFTER_SECONDS", 0)
    asked = []

    def authenticate(scope: Any) -> ProjectId:
        asked.append(scope["path"])
        return project_id

    transport = httpx.ASGITransport(app=build(db, authenticate=authenticate))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/api/v1/log", content=slow(), headers=headers)
    assert (response.status_code, asked) == (200, ["/api/v1/log"])


async def test_keys_read_in_a_rolled_back_transaction_are_not_cached(
    ring: Ring, db: AsyncDatabaseManager
) -> None:
    """Issue and revoke keys in a transaction that is rolled back."""
    issued = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    assert await ring.keys.caller(issued.secret)
    async with db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        inside = ring.within(connection).keys
        undone = await inside.issue_for(issued.project_id, actor=LIBRARY)
        assert await inside.caller(undone.secret)
        await inside.revoke(issued.id, actor=LIBRARY)
        assert await inside.caller(issued.secret) is None
        await transaction.rollback()
    assert await ring.keys.caller(undone.secret) is None
    assert await ring.keys.caller(issued.secret)


async def test_invalid_keys_do_not_evict_valid_keys_from_the_cache(
    settings: Settings, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.access.keys.CACHE_SIZE", 3)
    issued = [await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY) for _ in range(4)]
    async with Ring.open(settings) as own:
        for key in (*issued[:3], issued[0], issued[3]):
            assert await own.keys.caller(key.secret)
        for _ in range(9):
            assert await own.keys.caller(new_api_key()) is None
        # Cached keys need no database; the least recently used one has been evicted.
        assert own.db._pool
        await own.db._pool.close()
        for key in (issued[0], issued[2], issued[3]):
            assert await own.keys.caller(key.secret)
        with pytest.raises(Unavailable):
            await own.keys.caller(issued[1].secret)
