"""Long reads: they occupy only a share of the pool, in turns of projects, and writes go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.asgi import ASGIFactory
from llmring_server.core.fair_queue import FairSlots
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.db.long_reads import read_slots
from llmring_server.errors import Overloaded, RateLimited
from llmring_server.usage.models import NewCall
from tests.conftest import CALL

LOG = "/api/v1/log"
# Statistics wait for this lock, and calls do not: they are added to the recent sums.
LOCK = "LOCK TABLE {{tables.usage_rollups}} IN ACCESS EXCLUSIVE MODE"
WAITING = """
SELECT count(*) FROM pg_locks WHERE relation = '{{tables.usage_rollups}}'::regclass AND NOT granted
"""

A, B, C = (ProjectId(uuid4()) for _ in range(3))


@pytest.fixture(params=["own pool", "parent's pool"])
async def ring_of_4(
    request: pytest.FixtureRequest, settings: Settings, db: AsyncDatabaseManager
) -> AsyncIterator[Ring]:
    """A ring on a pool of 4 connections (its own), or of 5 (a parent's)."""
    if request.param == "parent's pool":
        yield Ring(db, settings)
    else:
        async with Ring.open(settings) as ring:
            yield ring


async def test_writes_find_a_connection_beside_any_number_of_long_reads(
    ring_of_4: Ring, owner: AsyncDatabaseManager
) -> None:
    keys = [uuid4().hex for _ in range(8)]
    transport = httpx.ASGITransport(app=ASGIFactory(ring_of_4.settings).around(ring_of_4))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for key in keys:
            response = await client.post(LOG, json=CALL, headers={"X-API-Key": key})
            assert response.status_code == 200
        # These exports are not read on, and these statistics cannot be read yet.
        exports = [ring_of_4.usage.export(project_of_key(key)) for key in keys]
        first_calls = [asyncio.create_task(anext(export)) for export in exports]
        async with owner.transaction() as transaction:
            await transaction.execute(LOCK)
            stats = [
                asyncio.create_task(client.get("/api/v1/stats", headers={"X-API-Key": key}))
                for key in keys
            ]
            while not await owner.fetch_value(WAITING):  # noqa: ASYNC110, no event tells
                await asyncio.sleep(0.01)
            statuses = [
                (await client.post(LOG, json=CALL, headers={"X-API-Key": key})).status_code
                for key in keys * 3
            ]
        assert statuses == [200] * 24
        await asyncio.gather(*stats)
        for first_call in first_calls:
            first_call.cancel()
        await asyncio.gather(*first_calls, return_exceptions=True)
        for export in exports:
            await export.aclose()


async def test_rings_on_one_pool_share_its_slots(db: AsyncDatabaseManager) -> None:
    settings = Settings(acquire_timeout=0.5)
    first, second = Ring(db, settings), Ring(db, settings)
    await first.usage.log(A, NewCall(**CALL))
    async with aclosing(first.usage.export(A)) as export:
        await anext(export)
        with pytest.raises(RateLimited):
            await anext(second.usage.export(A))
        with pytest.raises(Overloaded):
            await anext(second.usage.export(B))
        # Statistics have other slots, and the caller's transaction has a connection.
        assert (await second.usage.stats(A)).summary.total_requests == 1
        async with db.transaction() as transaction:
            calls = [call async for call in second.within(transaction).usage.export(A)]
            assert len(calls) == 1
    assert len([call async for call in second.usage.export(A)]) == 1


def slots(number: int, per_project: int, timeout: float = 60) -> FairSlots:
    return read_slots(number, per_project, timeout, "reads")


async def read(slots: FairSlots, project_id: ProjectId, order: list[str], name: str) -> None:
    async with slots.slot(project_id):
        order.append(name)


async def test_projects_take_turns_and_their_reads_keep_their_order() -> None:
    one, order = slots(1, 1), list[str]()
    names = {"a1": A, "a2": A, "a3": A, "b1": B, "c1": C, "b2": B}
    async with asyncio.TaskGroup() as group, one.slot(C):
        for name, project_id in names.items():
            group.create_task(read(one, project_id, order, name))
        await asyncio.sleep(0)
        assert not order
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


@pytest.mark.parametrize(
    ("number", "per_project", "expected"), [(1, 2, 1), (2, 2, 1), (3, 2, 2), (3, 9, 2), (15, 2, 2)]
)
async def test_a_project_leaves_one_of_several_slots_to_others(
    number: int, per_project: int, expected: int
) -> None:
    some = slots(number, per_project, timeout=0)
    async with AsyncExitStack() as stack:
        for _ in range(expected):
            await stack.enter_async_context(some.slot(A))
        with pytest.raises(RateLimited, match=rf"already has {expected} long reads? \(reads\) in"):
            await stack.enter_async_context(some.slot(A))
        if number > 1:
            await stack.enter_async_context(some.slot(B))
        else:
            with pytest.raises(Overloaded):
                await stack.enter_async_context(some.slot(B))


@pytest.mark.parametrize("when", ["waiting", "given a slot"])
async def test_a_read_that_is_cancelled_leaves_its_slot(when: str) -> None:
    one = slots(1, 1)
    async with one.slot(A):
        cancelled = asyncio.create_task(read(one, B, [], "b1"))
        waiting = asyncio.create_task(read(one, B, [], "b2"))
        await asyncio.sleep(0)
        if when == "waiting":
            cancelled.cancel()
    if when == "given a slot":
        cancelled.cancel()
    await asyncio.wait([cancelled, waiting])
    assert (cancelled.cancelled(), waiting.cancelled()) == (True, False)
    async with one.slot(C):
        pass
