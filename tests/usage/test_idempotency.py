"""One key, one call, whatever happens in between: on a real database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.errors import Conflict, InvalidRequest, Overloaded, RequestInProgress
from llmring_server.usage.models import LogResult, NewCall
from tests.conftest import CALL


def entry(**fields: Any) -> NewCall:
    return NewCall(**CALL | fields)


async def count(ring: Ring, project_id: ProjectId) -> int:
    """Count a project's calls twice: as rows, and as sums."""
    rows = await ring.db.fetch_value(
        "SELECT count(*) FROM {{tables.usage_logs}} WHERE project_id = $1", project_id
    )
    assert (await ring.usage.stats(project_id)).summary.total_requests == rows
    return int(rows)


@asynccontextmanager
async def held(ring: Ring, project_id: ProjectId, key: str) -> AsyncIterator[None]:
    """Keep a key in a transaction that does not end; then let it go, unused."""
    async with ring.db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await ring.within(connection).usage.log(project_id, entry(), key)
            yield
        finally:
            await transaction.rollback()


async def test_twins_at_the_same_moment_are_one_call(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    # All wait for few connections: on a busy machine, longer than a request may.
    ring = Ring(db, Settings(acquire_timeout=60))
    keys = [f"key {n}" for n in range(50)] * 10
    logged = await asyncio.gather(*(ring.usage.log(project_id, entry(), key) for key in keys))
    assert len({each.log_id for each in logged}) == 50
    assert sum(not each.replayed for each in logged) == 50
    assert await count(ring, project_id) == 50


async def test_a_key_is_the_projects_own(ring: Ring, project_id: ProjectId) -> None:
    mine = await ring.usage.log(project_id, entry(), "key")
    theirs = await ring.usage.log(project_of_key("another" + str(project_id)), entry(), "key")
    assert mine.log_id != theirs.log_id
    assert not theirs.replayed


async def test_a_key_used_for_another_call_is_refused_among_good_ones(
    ring: Ring, project_id: ProjectId
) -> None:
    await ring.usage.log(project_id, entry(), "key")
    logs = [ring.usage.log(project_id, entry(cost=n), "key" if n == 3 else None) for n in range(6)]
    outcomes = await asyncio.gather(*logs, return_exceptions=True)
    assert [isinstance(each, InvalidRequest) for each in outcomes] == [n == 3 for n in range(6)]
    assert await count(ring, project_id) == 6


async def test_a_twin_that_does_not_end_is_a_conflict_for_itself_alone(
    project_id: ProjectId, settings: Settings
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        async with held(ring, project_id, "held"):
            logs = [ring.usage.log(project_id, entry(), key) for key in ("held", "free", None)]
            outcomes = await asyncio.gather(*logs, return_exceptions=True)
            assert [isinstance(each, RequestInProgress) for each in outcomes] == [
                True,
                False,
                False,
            ]
        assert not (await ring.usage.log(project_id, entry(), "held")).replayed
        assert await count(ring, project_id) == 3


async def test_beside_a_key_that_is_held_every_other_key_is_decided(
    project_id: ProjectId, settings: Settings
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        used = await ring.usage.log(project_id, entry(), "used")
        keyed: list[tuple[NewCall, str | None]] = [
            (entry(), "held"), (entry(), "used"), (entry(cost=1), "used"), (entry(), "new"),
            (entry(), "new"), (entry(), None),
        ]  # fmt: skip
        async with held(ring, project_id, "held"):
            logs = [ring.usage.log(project_id, *each) for each in keyed]
            outcomes = await asyncio.gather(*logs, return_exceptions=True)
        locked, replayed, reused, new, twin, free = outcomes
        assert isinstance(locked, RequestInProgress)
        assert isinstance(reused, InvalidRequest)
        assert reused.code == "idempotency_key_reused"
        found = [each for each in (replayed, new, twin, free) if isinstance(each, LogResult)]
        assert [each.replayed for each in found] == [True, False, True, False]
        assert found[0].log_id == used.log_id
        assert found[1].log_id == found[2].log_id
        assert await count(ring, project_id) == 3


async def test_a_locked_table_is_overload_for_everyone(
    settings: Settings, project_id: ProjectId, owner: AsyncDatabaseManager
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        async with owner.transaction() as tx:
            await tx.execute("LOCK TABLE {{tables.usage_logs}}")
            with pytest.raises(Overloaded):
                await ring.usage.log(project_id, entry(), "key")
        await ring.usage.log(project_id, entry(), "key")
        assert await count(ring, project_id) == 1


async def test_a_call_that_cannot_be_stored_fails_alone(ring: Ring, project_id: ProjectId) -> None:
    entries = [entry(alias="a\0b" if n % 7 == 3 else "good") for n in range(40)]
    logs = [ring.usage.log(project_id, each) for each in entries]
    outcomes = await asyncio.gather(*logs, return_exceptions=True)
    assert sum(isinstance(each, InvalidRequest) for each in outcomes) == 6
    assert await count(ring, project_id) == 34


async def test_a_batch_is_all_or_nothing(ring: Ring, project_id: ProjectId) -> None:
    for bad in range(5):
        entries = [entry(alias="a\0b" if n == bad else None) for n in range(5)]
        with pytest.raises(InvalidRequest):
            await ring.usage.log_many(project_id, entries)
    assert await count(ring, project_id) == 0


async def test_a_batch_with_a_key_is_replayed_as_a_whole(ring: Ring, project_id: ProjectId) -> None:
    entries = [entry(cost=Decimal(n)) for n in range(5)]
    first = await ring.usage.log_many(project_id, entries, "batch")
    again = await ring.usage.log_many(project_id, entries, "batch")
    assert [each.log_id for each in again] == [each.log_id for each in first]
    for other in (entries[:4], [*entries, entry()], entries[::-1]):
        with pytest.raises(InvalidRequest):
            await ring.usage.log_many(project_id, other, "batch")
    assert await count(ring, project_id) == 5


async def test_twins_inside_a_batch_are_one_call(ring: Ring, project_id: ProjectId) -> None:
    twin = entry(idempotency_key="twin")
    one, two = await ring.usage.log_many(project_id, [twin, twin])
    assert (one.log_id, one.replayed, two.replayed) == (two.log_id, False, True)
    with pytest.raises(InvalidRequest):
        await ring.usage.log_many(project_id, [entry(), entry(idempotency_key="twin", cost=1)])
    assert await count(ring, project_id) == 1


async def test_a_log_goes_with_the_callers_transaction(ring: Ring, project_id: ProjectId) -> None:
    async def work(outcome: int) -> None:
        async with ring.db.transaction() as tx:
            await ring.within(tx).usage.log(project_id, entry())
            await ring.within(tx).usage.log_many(project_id, [entry()] * 3)
            assert len(await ring.within(tx).usage.logs(project_id)) == 4
            assert outcome / outcome

    with pytest.raises(ZeroDivisionError):
        await work(0)
    assert await count(ring, project_id) == 0
    await work(1)
    assert await count(ring, project_id) == 4


async def test_a_batch_that_fails_leaves_the_callers_transaction_usable(
    ring: Ring, project_id: ProjectId
) -> None:
    async with ring.db.transaction() as tx:
        with pytest.raises((InvalidRequest, Conflict)):
            await ring.within(tx).usage.log_many(project_id, [entry(alias="a\0b")])
        await ring.within(tx).usage.log(project_id, entry())
    assert await count(ring, project_id) == 1


async def test_connections_that_die_lose_and_double_nothing(
    settings: Settings, project_id: ProjectId, ring: Ring
) -> None:
    async with Ring.open(settings.model_copy(update={"acquire_timeout": 30})) as mortal:
        work = [asyncio.create_task(mortal.usage.log(project_id, entry())) for _ in range(300)]
        for _ in range(3):
            await asyncio.sleep(0.01)
            await kill(settings)
        logged = await asyncio.gather(*work)
    assert len({each.log_id for each in logged}) == 300
    assert await count(ring, project_id) == 300


async def kill(settings: Settings) -> None:
    """End every connection of our own pool's, as an administrator may."""
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'llmring-server' AND datname = current_database()"
    )
    await connection.close()


async def test_only_a_callers_transaction_has_sums_of_its_own(
    ring: Ring, project_id: ProjectId
) -> None:
    shards = "SELECT count(DISTINCT shard) FROM {{tables.usage_recent}} WHERE project_id = $1"
    await ring.usage.log(project_id, entry(), "key")
    await ring.usage.log_many(project_id, [entry()] * 3)
    assert await ring.db.fetch_value(shards, project_id) == 1
    async with ring.db.transaction() as tx:
        await ring.within(tx).usage.log(project_id, entry())
        # Nobody waits for the caller.
        await ring.usage.log(project_id, entry())
    assert await ring.db.fetch_value(shards, project_id) == 2
    assert await count(ring, project_id) == 6
