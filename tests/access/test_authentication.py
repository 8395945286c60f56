"""Authentication by issued keys, by any key and by a parent application, and its errors."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.key_format import ID_LENGTH, PATTERN, PREFIX, key_id, new_api_key
from llmring_server.core.identity import LIBRARY, Caller, ProjectId, project_of_key
from tests.conftest import CALL
from tests.support.lists import every_key

PATHS = [("POST", "/api/v1/log"), ("GET", "/api/v1/logs"), ("GET", "/api/v1/stats")]


@pytest.fixture
async def issued(ring: Ring) -> str:
    return (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).secret


async def test_issued_key_is_accepted_in_either_header(
    keys_client: httpx.AsyncClient, issued: str
) -> None:
    for headers in (
        {"X-API-Key": issued},
        {"Authorization": f"Bearer {issued}"},
        {"X-API-Key": issued, "Authorization": f"bearer {issued}"},
        {"X-Project-Key": issued},
        {"X-Project-Key": issued, "X-API-Key": issued, "Authorization": f"Bearer {issued}"},
        {"X-Project-Key": issued, "X-API-Key": " "},
        # Of a proxy, for example: no credential of ours.
        {"X-API-Key": issued, "Authorization": "Basic dXNlcjpwYXNzd29yZA=="},
        {"X-API-Key": issued, "X-User-ID": str(uuid4()), "X-Project-ID": str(uuid4())},
    ):
        assert (
            await keys_client.post("/api/v1/log", json=CALL, headers=headers)
        ).status_code == 200
    assert len((await keys_client.get("/api/v1/logs", headers={"X-API-Key": issued})).json()) == 8


def test_a_key_with_a_wrong_checksum_has_no_id() -> None:
    key = new_api_key()
    assert key_id(key) == key.removeprefix(PREFIX)[:ID_LENGTH]
    assert key_id(key[:-1] + ("a" if key[-1] != "a" else "b")) is None
    assert key_id(key[:-1]) is None


async def test_two_keys_of_a_project_see_the_same_data(
    keys_client: httpx.AsyncClient, ring: Ring
) -> None:
    project = f"project {uuid4()}"
    one, two = [await ring.keys.issue(project, actor=LIBRARY) for _ in range(2)]
    assert one.project_id == two.project_id
    await keys_client.post("/api/v1/log", json=CALL, headers={"X-API-Key": one.secret})
    assert (
        len((await keys_client.get("/api/v1/logs", headers={"X-API-Key": two.secret})).json()) == 1
    )


def invalid_credentials(key: str) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return headers without a valid credential, by what is wrong with them."""
    name, user = b"X-API-Key", str(uuid4()).encode()
    return {
        "none": [],
        "empty": [(name, b"")],
        "spaces": [(name, b"   ")],
        "not ASCII": [(name, b"\xff\xfe")],
        "underscores": [(b"X_API_Key", key.encode())],
        "basic": [(b"Authorization", b"Basic " + key.encode())],
        "headers of a proxy": [(b"X-User-ID", user), (b"X-Project-ID", user)],
        "of the client": [(name, b"llmr_pk_" + b"0123456789abcdef" * 2)],
        "never issued": [(name, new_api_key().encode())],
        "other checksum": [(name, key[:-1].encode() + (b"0" if key[-1] != "0" else b"1"))],
        "other secret": [(name, key[:20].encode() + new_api_key()[20:].encode())],
    }


@pytest.mark.parametrize("kind", invalid_credentials(new_api_key()))
@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_invalid_credentials_return_401(
    keys_client: httpx.AsyncClient, issued: str, kind: str, method: str, path: str
) -> None:
    response = await keys_client.request(method, path, headers=invalid_credentials(issued)[kind])
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "key" in response.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        [("X-API-Key", "a"), ("X-API-Key", "b")],
        [("X-API-Key", "a"), ("Authorization", "Bearer b")],
        [("X-API-Key", "a"), ("X-Project-Key", "b")],
        [("X-Project-Key", "a"), ("X-Project-Key", "a")],
        [("X-Project-Key", "a"), ("Authorization", "Bearer b")],
        [("X-API-Key", "a"), ("X-Project-Key", "b"), ("Authorization", "Bearer a")],
        [("Authorization", "Bearer a"), ("Authorization", "Bearer a")],
    ],
)
async def test_conflicting_credentials_return_400(
    keys_client: httpx.AsyncClient, headers: list[tuple[str, str]]
) -> None:
    assert (await keys_client.get("/api/v1/logs", headers=headers)).status_code == 400


@pytest.mark.parametrize("header", ["X-API-Key", "X-Project-Key", "Authorization"])
@pytest.mark.parametrize(
    ("key", "detail"),
    [
        (b"a b", "X-API-Key must not contain whitespace"),
        (b"a\tb", "X-API-Key must not contain whitespace"),
        (b"llmr_k1_ 0123", "X-API-Key must not contain whitespace"),
        (b"a\xa0b", "X-API-Key must not contain whitespace"),
        (b"k" * 256, "X-API-Key too long"),
        (b"k " * 4000, "X-API-Key too long"),
    ],
)
async def test_a_malformed_key_returns_400_and_is_no_failed_authentication(
    db: AsyncDatabaseManager, issued: str, header: str, key: bytes, detail: str
) -> None:
    app = build(db, Settings(failed_auth_limit=1))
    prefix = b"Bearer " if header == "Authorization" else b""
    name = header.encode()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as client:
        for _ in range(5):
            response = await client.get("/api/v1/logs", headers=[(name, prefix + key)])
            assert response.status_code == 400
            assert response.json()["detail"].startswith(detail)
            assert key.decode("latin-1") not in response.text
        response = await client.get("/api/v1/logs", headers=[(name, prefix + issued.encode())])
        assert response.status_code == 200


@pytest.mark.parametrize("value", ['""', "k" * 256, "kéy", "two"])
async def test_invalid_idempotency_key_returns_400(client: httpx.AsyncClient, value: str) -> None:
    headers = [(b"Idempotency-Key", value.encode("latin-1"))] * (2 if value == "two" else 1)
    response = await client.post(
        "/api/v1/log",
        json=CALL,
        headers=[*headers, (b"X-API-Key", client.headers["X-API-Key"].encode())],
    )
    assert response.status_code == 400
    assert (await client.get("/api/v1/logs")).json() == []


async def test_error_for_an_unknown_key_explains_how_to_get_one(
    keys_client: httpx.AsyncClient,
) -> None:
    response = await keys_client.get("/api/v1/stats", headers={"X-API-Key": "llmr_pk_0123"})
    assert "llmring-server keys issue" in response.json()["detail"]
    assert "LLMRING_AUTH=open" in response.json()["detail"]
    assert "llmr_pk_0123" not in response.text


async def test_revoked_key_is_rejected(
    keys_client: httpx.AsyncClient, ring: Ring, issued: str
) -> None:
    revoked_at = await ring.keys.revoke(issued[8:16], actor=LIBRARY)
    assert (await keys_client.get("/api/v1/logs", headers={"X-API-Key": issued})).status_code == 401
    assert await ring.keys.revoke(issued[8:16], actor=LIBRARY) == revoked_at
    assert {key.id: key.revoked_at for key in await every_key(ring)}[issued[8:16]] == revoked_at


async def test_secrets_of_keys_are_not_stored(db: AsyncDatabaseManager, issued: str) -> None:
    rows = await db.fetch_all("SELECT to_json(key)::text AS text FROM {{tables.api_keys}} AS key")
    assert rows
    assert not any(issued[16:] in row["text"] for row in rows)


async def test_open_mode_derives_the_project_from_the_key(
    client: httpx.AsyncClient, ring: Ring, key: str
) -> None:
    await client.post("/api/v1/log", json=CALL)
    assert project_of_key(key).version == 8
    assert len(await ring.usage.logs(project_of_key(key))) == 1


def test_keys_differ_and_match_the_published_pattern() -> None:
    keys = {new_api_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(PATTERN.fullmatch(key) and len(key) == 54 for key in keys)


async def test_open_mode_rejects_invalid_keys_in_the_issued_format(
    client: httpx.AsyncClient, ring: Ring
) -> None:
    issued = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    await ring.keys.revoke(issued.id, actor=LIBRARY)
    for key in (issued.secret, new_api_key()):
        response = await client.post("/api/v1/log", json=CALL, headers={"X-API-Key": key})
        assert response.status_code == 401


@asynccontextmanager
async def mounted_in_parent(
    db: AsyncDatabaseManager, authenticate: Callable[[Any], Any]
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build(db, authenticate=authenticate))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_parent_chooses_the_project_regardless_of_headers(
    db: AsyncDatabaseManager, ring: Ring, project_id: ProjectId
) -> None:
    async def authenticated(_: Any) -> UUID:
        return project_id

    headers = {"X-API-Key": "other", "X-User-ID": str(uuid4()), "X-Project-ID": str(uuid4())}
    for authenticate in (authenticated, lambda _: project_id):
        async with mounted_in_parent(db, authenticate) as client:
            response = await client.post("/api/v1/log", json=CALL, headers=headers)
            assert response.status_code == 200
    assert len(await ring.usage.logs(project_id)) == 2


async def test_parent_can_restrict_the_scopes_of_a_caller(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    reader = Caller(project_id, frozenset({"read"}), "reader")
    async with mounted_in_parent(db, lambda _: reader) as client:
        assert (await client.get("/api/v1/logs")).status_code == 200
        assert (await client.post("/api/v1/log", json=CALL)).status_code == 403


async def test_project_id_from_the_parent_grants_no_admin_scope(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    async with mounted_in_parent(db, lambda _: project_id) as client:
        assert (await client.get("/api/v1/keys")).status_code == 403


@pytest.mark.parametrize("nobody", [None, "", "someone", 0])
async def test_request_is_rejected_if_the_parent_returns_no_caller(
    db: AsyncDatabaseManager, nobody: object
) -> None:
    async with mounted_in_parent(db, lambda _: nobody) as client:
        assert (await client.get("/api/v1/logs")).status_code == 401


def test_mode_parent_and_authenticate_require_each_other(db: AsyncDatabaseManager) -> None:
    with pytest.raises(ValueError, match="belong together"):
        build(db, Settings(auth="parent"))
    with pytest.raises(ValueError, match="belong together"):
        build(db, Settings(auth="keys"), lambda _: None)
