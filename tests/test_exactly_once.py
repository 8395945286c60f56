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
from llmring_server.entry import Entry
from llmring_server.errors import Conflict, InProgress, Invalid, Overloaded
from llmring_server.tenant import Tenant, of_key
from llmring_server.usage import Logged
from tests.conftest import CALL


def entry(**fields: Any) -> Entry:
    return Entry(**CALL | fields)


async def count(ring: Ring, tenant: Tenant) -> int:
    """Count a tenant's calls twice: as rows, and as sums."""
    rows = await ring.db.fetch_value(
        "SELECT count(*) FROM {{tables.usage_logs}} WHERE tenant = $1", tenant
    )
    assert (await ring.usage.stats(tenant)).summary.total_requests == rows
    return int(rows)


@asynccontextmanager
async def held(ring: Ring, tenant: Tenant, key: str) -> AsyncIterator[None]:
    """Keep a key in a transaction that does not end; then let it go, unused."""
    async with ring.db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await ring.within(connection).usage.log(tenant, entry(), key)
            yield
        finally:
            await transaction.rollback()


async def test_twins_at_the_same_moment_are_one_call(
    db: AsyncDatabaseManager, tenant: Tenant
) -> None:
    # All wait for few connections: on a busy machine, longer than a request may.
    ring = Ring(db, Settings(acquire_timeout=60))
    keys = [f"key {n}" for n in range(50)] * 10
    logged = await asyncio.gather(*(ring.usage.log(tenant, entry(), key) for key in keys))
    assert len({each.log_id for each in logged}) == 50
    assert sum(not each.replayed for each in logged) == 50
    assert await count(ring, tenant) == 50


async def test_a_key_is_the_tenants_own(ring: Ring, tenant: Tenant) -> None:
    mine = await ring.usage.log(tenant, entry(), "key")
    theirs = await ring.usage.log(of_key("another" + str(tenant)), entry(), "key")
    assert mine.log_id != theirs.log_id
    assert not theirs.replayed


async def test_a_key_used_for_another_call_is_refused_among_good_ones(
    ring: Ring, tenant: Tenant
) -> None:
    await ring.usage.log(tenant, entry(), "key")
    logs = [ring.usage.log(tenant, entry(cost=n), "key" if n == 3 else None) for n in range(6)]
    outcomes = await asyncio.gather(*logs, return_exceptions=True)
    assert [isinstance(each, Invalid) for each in outcomes] == [n == 3 for n in range(6)]
    assert await count(ring, tenant) == 6


async def test_a_twin_that_does_not_end_is_a_conflict_for_itself_alone(
    tenant: Tenant, settings: Settings
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        async with held(ring, tenant, "held"):
            logs = [ring.usage.log(tenant, entry(), key) for key in ("held", "free", None)]
            outcomes = await asyncio.gather(*logs, return_exceptions=True)
            assert [isinstance(each, InProgress) for each in outcomes] == [True, False, False]
        assert not (await ring.usage.log(tenant, entry(), "held")).replayed
        assert await count(ring, tenant) == 3


async def test_beside_a_key_that_is_held_every_other_key_is_decided(
    tenant: Tenant, settings: Settings
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        used = await ring.usage.log(tenant, entry(), "used")
        keyed: list[tuple[Entry, str | None]] = [
            (entry(), "held"), (entry(), "used"), (entry(cost=1), "used"), (entry(), "new"),
            (entry(), "new"), (entry(), None),
        ]  # fmt: skip
        async with held(ring, tenant, "held"):
            logs = [ring.usage.log(tenant, *each) for each in keyed]
            outcomes = await asyncio.gather(*logs, return_exceptions=True)
        locked, replayed, reused, new, twin, free = outcomes
        assert isinstance(locked, InProgress)
        assert isinstance(reused, Invalid)
        assert reused.code == "idempotency_key_reused"
        found = [each for each in (replayed, new, twin, free) if isinstance(each, Logged)]
        assert [each.replayed for each in found] == [True, False, True, False]
        assert found[0].log_id == used.log_id
        assert found[1].log_id == found[2].log_id
        assert await count(ring, tenant) == 3


async def test_a_locked_table_is_overload_for_everyone(
    settings: Settings, tenant: Tenant, owner: AsyncDatabaseManager
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        async with owner.transaction() as tx:
            await tx.execute("LOCK TABLE {{tables.usage_logs}}")
            with pytest.raises(Overloaded):
                await ring.usage.log(tenant, entry(), "key")
        await ring.usage.log(tenant, entry(), "key")
        assert await count(ring, tenant) == 1


async def test_a_call_that_cannot_be_stored_fails_alone(ring: Ring, tenant: Tenant) -> None:
    entries = [entry(alias="a\0b" if n % 7 == 3 else "good") for n in range(40)]
    logs = [ring.usage.log(tenant, each) for each in entries]
    outcomes = await asyncio.gather(*logs, return_exceptions=True)
    assert sum(isinstance(each, Invalid) for each in outcomes) == 6
    assert await count(ring, tenant) == 34


async def test_a_batch_is_all_or_nothing(ring: Ring, tenant: Tenant) -> None:
    for bad in range(5):
        entries = [entry(alias="a\0b" if n == bad else None) for n in range(5)]
        with pytest.raises(Invalid):
            await ring.usage.log_many(tenant, entries)
    assert await count(ring, tenant) == 0


async def test_a_batch_with_a_key_is_replayed_as_a_whole(ring: Ring, tenant: Tenant) -> None:
    entries = [entry(cost=Decimal(n)) for n in range(5)]
    first = await ring.usage.log_many(tenant, entries, "batch")
    again = await ring.usage.log_many(tenant, entries, "batch")
    assert [each.log_id for each in again] == [each.log_id for each in first]
    for other in (entries[:4], [*entries, entry()], entries[::-1]):
        with pytest.raises(Invalid):
            await ring.usage.log_many(tenant, other, "batch")
    assert await count(ring, tenant) == 5


async def test_twins_inside_a_batch_are_one_call(ring: Ring, tenant: Tenant) -> None:
    twin = entry(idempotency_key="twin")
    one, two = await ring.usage.log_many(tenant, [twin, twin])
    assert (one.log_id, one.replayed, two.replayed) == (two.log_id, False, True)
    with pytest.raises(Invalid):
        await ring.usage.log_many(tenant, [entry(), entry(idempotency_key="twin", cost=1)])
    assert await count(ring, tenant) == 1


async def test_a_log_goes_with_the_callers_transaction(ring: Ring, tenant: Tenant) -> None:
    async def work(outcome: int) -> None:
        async with ring.db.transaction() as tx:
            await ring.within(tx).usage.log(tenant, entry())
            await ring.within(tx).usage.log_many(tenant, [entry()] * 3)
            assert len(await ring.within(tx).usage.logs(tenant)) == 4
            assert outcome / outcome

    with pytest.raises(ZeroDivisionError):
        await work(0)
    assert await count(ring, tenant) == 0
    await work(1)
    assert await count(ring, tenant) == 4


async def test_a_batch_that_fails_leaves_the_callers_transaction_usable(
    ring: Ring, tenant: Tenant
) -> None:
    async with ring.db.transaction() as tx:
        with pytest.raises((Invalid, Conflict)):
            await ring.within(tx).usage.log_many(tenant, [entry(alias="a\0b")])
        await ring.within(tx).usage.log(tenant, entry())
    assert await count(ring, tenant) == 1


async def test_connections_that_die_lose_and_double_nothing(
    settings: Settings, tenant: Tenant, ring: Ring
) -> None:
    async with Ring.open(settings.model_copy(update={"acquire_timeout": 30})) as mortal:
        work = [asyncio.create_task(mortal.usage.log(tenant, entry())) for _ in range(300)]
        for _ in range(3):
            await asyncio.sleep(0.01)
            await kill(settings)
        logged = await asyncio.gather(*work)
    assert len({each.log_id for each in logged}) == 300
    assert await count(ring, tenant) == 300


async def kill(settings: Settings) -> None:
    """End every connection of our own pool's, as an administrator may."""
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'llmring-server' AND datname = current_database()"
    )
    await connection.close()


async def test_only_a_callers_transaction_has_sums_of_its_own(ring: Ring, tenant: Tenant) -> None:
    shards = "SELECT count(DISTINCT shard) FROM {{tables.usage_recent}} WHERE tenant = $1"
    await ring.usage.log(tenant, entry(), "key")
    await ring.usage.log_many(tenant, [entry()] * 3)
    assert await ring.db.fetch_value(shards, tenant) == 1
    async with ring.db.transaction() as tx:
        await ring.within(tx).usage.log(tenant, entry())
        # Nobody waits for the caller.
        await ring.usage.log(tenant, entry())
    assert await ring.db.fetch_value(shards, tenant) == 2
    assert await count(ring, tenant) == 6
