"""A read replica that fails in other ways than by refusing connections."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.db import replica as replica_module
from llmring_server.db.database import Database
from llmring_server.db.repository import _stream_on
from tests.db.test_replica import Nodes, count, log
from tests.support.postgres_node import PostgresNode
from tests.support.replica import primary_and_replica

pytestmark = pytest.mark.full

# Far less than what a statement may take, and far more than a slow machine needs.
SOON = 6


def processes(node: PostgresNode) -> list[int]:
    """Return the server's process and its children, in the order in which they are stopped."""
    postmaster = int((node.data / "postmaster.pid").read_text().split()[0])
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == postmaster:
            children.append(int(stat.parent.name))
    return [postmaster, *children]


@contextmanager
def frozen(node: PostgresNode) -> Iterator[None]:
    """Let a server accept packets and answer none, as in a network that is cut."""
    pids = processes(node)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
async def nodes() -> AsyncIterator[Nodes]:
    async with primary_and_replica() as (primary, replica):
        yield Nodes(primary, replica)


async def has_replayed(ring: Ring, project_id: ProjectId) -> None:
    """Wait until the replica answers with all that is committed."""
    position = await ring.position()
    async with asyncio.timeout(20):
        reading = ring.reading(position)
        while reading.replica_lag is None:
            await count(reading := ring.reading(position), project_id)


async def test_a_frozen_replica_does_not_stop_reads(nodes: Nodes, project_id: ProjectId) -> None:
    async with asyncio.timeout(60):
        async with Ring.open(nodes.settings()) as ring:
            await log(ring, project_id)
            await has_replayed(ring, project_id)
            with frozen(nodes.replica):
                async with asyncio.timeout(SOON):
                    reads = [count(ring.reading(), project_id) for _ in range(8)]
                    assert await asyncio.gather(*reads) == [1] * 8
                codes = [warning["code"] for warning in await ring.database_warnings()]
                assert "replica_unreachable" in codes
            await has_replayed(ring, project_id)


async def test_a_frozen_replica_does_not_stop_the_end(nodes: Nodes, project_id: ProjectId) -> None:
    async with asyncio.timeout(60):
        opened = Ring.open(nodes.settings())
        ring = await opened.__aenter__()
        await log(ring, project_id)
        await has_replayed(ring, project_id)
        with frozen(nodes.replica):
            await count(ring.reading(), project_id)
            async with asyncio.timeout(2 * SOON):
                await opened.__aexit__(None, None, None)


async def test_while_the_primary_is_frozen_the_replica_answers(
    nodes: Nodes, project_id: ProjectId
) -> None:
    async with Ring.open(nodes.settings()) as ring:
        await log(ring, project_id)
        await has_replayed(ring, project_id)
        with frozen(nodes.primary):
            # The last sample is too old by then.
            await asyncio.sleep(1.1 * replica_module.SAMPLE_INTERVAL_SECONDS)
            async with asyncio.timeout(SOON):
                reads = [count(ring.reading(), project_id) for _ in range(4)]
                assert await asyncio.gather(*reads) == [1] * 4
                reads = [count(ring.reading(), project_id) for _ in range(4)]
                assert await asyncio.gather(*reads) == [1] * 4


async def test_a_promoted_replica_of_a_living_primary_is_not_read(project_id: ProjectId) -> None:
    async with primary_and_replica() as (primary, replica):
        nodes = Nodes(primary, replica)
        async with Ring.open(nodes.settings()) as ring:
            await log(ring, project_id)
            await has_replayed(ring, project_id)
            await replica.promote()
            # Its log gets longer than that of the primary.
            await replica.query("CREATE TABLE public.more AS SELECT generate_series(1, 100000)")
            await log(ring, project_id)
            for _ in range(5):
                assert await count(ring.reading(await ring.position()), project_id) == 2
                assert await count(ring.reading(), project_id) == 2


async def test_a_stream_in_conflict_with_replaying_begins_again_on_the_primary(
    nodes: Nodes, project_id: ProjectId
) -> None:
    async with Ring.open(nodes.settings()) as ring:
        await has_replayed(ring, project_id)
        replica = ring._database.replica
        assert replica

        def stream(database: Database) -> AsyncGenerator[asyncpg.Record]:
            text = (
                "SELECT pg_is_in_recovery() FROM llmring.templates RIGHT JOIN pg_sleep(1) ON true"
            )
            return _stream_on(database, project_id, text, ())

        rows = aiter(replica.stream(ring.reading()._database, project_id, stream))
        first = asyncio.ensure_future(anext(rows))
        await asyncio.sleep(0.3)
        await nodes.primary.query("DO 'BEGIN LOCK TABLE llmring.templates; END'")
        assert (await first)["pg_is_in_recovery"] is False
        assert await anext(rows, None) is None
        assert not replica.is_unreachable


async def test_a_small_lag_can_be_required(nodes: Nodes, project_id: ProjectId) -> None:
    async with Ring.open(nodes.settings(max_replica_lag=0.3)) as ring:
        await has_replayed(ring, project_id)
        on_replica = 0
        for _ in range(20):
            await count(reading := ring.reading(), project_id)
            on_replica += reading.replica_lag is not None
            await asyncio.sleep(0.05)
        assert on_replica > 15


async def test_a_read_after_a_pause_is_answered_by_the_replica(
    nodes: Nodes, project_id: ProjectId
) -> None:
    """Although the primary has written meanwhile, and nobody has measured the lag."""
    async with Ring.open(nodes.settings(max_replica_lag=1.5)) as ring:
        await has_replayed(ring, project_id)
        for _ in range(2):
            await asyncio.sleep(2)
            await log(ring, project_id)
            await count(reading := ring.reading(), project_id)
            assert reading.replica_lag is not None
