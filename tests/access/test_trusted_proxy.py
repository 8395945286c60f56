"""Trusted proxy: it authenticates the requests that it signs, and no others."""

import hmac
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from pgdbm import AsyncDatabaseManager
from pydantic import ValidationError

from llmring_server import Ring, Settings, build
from llmring_server.core.identity import LIBRARY, ProjectId
from tests.conftest import CALL

SECRETS = ("a" * 32, "b" * 32)
BODY = orjson.dumps(CALL)


@pytest.fixture
async def proxied(db: AsyncDatabaseManager) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings.model_validate({"auth": "proxy", "proxy_secrets": SECRETS})
    transport = httpx.ASGITransport(app=build(db, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def vouch(method: str = "POST", target: str = "/api/v1/log", **changes: Any) -> dict[str, str]:
    """Return the headers of a proxy for a request; `changes` are to what it signs, or how."""
    path, _, query = target.partition("?")
    signed: dict[str, Any] = {
        "user": str(uuid4()),
        "project": str(uuid4()),
        "body": BODY,
        "age": 0,
    } | changes
    timestamp = str(int(time.time()) - signed["age"])
    nonce = uuid4().hex
    body_hash = sha256(signed["body"]).hexdigest()
    lines = ("v1", method, path, query, signed["user"], signed["project"], body_hash)
    message = "\n".join((*lines, timestamp, nonce)).encode()
    secret = signed.get("secret", SECRETS[0])
    signature = hmac.new(secret.encode(), message, "sha256").hexdigest()
    return {
        "X-User-ID": signed["user"],
        "X-Project-ID": signed["project"],
        "X-Proxy-Signature": f"v1,t={timestamp},n={nonce},s={signature}",
        "Content-Type": "application/json",
    }


async def log(client: httpx.AsyncClient, headers: dict[str, str], body: bytes = BODY) -> int:
    return (await client.post("/api/v1/log", content=body, headers=headers)).status_code


@pytest.mark.parametrize("secret", SECRETS)
async def test_a_signed_request_belongs_to_the_project(
    proxied: httpx.AsyncClient, ring: Ring, secret: str
) -> None:
    project = uuid4()
    assert await log(proxied, vouch(project=str(project).upper(), secret=secret)) == 200
    assert len(await ring.usage.logs(ProjectId(UUID(str(project))))) == 1
    target = "/api/v1/logs?limit=5"
    headers = vouch("GET", target, project=str(project), body=b"")
    for _ in range(2):  # reading twice is harmless
        assert len((await proxied.get(target, headers=headers)).json()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"secret": "c" * 32},
        {"age": 3600},
        {"age": -3600},
        {"body": b"{}"},
        {"target": "/api/v1/logs/batch"},
        {"target": "/api/v1/log?partial=true"},
        {"method": "PUT"},
    ],
    ids=str,
)
async def test_a_signature_of_something_else_is_rejected(
    proxied: httpx.AsyncClient, other: dict[str, Any]
) -> None:
    assert await log(proxied, vouch(**other)) == 401


async def test_a_signature_is_good_once(
    proxied: httpx.AsyncClient, db: AsyncDatabaseManager
) -> None:
    headers = vouch()
    assert [await log(proxied, headers) for _ in range(3)] == [200, 401, 401]
    await db.execute("UPDATE {{tables.proxy_nonces}} SET seen_at = now() - interval '1 hour'")
    count = "SELECT count(*) FROM {{tables.proxy_nonces}}"
    before = await db.fetch_value(count)
    for _ in range(3):
        await log(proxied, vouch())
    assert await db.fetch_value(count) <= max(before - 3, 3)


async def test_identity_headers_without_a_signature_are_rejected(
    proxied: httpx.AsyncClient, ring: Ring
) -> None:
    good = vouch()
    for name in ("X-User-ID", "X-Project-ID", "X-Proxy-Signature"):
        assert await log(proxied, {key: value for key, value in good.items() if key != name}) == 401
    assert await log(proxied, good | {"X-Project-ID": str(uuid4())}) == 401
    assert await log(proxied, good | {"X-Proxy-Signature": "v1,t=1,n=,s="}) == 401
    issued = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    assert (
        await log(proxied, {"X-API-Key": issued.secret, "Content-Type": "application/json"}) == 401
    )


@pytest.mark.parametrize("spelled", ["{%s}", "urn:uuid:%s", "%s,%s", "x"])
async def test_a_project_is_a_uuid_in_one_spelling(
    proxied: httpx.AsyncClient, spelled: str
) -> None:
    project = spelled.replace("%s", str(uuid4()))
    assert await log(proxied, vouch(project=project)) == 400


def test_a_proxy_needs_secrets_that_cannot_be_guessed() -> None:
    for secrets in ((), ("brief",), ("a" * 32, "b" * 32, "c" * 32)):
        with pytest.raises(ValidationError) as caught:
            Settings.model_validate({"auth": "proxy", "proxy_secrets": secrets})
        assert "brief" not in str(caught.value)
    good = Settings.model_validate({"auth": "proxy", "proxy_secrets": SECRETS})
    assert SECRETS[0] not in repr(good)
