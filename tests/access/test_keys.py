"""API keys: scopes, expiry, rotation, revocation, and their events in the audit log."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.access.audit import AuditPage
from llmring_server.access.keys import CACHE_TTL, IssuedKey, KeyOptions, KeyPage
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES
from llmring_server.core.pagination import INVALID_CURSOR, encode_cursor
from llmring_server.errors import InvalidRequest, NotFound
from tests.conftest import CALL

NOW = datetime.now(UTC)


@pytest.fixture
async def admin(ring: Ring) -> IssuedKey:
    return await ring.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY
    )


def headers_of(issued: IssuedKey) -> dict[str, str]:
    """Return the headers of a request with a key."""
    return {"X-API-Key": issued.secret}


async def status(client: httpx.AsyncClient, issued: IssuedKey) -> int:
    return (await client.get("/api/v1/logs", headers=headers_of(issued))).status_code


async def test_a_key_is_limited_to_its_scopes(keys_client: httpx.AsyncClient, ring: Ring) -> None:
    project = f"project {uuid4()}"
    for scopes, statuses in (
        (["read"], (403, 200, 403)),
        (["log:write"], (200, 403, 403)),
        (["log:write", "admin"], (200, 403, 200)),
    ):
        headers = headers_of(
            await ring.keys.issue(project, KeyOptions(scopes=scopes), actor=LIBRARY)
        )
        responses = (
            (await keys_client.post("/api/v1/log", json=CALL, headers=headers)).status_code,
            (await keys_client.get("/api/v1/stats", headers=headers)).status_code,
            (await keys_client.get("/api/v1/keys", headers=headers)).status_code,
        )
        assert responses == statuses


@pytest.mark.parametrize("path", ["/api/v1/receipts/issue", "/api/v1/receipts/generate"])
async def test_issuing_a_receipt_needs_two_scopes(
    keys_client: httpx.AsyncClient, ring: Ring, path: str
) -> None:
    project = f"project {uuid4()}"
    for scope in ("read", "log:write"):
        key = await ring.keys.issue(project, KeyOptions(scopes=[scope]), actor=LIBRARY)
        response = await keys_client.post(path, json={}, headers=headers_of(key))
        assert response.status_code == 403
        expected = f"This requires the scopes log:write and read; your key has: {scope}."
        assert response.json()["detail"] == expected


async def test_requests_with_an_idempotency_key_are_replayed(
    keys_client: httpx.AsyncClient, admin: IssuedKey
) -> None:
    headers = headers_of(admin) | {"Idempotency-Key": "once"}
    for path, body in (("/api/v1/log", CALL), ("/api/v1/logs/batch", [CALL, CALL])):
        first, again = [await keys_client.post(path, json=body, headers=headers) for _ in range(2)]
        assert (first.status_code, again.status_code) == (200, 200)
        assert (again.json(), again.headers["Idempotent-Replayed"]) == (first.json(), "true")
        headers["Idempotency-Key"] = "twice"


async def test_a_key_expires(keys_client: httpx.AsyncClient, ring: Ring) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    issued = await ring.keys.issue(f"project {uuid4()}", KeyOptions(expires_at=soon), actor=LIBRARY)
    assert await status(keys_client, issued) == 200
    await asyncio.sleep(0.6)
    assert await status(keys_client, issued) == 401


@pytest.mark.parametrize(
    "options", [KeyOptions(scopes=["root"]), KeyOptions(expires_at=NOW - timedelta(days=1))]
)
async def test_invalid_options_are_rejected(ring: Ring, options: KeyOptions) -> None:
    with pytest.raises(InvalidRequest):
        await ring.keys.issue("project", options, actor=LIBRARY)


async def test_rotate_key_issues_a_key_and_lets_the_old_one_expire(
    keys_client: httpx.AsyncClient, ring: Ring, admin: IssuedKey
) -> None:
    response = await keys_client.post(
        f"/api/v1/keys/{admin.id}/rotate", json={"overlap": 3600}, headers=headers_of(admin)
    )
    new = IssuedKey(response.json()["key"], response.json()["id"], admin.project_id)
    assert [await status(keys_client, key) for key in (admin, new)] == [200, 200]
    old, copy = [await ring.keys.get(id) for id in (admin.id, new.id)]
    assert copy.scopes == old.scopes
    assert old.expires_at
    assert timedelta(minutes=59) < old.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    await keys_client.post(
        f"/api/v1/keys/{new.id}/rotate", json={"overlap": 0}, headers=headers_of(new)
    )
    assert await status(keys_client, new) == 401


async def test_get_key_shows_its_last_use_to_the_hour(
    keys_client: httpx.AsyncClient, ring: Ring, admin: IssuedKey, db: AsyncDatabaseManager
) -> None:
    assert (await ring.keys.get(admin.id)).last_used_at is None
    await status(keys_client, admin)
    first = (await ring.keys.get(admin.id)).last_used_at
    assert first
    await Ring(db).keys.caller(admin.secret)
    assert (await ring.keys.get(admin.id)).last_used_at == first


async def test_issue_key_shows_the_secret_and_get_key_does_not(
    keys_client: httpx.AsyncClient, admin: IssuedKey
) -> None:
    options = {"label": "ci", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00Z"}
    issued = (
        await keys_client.post("/api/v1/keys", json=options, headers=headers_of(admin))
    ).json()
    assert issued["project_id"] == str(admin.project_id)
    assert (
        await status(keys_client, IssuedKey(issued["key"], issued["id"], admin.project_id)) == 200
    )
    shown = (
        await keys_client.get(f"/api/v1/keys/{issued['id']}", headers=headers_of(admin))
    ).json()
    assert (shown["label"], shown["scopes"], shown["revoked_at"]) == ("ci", ["read"], None)
    listed = await keys_client.get("/api/v1/keys", headers=headers_of(admin))
    assert {key["id"] for key in listed.json()} == {admin.id, issued["id"]}
    assert issued["key"][16:] not in listed.text + str(shown)


async def test_list_keys_shows_only_keys_of_the_callers_project(
    keys_client: httpx.AsyncClient, ring: Ring, admin: IssuedKey
) -> None:
    other = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    assert other.id not in (await keys_client.get("/api/v1/keys", headers=headers_of(admin))).text
    answers: list[Any] = []
    for id in (other.id, "00000000"):
        for method, path, body in (
            ("GET", "", None),
            ("DELETE", "", None),
            ("POST", "/rotate", {}),
        ):
            response = await keys_client.request(
                method, f"/api/v1/keys/{id}{path}", json=body, headers=headers_of(admin)
            )
            answers.append((response.status_code, response.json()["detail"]))
    assert set(answers) == {(404, "API key not found")}
    assert await status(keys_client, other) == 200


async def test_pages_of_keys_follow_one_another(
    keys_client: httpx.AsyncClient, ring: Ring, admin: IssuedKey
) -> None:
    others = [await ring.keys.issue_for(admin.project_id, actor=LIBRARY) for _ in range(4)]
    await ring.keys.revoke(others[1].id, actor=LIBRARY)
    oldest_first = [admin.id, *(key.id for key in others)]
    found: list[list[str]] = []
    response = await keys_client.get("/api/v1/keys?limit=2", headers=headers_of(admin))
    while keys := response.json():
        found.append([key["id"] for key in keys])
        target = f"/api/v1/keys{response.links['next']['url']}"
        response = await keys_client.get(target, headers=headers_of(admin))
    assert found == [oldest_first[:2], oldest_first[2:4], oldest_first[4:]]
    rest = await keys_client.get("/api/v1/keys?offset=3", headers=headers_of(admin))
    assert [key["id"] for key in rest.json()] == oldest_first[3:]
    # A cursor belongs to its project and its list.
    stranger = await ring.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY
    )
    list_name = admin.project_id.bytes + b"keys{}"
    for headers, path in (
        (headers_of(stranger), target),
        (headers_of(admin), target.replace("keys", "aliases")),
        *(
            (headers_of(admin), f"/api/v1/keys?cursor={encode_cursor((forged, None), list_name)}")
            for forged in (None, "x", ["x"], ["x", "x", "x"], [1, 2, 3])
        ),
    ):
        response = await keys_client.get(path, headers=headers)
        assert (response.status_code, response.json()["detail"]) == (422, INVALID_CURSOR)


async def test_the_operator_pages_through_the_keys_of_all_projects(alone: Ring) -> None:
    issued = {(await alone.keys.issue(name, actor=LIBRARY)).id for name in ("b", "a", "b", "c")}
    found, page = [], KeyPage(limit=1)
    while keys := await alone.keys.list(None, page):
        found += keys
        page = KeyPage(limit=1, cursor=page.next(None, keys[-1]))
    assert [key.project for key in found] == ["b", "b", "a", "c"]
    assert {key.id for key in found} == issued


async def test_pages_of_audit_events_follow_one_another(alone: Ring) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    project_id = await alone.projects.create("mine", actor=LIBRARY)
    await alone.keys.issue("other", actor=LIBRARY)
    for days in (1, 2):
        await alone.projects.retain(project_id, days, actor=LIBRARY)
    everything = await alone.audit.events(since)
    assert len(everything) == 4
    for owner, expected in (
        (None, everything),
        (project_id, [event for event in everything if event.project_id == project_id]),
    ):
        found, page = [], AuditPage(limit=1)
        while events := await alone.audit.events(since, owner, page):
            found += events
            page = AuditPage(limit=1, cursor=page.next(owner, events[-1]))
        assert found == expected


async def test_a_key_cannot_grant_scopes_that_it_lacks(
    keys_client: httpx.AsyncClient, ring: Ring
) -> None:
    limited = await ring.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=["admin", "read"]), actor=LIBRARY
    )
    for scopes, expected in ((["read"], 200), (["read", "mcp:secrets"], 403), (["root"], 422)):
        response = await keys_client.post(
            "/api/v1/keys", json={"scopes": scopes}, headers=headers_of(limited)
        )
        assert response.status_code == expected


async def test_revoke_key_is_final_and_audited(
    keys_client: httpx.AsyncClient, ring: Ring, admin: IssuedKey
) -> None:
    other = await ring.keys.issue_for(admin.project_id, actor=LIBRARY)
    response = await keys_client.delete(f"/api/v1/keys/{other.id}", headers=headers_of(admin))
    assert response.status_code == 200
    assert await status(keys_client, other) == 401
    revoked, issued, first = await ring.audit.events(NOW, admin.project_id)
    assert (revoked.action, revoked.actor, revoked.target) == ("key.revoke", admin.id, other.id)
    assert revoked.request_id == response.headers["X-Request-ID"]
    assert (issued.action, issued.actor) == ("key.issue", "library")
    assert first.action == "key.issue"


async def test_an_action_that_is_rolled_back_leaves_no_event(
    ring: Ring, db: AsyncDatabaseManager
) -> None:
    async with db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        issued = await ring.within(connection).keys.issue(f"project {uuid4()}", actor=LIBRARY)
        await transaction.rollback()
    assert await ring.audit.events(NOW, issued.project_id) == []
    with pytest.raises(NotFound):
        await ring.keys.get(issued.id)


async def test_a_key_revoked_by_another_process_is_accepted_until_the_cache_expires(
    ring: Ring, db: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CACHE_TTL <= 5
    monkeypatch.setattr("llmring_server.access.keys.CACHE_TTL", 0.3)
    elsewhere, issued = Ring(db), await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    assert await elsewhere.keys.caller(issued.secret)
    await ring.keys.revoke(issued.id, actor=LIBRARY)
    assert await elsewhere.keys.caller(issued.secret)
    await asyncio.sleep(0.4)
    assert await elsewhere.keys.caller(issued.secret) is None
