"""Aborted responses: they reveal no details, leave no transaction open, and are not complete."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings, build
from llmring_server.core.identity import ProjectId
from llmring_server.usage.export import CHUNK_BYTES
from llmring_server.usage.models import Call, NewCall
from llmring_server.usage.service import Usage
from llmring_server.web.middleware import ResponseAbortedError
from tests.conftest import CALL

SECRET = "sk-" + "secret"
CALLS_PER_CHUNK = 5
EXPORTS = ("/api/v1/logs/export", "/api/v1/logs/export?format=jsonl")


@pytest.fixture
async def calls(ring: Ring, project_id: ProjectId) -> None:
    """Log enough calls for an export of several chunks."""
    metadata = {"text": "x" * (CHUNK_BYTES // CALLS_PER_CHUNK)}
    calls = [NewCall(**CALL, metadata=metadata)] * (2 * CALLS_PER_CHUNK)
    await ring.usage.log_many(project_id, calls)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that appears after the first chunk of an export."""
    export = Usage.export

    async def broken_export(*args: Any, **options: Any) -> AsyncGenerator[Call]:
        async with aclosing(export(*args, **options)) as calls:
            for _ in range(CALLS_PER_CHUNK):
                yield await anext(calls)
        raise ValueError(SECRET)

    monkeypatch.setattr(Usage, "export", broken_export)


@pytest.mark.usefixtures("calls", "broken")
async def test_server_aborts_the_response_and_logs_no_text(
    db: AsyncDatabaseManager, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"X-API-Key": key}
    async with (
        Server(Ring(db, Settings(auth="open")), port=0) as server,
        httpx.AsyncClient(base_url=server.url, headers=headers) as client,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(EXPORTS[0])
        assert (await client.get("/health/live")).status_code == 200
    assert "ValueError" in caplog.text
    assert "GET /api/v1/logs/export, request " in caplog.text
    assert SECRET not in caplog.text
    assert "Exception in ASGI application" not in caplog.text


@pytest.mark.usefixtures("calls", "broken")
async def test_on_other_servers_the_app_fails_without_the_text(
    db: AsyncDatabaseManager, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport = httpx.ASGITransport(app=build(db, Settings(auth="open")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(ResponseAbortedError) as raised:
            await client.get(EXPORTS[0], headers={"X-API-Key": key})
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)
    assert "ValueError" in caplog.text
    assert SECRET not in caplog.text + str(raised.value)


@contextmanager
def without_collector() -> Iterator[None]:
    """Collect the generators that are left to the garbage collector."""
    left: list[AsyncGenerator[Any]] = []
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=left.append)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*before)


def all_are_idle(db: AsyncDatabaseManager) -> bool:
    """Return whether no transaction is open."""
    assert db._pool
    return db._pool.get_idle_size() == db._pool.get_size()


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("target", EXPORTS)
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_an_export_ends_with_its_client(
    db: AsyncDatabaseManager,
    key: str,
    target: str,
    spec_version: str,
) -> None:
    """Since ASGI 2.4, a server reports a disconnect by an OSError; before, by a message."""
    left = asyncio.Event()
    parts: list[Any] = [{"type": "http.request"}]

    async def receive() -> Any:
        if parts:
            return parts.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            left.set()
            if spec_version == "2.4":
                raise OSError
            await asyncio.Future()

    path, _, query = target.partition("?")
    scope = {
        "type": "http", "method": "GET", "path": path, "http_version": "1.1", "root_path": "",
        "query_string": query.encode(), "headers": [(b"host", b"a"), (b"x-api-key", key.encode())],
        "asgi": {"version": "3.0", "spec_version": spec_version},
    }  # fmt: skip
    with without_collector():
        await build(db, Settings(auth="open"))(scope, receive, send)
        assert left.is_set()
        assert all_are_idle(db)


@pytest.mark.usefixtures("calls")
async def test_an_export_of_the_library_ends_with_its_reader(
    ring: Ring, db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    with without_collector():
        async with aclosing(ring.usage.export(project_id)) as logs:
            await anext(logs)
            assert not all_are_idle(db)
        assert all_are_idle(db)
