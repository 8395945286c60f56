"""Servers in threads, for synchronous programs, and the errors of a start."""

import asyncio
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import NewCall, Ring, Server, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.db import admin
from llmring_server.errors import (
    CannotListen,
    DatabaseAccessDenied,
    ListenNotPermitted,
    MissingPrivilege,
    PortInUse,
    Unavailable,
)
from llmring_server.server.in_process import listen
from tests.conftest import CALL
from tests.faults.test_kills import until

LOG = "/api/v1/log"


def server_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llmring-server"]


def test_a_synchronous_program_serves_and_uses_the_ring(
    settings: Settings, key: str, project_id: ProjectId
) -> None:
    with Server.run_in_thread(settings, port=0) as server:
        with httpx.Client(base_url=server.url, headers={"X-API-Key": key}) as client:
            assert client.post(LOG, json=CALL).status_code == 200
        server.run(server.ring.usage.log(project_id, NewCall(**CALL)))
        assert server.run(server.ring.usage.stats(project_id)).summary.total_requests == 2
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)
    assert server_threads() == []
    server.stop()
    with pytest.raises(RuntimeError, match="has been stopped"):
        server.run(asyncio.sleep(0))


def test_a_thread_may_be_stopped_by_another_one(settings: Settings) -> None:
    first = Server.run_in_thread(settings, port=0)
    second = Server.run_in_thread(settings, port=0)
    stopper = threading.Thread(target=first.stop)
    stopper.start()
    stopper.join()
    assert httpx.get(f"{second.url}/health/live").status_code == 200
    second.stop()
    assert server_threads() == []


def test_work_that_comes_while_a_server_stops_is_refused(settings: Settings) -> None:
    server = Server.run_in_thread(settings, port=0)
    errors: list[str] = []

    def work() -> None:
        try:
            while True:
                server.run(asyncio.sleep(0))
        except RuntimeError as exc:
            errors.append(str(exc))

    def wait() -> None:
        try:
            server.run(asyncio.Event().wait())
        except RuntimeError as exc:
            errors.append(str(exc))

    # Daemons, so that one that hangs does not keep pytest from ending.
    workers = [threading.Thread(target=target, daemon=True) for target in (work, work, wait)]
    for worker in workers:
        worker.start()
    server.stop()
    for worker in workers:
        worker.join(30)
    assert errors == ["The server has been stopped."] * 3


def test_errors_of_a_start_are_raised_in_the_caller(settings: Settings, url: str) -> None:
    nowhere = {"database_url": "postgresql://u:canary@127.0.0.1:1/x?connect_timeout=1"}
    missing = {"database_url": admin.with_database_name(url, "missing")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases: list[tuple[dict[str, Any], str, int, type[Exception], str]] = [
            ({}, "127.0.0.1", taken.getsockname()[1], PortInUse, "Choose another one"),
            ({}, "192.0.2.1", 0, CannotListen, "Choose an address of this machine"),
            (missing, "127.0.0.1", 0, Unavailable, "llmring-server db create"),
        ]
        for update, host, port, error, advice in cases:
            with pytest.raises(error, match=advice):
                Server.run_in_thread(settings.model_copy(update=update), host, port)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmring_server.db.connect.START_TIMEOUT_SECONDS", 0.1)
        with pytest.raises(Unavailable, match=r"nothing listens on 127\.0\.0\.1:1") as raised:
            Server.run_in_thread(settings.model_copy(update=nowhere), port=0)
    assert "canary" not in str(raised.value)
    assert server_threads() == []


def test_an_address_that_cannot_be_used_is_an_error_with_advice() -> None:
    with pytest.raises(CannotListen, match="from 0 to 65535"):
        listen("127.0.0.1", 70_000)
    with pytest.raises(CannotListen, match="Choose an address of this machine"):
        listen("nowhere.invalid", 0)


def test_a_port_that_is_not_permitted_is_an_error_with_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Root may listen on every port.
    def refuse(*_: object, **__: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ListenNotPermitted, match="Choose one above 1023"):
        listen("127.0.0.1", 80)


async def test_a_role_without_access_is_an_error_with_advice(
    owner: AsyncDatabaseManager, owner_settings: Settings, url: str, project_id: ProjectId
) -> None:
    await owner.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    stranger = parts._replace(netloc=f"stranger:stranger@{place}").geturl()
    try:
        missing = owner_settings.model_copy(update={"database_url": stranger})
        with pytest.raises(MissingPrivilege, match="repeat the grants"):
            async with Ring.open(missing.model_copy(update={"migrate_on_start": False})) as ring:
                await ring.usage.stats(project_id)
        await owner.execute("ALTER ROLE stranger NOLOGIN")
        with pytest.raises(DatabaseAccessDenied, match="Check the user and the password"):
            async with Ring.open(missing):
                pass
    finally:
        await owner.execute("DROP ROLE stranger")


async def test_requests_beyond_the_deadline_are_cancelled(
    db: AsyncDatabaseManager, settings: Settings
) -> None:
    ring = Ring(db, settings)
    server = Server(ring, port=0, shutdown_timeout=60)
    await server.start()
    before = asyncio.all_tasks()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(
        b"POST /api/v1/log HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\n"
        b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    await until(lambda: asyncio.all_tasks() > before)
    async with asyncio.timeout(30):
        await server.stop(timeout=0)
        # The connection is closed, not left to the client.
        await reader.read()
    writer.close()
    assert asyncio.all_tasks() <= before
    await ring.aclose()
