"""Leaks: after closing, no task, thread, file or connection remains, however often."""

import asyncio
import gc
import threading
from pathlib import Path

import asyncpg
import httpx
import pytest

from llmring_server import Ring, Server, Settings
from tests.conftest import CALL

CYCLES = [10, pytest.param(200, marks=pytest.mark.full)]


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def connections(url: str) -> int:
    """Return how many connections others have to the database."""
    connection = await asyncpg.connect(url)
    try:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    finally:
        await connection.close()


async def log_in_task(settings: Settings, key: str) -> None:
    async with (
        Ring.open(settings) as ring,
        Server(ring, port=0) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        answer = await client.post("/api/v1/log", json=CALL, headers={"X-API-Key": key})
        assert answer.status_code == 200


def log_in_thread(settings: Settings, key: str) -> None:
    with Server.run_in_thread(settings, port=0) as server:
        answer = httpx.post(
            f"{server.url}/api/v1/log", json=CALL, headers={"X-API-Key": key}, timeout=60
        )
        assert answer.status_code == 200


@pytest.mark.parametrize("cycles", CYCLES)
async def test_nothing_remains_after_opening_and_closing(
    settings: Settings, url: str, key: str, cycles: int
) -> None:
    settings = settings.model_copy(
        update={"database_pool_size": 1, "database_pool_overflow": 1, "migrate_on_start": False}
    )

    async def cycle(number: int) -> None:
        if number % 2:
            log_in_thread(settings, key)
        else:
            await log_in_task(settings, key)

    # The first ones load modules and fill caches.
    await cycle(0)
    await cycle(1)
    gc.collect()
    tasks, threads, files = asyncio.all_tasks(), threading.active_count(), open_files()
    others = await connections(url)
    for number in range(cycles):
        await cycle(number)
    assert asyncio.all_tasks() <= tasks
    assert threading.active_count() <= threads
    gc.collect()
    assert open_files() <= files

    async with asyncio.timeout(60):
        # PostgreSQL lists a session for a moment after its connection was closed.
        while await connections(url) > others:  # noqa: ASYNC110, PostgreSQL sets no event
            await asyncio.sleep(0.05)
