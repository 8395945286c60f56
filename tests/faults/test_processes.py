"""Processes: several servers, clients that disconnect, a database that stops."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from typing import Any
from uuid import uuid4

import httpx
import pytest

from llmring_server import Ring, Server, Settings
from llmring_server.core.identity import LIBRARY, project_of_key
from llmring_server.db.embedded_postgres import EmbeddedPostgres
from llmring_server.db.postgres_supervisor import DataDirectory
from llmring_server.routes import META
from llmring_server.server.in_process import listen, url_of
from tests.conftest import CALL
from tests.faults.test_kills import (
    LONGEST,
    has_no_supervisor,
    killable_postgres,
    run_server,
    seeded_random,
    two_processes,
    until,
)
from tests.support.crash_writers import CALLS, LOG, answer, call, post, wrong_totals

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

# How long a request may take while the database is down.
RESPONSE_TIMEOUT_SECONDS = 8
BATCH, STATS = "/api/v1/logs/batch", "/api/v1/stats"
READ = (STATS, "/api/v1/logs", "/api/v1/logs/export", "/registry")
ROUTES: dict[str, Any] = {LOG: CALL, BATCH: [CALL] * 3, **dict.fromkeys(READ)}

# In this database only: other workers have theirs on the same server.
SERVER_CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE application_name = 'llmring-server' AND datname = current_database()"
)
IDLE = f"{SERVER_CONNECTIONS} AND state LIKE 'idle in transaction%'"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


async def answers(
    ports: list[int], requests: Iterable[bytes], connections: int = 40
) -> list[tuple[bytes, Any]]:
    """Send all requests over parallel connections to each port; return each with its response."""
    waiting, answered = iter(requests), []

    async def work(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            for each in waiting:
                told = await answer(each, reader, writer)
                answered.append((each, told))
        await writer.wait_closed()

    async with asyncio.timeout(LONGEST), asyncio.TaskGroup() as group:
        for port in ports * connections:
            group.create_task(work(port))
    return answered


async def send(client: httpx.AsyncClient, path: str, key: str) -> httpx.Response:
    body, headers = ROUTES.get(path), {"X-API-Key": key}
    return await client.request("POST" if body else "GET", path, json=body, headers=headers)


@asynccontextmanager
async def small_server(
    settings: Settings, size: int, **changes: Any
) -> AsyncIterator[tuple[Ring, httpx.AsyncClient]]:
    """Run a server with a pool of `size` connections; check that all are idle at the end."""
    changes |= {"database_pool_size": size, "database_pool_overflow": 0}
    async with Ring.open(settings.model_copy(update=changes)) as ring:
        async with (
            Server(ring, port=0) as server,
            httpx.AsyncClient(timeout=LONGEST) as client,
        ):
            client.base_url = httpx.URL(server.url)
            yield ring, client
        pool: Any = ring.db._pool
        if busy := pool.get_size() - pool.get_idle_size():
            pool.terminate()  # closing it would wait for them
        assert busy == 0
        assert await ring.db.fetch_value(IDLE) == 0


async def test_ten_requests_with_each_of_1000_keys_to_two_processes_store_1000_calls(
    settings: Settings, ring: Ring, key: str
) -> None:
    keys = [uuid4().hex for _ in range(1000)]
    requests = (post(LOG, call(each), key, each) for each in keys for _ in range(10))
    async with two_processes(settings) as ports:
        answered = await answers(ports, requests)
    assert len(answered) == 10_000
    ids = {(request, told["log_id"]) for request, told in answered}
    assert len(ids) == len({each for _, each in ids}) == 1000
    assert len(await ring.db.fetch_all(CALLS, project_of_key(key))) == 1000
    assert await wrong_totals(ring, project_of_key(key)) == 0


async def deadlocks(ring: Ring) -> int:
    """Return the number of deadlocks so far; PostgreSQL counts them when a connection ends."""
    async with asyncio.timeout(LONGEST):
        while await ring.db.fetch_value(SERVER_CONNECTIONS):  # noqa: ASYNC110, the database sets no event
            await asyncio.sleep(0.05)
    return int(await ring.db.fetch_value(DEADLOCKS))


async def test_two_processes_that_log_for_the_same_projects_never_deadlock(
    settings: Settings, ring: Ring
) -> None:
    random, before = seeded_random(), await deadlocks(ring)
    keys = [uuid4().hex for _ in range(3)]
    batches = [[call(uuid4().hex) for _ in range(random.randint(1, 20))] for _ in range(500)]
    requests = [post(BATCH, each, random.choice(keys)) for each in batches]
    requests += [post(LOG, call(uuid4().hex), random.choice(keys)) for _ in range(1500)]
    random.shuffle(requests)
    async with two_processes(settings) as ports:
        await answers(ports, requests, connections=20)
    assert await deadlocks(ring) == before
    rows = [await ring.db.fetch_all(CALLS, project_of_key(key)) for key in keys]
    assert sum(map(len, rows)) == 1500 + sum(map(len, batches))
    assert [await wrong_totals(ring, project_of_key(key)) for key in keys] == [0, 0, 0]


async def leave(url: httpx.URL, sent: bytes, *, rudely: bool) -> None:
    """Send a part of a request, and disconnect."""
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(sent)
    await writer.drain()
    (writer.transport.abort if rudely else writer.close)()


async def test_clients_that_disconnect_at_any_byte_leave_nothing_half_done(
    settings: Settings, ring: Ring, key: str
) -> None:
    random, keys = seeded_random(), [uuid4().hex for _ in range(200)]
    requests = {each: post(LOG, call(each), key, each) for each in keys}
    cuts = {each: random.randint(0, len(requests[each]) * 3 // 2) for each in keys}
    async with small_server(settings, 4) as (_, client), asyncio.TaskGroup() as group:
        for each, cut in cuts.items():
            sent = requests[each][:cut]
            group.create_task(leave(client.base_url, sent, rudely=random.random() < 0.5))
    stored = {row["id_at_origin"] for row in await ring.db.fetch_all(CALLS, project_of_key(key))}
    assert stored
    assert all(cuts[each] >= len(requests[each]) for each in stored)
    async with small_server(settings, 4) as (_, client):
        await answers([client.base_url.port or 0], requests.values())
    rows = await ring.db.fetch_all(CALLS, project_of_key(key))
    assert sorted(row["id_at_origin"] for row in rows) == sorted(keys)
    assert all(call(row["id_at_origin"]).items() <= row.items() for row in rows)
    assert await wrong_totals(ring, project_of_key(key)) == 0


async def keep_requesting(url: str, path: str, latest: dict[str, int]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=RESPONSE_TIMEOUT_SECONDS) as client:
        while True:
            answered = await send(client, path, key=path)
            refused = answered.status_code == 503 and "Retry-After" in answered.headers
            assert answered.is_success or refused, answered.text
            latest[path] = answered.status_code


async def outage(
    database: EmbeddedPostgres, directory: DataDirectory, latest: dict[str, int]
) -> None:
    """Stop a database that serves, and start it again when its absence has been felt."""
    await until(lambda: latest == dict.fromkeys(ROUTES, 200))
    database.stop()
    await until(lambda: latest[STATS] == 503 and has_no_supervisor(directory))
    await asyncio.sleep(2)
    await asyncio.to_thread(database.start)
    latest.clear()
    await until(lambda: latest == dict.fromkeys(ROUTES, 200))


async def test_a_server_answers_while_its_database_is_down_and_recovers() -> None:
    latest: dict[str, int] = {}
    async with killable_postgres() as (database, directory):
        with listen("127.0.0.1", 0) as listener:
            url, environ = url_of(listener), {"database_url": database.url(), "auth": "open"}
            async with run_server(listener, **environ) as process, asyncio.TaskGroup() as group:
                await answers([listener.getsockname()[1]], [post(LOG, CALL, "key")])
                asking = [group.create_task(keep_requesting(url, path, latest)) for path in ROUTES]
                await outage(database, directory, latest)
                for each in asking:
                    each.cancel()
                assert process.returncode is None


@pytest.mark.parametrize("path", ROUTES)
async def test_60_requests_on_two_connections_are_served_or_rejected(
    settings: Settings, key: str, path: str
) -> None:
    async with small_server(settings, 2) as (_, client):
        requests = (send(client, path, key) for _ in range(60))
        live, *answered = await asyncio.gather(client.get("/health/live"), *requests)
    assert live.status_code == 200
    assert {200} <= {each.status_code for each in answered} <= {200, 429, 503}


async def test_routes_that_need_the_database_return_503_if_the_pool_is_exhausted(
    settings: Settings, key: str
) -> None:
    async with small_server(settings, 1, acquire_timeout=0.2) as (ring, client), ring.db.acquire():
        answered = await asyncio.gather(*(send(client, path, key) for path in ROUTES))
        assert all(each.status_code == 503 and each.headers["Retry-After"] for each in answered)
        assert (await client.get("/health/live")).status_code == 200


async def test_every_route_needs_one_connection_only(settings: Settings) -> None:
    async with small_server(settings, 1, auth="keys") as (ring, client):
        key = (await ring.keys.issue(uuid4().hex, actor=LIBRARY)).secret
        for path in (*ROUTES, *(route.path for route in META)):
            assert (await send(client, path, key)).is_success, path
