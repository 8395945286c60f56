"""Problem documents: one shape, the right status, and no secrets."""

import logging
from pathlib import Path

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Settings, build
from llmring_server.usage.service import Usage
from tests.conftest import CALL

CODES = {404: "not_found", 405: "method_not_allowed", 422: "validation_error"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "//api/v1/logs", 404),
        ("GET", "/api/v1/%00", 404),
        ("GET", "/api/v1/log", 405),
        ("TRACE", "/api/v1/log", 405),
        ("PUT", "/health", 405),
        ("GET", "/api/v1/logs?limit=0", 422),
        ("GET", "/api/v1/logs?limit=501", 422),
        ("GET", "/api/v1/logs?limit=1e3", 422),
        ("GET", "/api/v1/logs?limit=%EF%BC%91%EF%BC%90", 422),
        ("GET", "/api/v1/logs?offset=10001", 422),
        ("GET", "/api/v1/logs?offset=10000000000000000000", 422),
        ("GET", "/api/v1/logs?model=%00", 422),
        ("GET", "/api/v1/logs?start_date=zzz", 422),
        ("GET", "/api/v1/logs?log_id=1", 422),
        ("GET", "/api/v1/logs?cursor=%F0%9F%92%A9", 422),
        ("GET", "/api/v1/logs?" + "model=a&" * 500, 422),
        ("GET", "/api/v1/logs?model=" + "a" * 8000, 422),
    ],
)
async def test_every_rejection_is_a_problem_document(
    client_of_each_kind: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    prefix = str(client_of_each_kind.base_url).removeprefix("http://test").rstrip("/")
    response = await client_of_each_kind.request(method, f"http://test{prefix}{path}")
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert response.json()["request_id"] == response.headers["X-Request-ID"]
    assert response.json()["code"] == CODES[status]


async def test_a_call_by_an_id_of_another_kind_is_not_found(client: httpx.AsyncClient) -> None:
    for id in ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"):
        assert (await client.get("/api/v1/logs", params={"log_id": id})).json() == []


async def test_unexpected_error_returns_500_without_the_clients_values(
    db: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-" + "secret"

    async def broken(*_: object) -> None:
        raise ValueError(secret)

    monkeypatch.setattr(Usage, "log", broken)
    transport = httpx.ASGITransport(app=build(db, Settings(auth="open")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with caplog.at_level(logging.DEBUG):
            headers = {"X-API-Key": secret}
            response = await client.post("/api/v1/log", json=CALL, headers=headers)
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"] in caplog.text
    assert Path(__file__).name in caplog.text
    assert "ValueError" in caplog.text
    assert secret not in caplog.text + response.text


async def test_responses_are_not_cached_or_sniffed(client: httpx.AsyncClient) -> None:
    for path in ("/", "/api/v1/logs", "/nowhere"):
        headers = (await client.get(path)).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
