"""Authentication: by issued keys, by any key, by a parent application; or a clear rejection."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.key_format import PATTERN, new_api_key
from llmring_server.core.identity import LIBRARY, Caller, ProjectId, project_of_key
from tests.conftest import CALL

PATHS = [("POST", "/api/v1/log"), ("GET", "/api/v1/logs"), ("GET", "/api/v1/stats")]


@pytest.fixture
async def issued(ring: Ring) -> str:
    return (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).secret


async def test_an_issued_key_opens_its_project_in_either_header(
    guarded: httpx.AsyncClient, issued: str
) -> None:
    for headers in (
        {"X-API-Key": issued},
        {"Authorization": f"Bearer {issued}"},
        {"X-API-Key": issued, "Authorization": f"bearer {issued}"},
        {"X-API-Key": issued, "X-User-ID": str(uuid4()), "X-Project-ID": str(uuid4())},
    ):
        assert (await guarded.post("/api/v1/log", json=CALL, headers=headers)).status_code == 200
    assert len((await guarded.get("/api/v1/logs", headers={"X-API-Key": issued})).json()) == 4


async def test_two_keys_of_a_project_see_the_same_data(
    guarded: httpx.AsyncClient, ring: Ring
) -> None:
    project = f"project {uuid4()}"
    one, two = [await ring.keys.issue(project, actor=LIBRARY) for _ in range(2)]
    assert one.project_id == two.project_id
    await guarded.post("/api/v1/log", json=CALL, headers={"X-API-Key": one.secret})
    assert len((await guarded.get("/api/v1/logs", headers={"X-API-Key": two.secret})).json()) == 1


def wrong(key: str) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return headers without a valid credential, by what is wrong with them."""
    name, user = b"X-API-Key", str(uuid4()).encode()
    return {
        "none": [],
        "empty": [(name, b"")],
        "spaces": [(name, b"   ")],
        "inner space": [(name, b"a b")],
        "256 characters": [(name, b"k" * 256)],
        "not ASCII": [(name, b"\xff\xfe")],
        "underscores": [(b"X_API_Key", key.encode())],
        "basic": [(b"Authorization", b"Basic " + key.encode())],
        "headers of a proxy": [(b"X-User-ID", user), (b"X-Project-ID", user)],
        "never issued": [(name, new_api_key().encode())],
        "other checksum": [(name, key[:-1].encode() + (b"0" if key[-1] != "0" else b"1"))],
        "other secret": [(name, key[:20].encode() + new_api_key()[20:].encode())],
    }


@pytest.mark.parametrize("kind", wrong(new_api_key()))
@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_a_wrong_credential_is_a_401(
    guarded: httpx.AsyncClient, issued: str, kind: str, method: str, path: str
) -> None:
    answer = await guarded.request(method, path, headers=wrong(issued)[kind])
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "key" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        [("X-API-Key", "a"), ("X-API-Key", "b")],
        [("X-API-Key", "a"), ("Authorization", "Bearer b")],
        [("Authorization", "Bearer a"), ("Authorization", "Bearer a")],
    ],
)
async def test_contradicting_credentials_are_a_400(
    guarded: httpx.AsyncClient, headers: list[tuple[str, str]]
) -> None:
    assert (await guarded.get("/api/v1/logs", headers=headers)).status_code == 400


@pytest.mark.parametrize("value", ['""', "k" * 256, "kéy", "two"])
async def test_a_bad_idempotency_key_is_a_400(client: httpx.AsyncClient, value: str) -> None:
    headers = [(b"Idempotency-Key", value.encode("latin-1"))] * (2 if value == "two" else 1)
    answer = await client.post(
        "/api/v1/log",
        json=CALL,
        headers=[*headers, (b"X-API-Key", client.headers["X-API-Key"].encode())],
    )
    assert answer.status_code == 400
    assert (await client.get("/api/v1/logs")).json() == []


async def test_an_unknown_key_is_told_what_to_do(guarded: httpx.AsyncClient) -> None:
    answer = await guarded.get("/api/v1/stats", headers={"X-API-Key": "llmr_pk_0123"})
    assert "llmring-server keys issue" in answer.json()["detail"]
    assert "LLMRING_AUTH=open" in answer.json()["detail"]
    assert "llmr_pk_0123" not in answer.text


async def test_a_revoked_key_is_refused(
    guarded: httpx.AsyncClient, ring: Ring, issued: str
) -> None:
    revoked_at = await ring.keys.revoke(issued[8:16], actor=LIBRARY)
    assert (await guarded.get("/api/v1/logs", headers={"X-API-Key": issued})).status_code == 401
    assert await ring.keys.revoke(issued[8:16], actor=LIBRARY) == revoked_at
    assert {key.id: key.revoked_at for key in await ring.keys.list()}[issued[8:16]] == revoked_at


async def test_no_key_is_kept(db: AsyncDatabaseManager, issued: str) -> None:
    rows = await db.fetch_all("SELECT to_json(key)::text AS text FROM {{tables.api_keys}} AS key")
    assert rows
    assert not any(issued[16:] in row["text"] for row in rows)


async def test_open_mode_names_a_project_by_the_keys_digest(
    client: httpx.AsyncClient, ring: Ring, key: str
) -> None:
    await client.post("/api/v1/log", json=CALL)
    assert project_of_key(key).version == 8
    assert len(await ring.usage.logs(project_of_key(key))) == 1


def test_keys_differ_and_match_the_published_pattern() -> None:
    keys = {new_api_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(PATTERN.fullmatch(key) and len(key) == 54 for key in keys)


async def test_a_key_of_ours_that_is_no_more_names_no_project_of_its_own(
    client: httpx.AsyncClient, ring: Ring
) -> None:
    issued = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    await ring.keys.revoke(issued.id, actor=LIBRARY)
    for key in (issued.secret, new_api_key()):
        answer = await client.post("/api/v1/log", json=CALL, headers={"X-API-Key": key})
        assert answer.status_code == 401


@asynccontextmanager
async def mounted_in_parent(
    db: AsyncDatabaseManager, authenticate: Callable[[Any], Any]
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build(db, authenticate=authenticate))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_parent_names_the_project_whatever_the_headers(
    db: AsyncDatabaseManager, ring: Ring, project_id: ProjectId
) -> None:
    async def authenticated(_: Any) -> UUID:
        return project_id

    headers = {"X-API-Key": "other", "X-User-ID": str(uuid4()), "X-Project-ID": str(uuid4())}
    for authenticate in (authenticated, lambda _: project_id):
        async with mounted_in_parent(db, authenticate) as client:
            answer = await client.post("/api/v1/log", json=CALL, headers=headers)
            assert answer.status_code == 200
    assert len(await ring.usage.logs(project_id)) == 2


async def test_a_parent_can_restrict_the_scopes_of_a_caller(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    reader = Caller(project_id, frozenset({"read"}), "reader")
    async with mounted_in_parent(db, lambda _: reader) as client:
        assert (await client.get("/api/v1/logs")).status_code == 200
        assert (await client.post("/api/v1/log", json=CALL)).status_code == 403


async def test_a_parent_that_returns_an_id_makes_no_admin(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    async with mounted_in_parent(db, lambda _: project_id) as client:
        assert (await client.get("/api/v1/keys")).status_code == 403


@pytest.mark.parametrize("nobody", [None, "", "someone", 0])
async def test_a_parent_that_names_nobody_refuses_the_request(
    db: AsyncDatabaseManager, nobody: object
) -> None:
    async with mounted_in_parent(db, lambda _: nobody) as client:
        assert (await client.get("/api/v1/logs")).status_code == 401


def test_mode_parent_and_a_function_belong_together(db: AsyncDatabaseManager) -> None:
    with pytest.raises(ValueError, match="belong together"):
        build(db, Settings(auth="parent"))
    with pytest.raises(ValueError, match="belong together"):
        build(db, Settings(auth="keys"), lambda _: None)
