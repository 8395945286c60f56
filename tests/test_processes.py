"""Several processes, clients that vanish, a database that stops: what was promised still holds."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from llmring_server import Ring, Server, Settings
from llmring_server.server import listen, url_of
from llmring_server.tenant import of_key
from tests.conftest import CALL
from tests.kill_writers import call, wrong_sums
from tests.test_kills import LONGEST, SEED, own_cluster, serving, unguarded, until

LOG, BATCH = "/api/v1/log", "/api/v1/logs/batch"
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", LOG, CALL),
    ("POST", BATCH, [CALL] * 3),
    ("GET", "/api/v1/logs", None),
    ("GET", "/api/v1/logs/export", None),
    ("GET", "/api/v1/stats", None),
]
# What a request may take whose database is gone; without a bound it would wait for ever.
PATIENCE = 8

OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'llmring-server'"
IDLE = f"{OURS} AND state LIKE 'idle in transaction%'"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
CALLS = """
SELECT provider, model, id_at_origin, input_tokens, output_tokens, cost::float8 AS cost
FROM {{tables.usage_logs}} WHERE tenant = $1"""


def chance() -> Random:
    return Random(SEED)  # noqa: S311, chance that can be had again


def post(path: str, body: Any, api_key: str, key: str = "") -> bytes:
    """Write a request: what a client library does to it would take longer than the server."""
    data = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nX-API-Key: {api_key}\r\n"
    head += f"Idempotency-Key: {key}\r\n" if key else ""
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def answer(request: bytes, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> Any:
    """Send `request` until nobody else is busy with its key; return what was answered."""
    status = b"409"
    while status == b"409":
        to.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        status = head.split()[1]
    assert status == b"200", body
    return orjson.loads(body)


async def answers(ports: Iterable[int], requests: Iterable[bytes]) -> list[tuple[bytes, Any]]:
    """Send all, over 40 connections to each port at once; return each with its answer."""
    waiting, answered = iter(requests), []

    async def work(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for each in waiting:
            answered.append((each, await answer(each, reader, writer)))  # noqa: PERF401, others add
        writer.close()
        await writer.wait_closed()

    async with asyncio.timeout(LONGEST), asyncio.TaskGroup() as group:
        for port in ports:
            [group.create_task(work(port)) for _ in range(40)]
    return answered


@asynccontextmanager
async def two_processes(settings: Settings) -> AsyncIterator[list[int]]:
    """Serve one database twice; yield the ports."""
    given = {name: str(value) for name, value in settings.model_dump(exclude_unset=True).items()}
    async with AsyncExitStack() as stack:
        listeners = [stack.enter_context(listen("127.0.0.1", 0)) for _ in range(2)]
        for each in listeners:
            await stack.enter_async_context(serving(each, **given))
        yield [each.getsockname()[1] for each in listeners]


@asynccontextmanager
async def small(
    settings: Settings, size: int, **changes: Any
) -> AsyncIterator[tuple[Ring, httpx.AsyncClient]]:
    """Serve with `size` connections and none to spare; at the end all of them are at rest."""
    changes |= {"database_pool_size": size, "database_pool_overflow": 0}
    async with Ring.open(settings.model_copy(update=changes)) as ring:
        async with Server(ring, port=0) as server, httpx.AsyncClient(timeout=LONGEST) as client:
            client.base_url = httpx.URL(server.url)
            yield ring, client
        pool = ring.db._pool
        assert pool is not None
        assert pool.get_idle_size() == pool.get_size() == size
        assert await ring.db.fetch_value(IDLE) == 0


async def test_ten_posts_of_each_of_1000_keys_to_two_processes_are_1000_calls(
    settings: Settings, ring: Ring, key: str
) -> None:
    keys = [uuid4().hex for _ in range(1000)]
    requests = (post(LOG, call(each), key, each) for each in keys for _ in range(10))
    async with two_processes(settings) as ports:
        answered = await answers(ports, requests)
    assert len(answered) == 10_000
    ids = {(request, answer["log_id"]) for request, answer in answered}
    assert len(ids) == len({each for _, each in ids}) == 1000
    assert len(await ring.db.fetch_all(CALLS, of_key(key))) == 1000
    assert await wrong_sums(ring, of_key(key)) == 0


async def deadlocks(ring: Ring) -> int:
    """Count those ever; a session tells of its own at its end."""
    async with asyncio.timeout(LONGEST):
        while await ring.db.fetch_value(OURS):  # noqa: ASYNC110, the database sets no event
            await asyncio.sleep(0.05)
    return int(await ring.db.fetch_value(DEADLOCKS))


async def test_two_processes_that_log_for_the_same_tenants_never_deadlock(
    settings: Settings, ring: Ring
) -> None:
    dice, before = chance(), await deadlocks(ring)
    keys = [uuid4().hex for _ in range(3)]
    batches = [[call(uuid4().hex) for _ in range(dice.randint(1, 20))] for _ in range(1000)]
    requests = [post(BATCH, each, dice.choice(keys)) for each in batches]
    requests += [post(LOG, call(uuid4().hex), dice.choice(keys)) for _ in range(2000)]
    dice.shuffle(requests)
    async with two_processes(settings) as ports:
        await answers(ports, requests)
    assert await deadlocks(ring) == before
    rows = [await ring.db.fetch_all(CALLS, of_key(key)) for key in keys]
    assert sum(map(len, rows)) == 2000 + sum(map(len, batches))
    assert [await wrong_sums(ring, of_key(key)) for key in keys] == [0, 0, 0]


async def leave(url: httpx.URL, sent: bytes, *, rudely: bool) -> None:
    """Send so much of a request, and go."""
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(sent)
    await writer.drain()
    writer.transport.abort() if rudely else writer.close()


async def test_clients_that_leave_at_any_byte_leave_nothing_half_done(
    settings: Settings, ring: Ring, key: str
) -> None:
    dice, keys = chance(), [uuid4().hex for _ in range(200)]
    requests = [post(LOG, call(each), key, each) for each in keys]
    cuts = [dice.randint(0, len(each) * 3 // 2) for each in requests]
    async with small(settings, 4) as (_, client), asyncio.TaskGroup() as group:
        for request, cut in zip(requests, cuts, strict=True):
            group.create_task(leave(client.base_url, request[:cut], rudely=dice.random() < 0.5))
    stored = await ring.db.fetch_all(CALLS, of_key(key))
    sent = [
        each for each, request, cut in zip(keys, requests, cuts, strict=True) if cut >= len(request)
    ]
    assert 0 < len(stored) <= len(sent)
    ...
