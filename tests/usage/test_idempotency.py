"""Idempotency keys and transactions: each call is stored exactly once, whatever fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.errors import Conflict, InvalidRequest, Overloaded, RequestInProgress
from llmring_server.usage.models import LogResult, NewCall
from tests.conftest import CALL
from tests.support.connections import terminate_connections


def call(**fields: Any) -> NewCall:
    return NewCall(**CALL | fields)


async def count(ring: Ring, project_id: ProjectId) -> int:
    """Count a project's calls twice: as rows, and as sums."""
    rows = await ring.db.fetch_value(
        "SELECT count(*) FROM {{tables.usage_logs}} WHERE project_id = $1", project_id
    )
    assert (await ring.usage.stats(project_id)).summary.total_requests == rows
    return int(rows)


@asynccontextmanager
async def hold_key(ring: Ring, project_id: ProjectId, key: str) -> AsyncIterator[None]:
    """Use a key in a transaction that does not end, then roll it back."""
    async with ring.db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await ring.within(connection).usage.log(project_id, call(), key)
            yield
        finally:
            await transaction.rollback()


async def test_concurrent_duplicates_are_one_call(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    # All wait for few connections; on a busy machine, for longer than the default timeout.
    ring = Ring(db, Settings(acquire_timeout=60))
    keys = [f"key {n}" for n in range(50)] * 10
    logged = await asyncio.gather(*(ring.usage.log(project_id, call(), key) for key in keys))
    assert len({each.log_id for each in logged}) == 50
    assert sum(not each.replayed for each in logged) == 50
    assert await count(ring, project_id) == 50


async def test_projects_have_separate_keys(ring: Ring, project_id: ProjectId) -> None:
    mine = await ring.usage.log(project_id, call(), "key")
    theirs = await ring.usage.log(project_of_key("another" + str(project_id)), call(), "key")
    assert mine.log_id != theirs.log_id
    assert not theirs.replayed


async def test_a_key_of_another_call_is_rejected_and_the_others_are_stored(
    ring: Ring, project_id: ProjectId
) -> None:
    await ring.usage.log(project_id, call(), "key")
    logging = [
        ring.usage.log(project_id, call(cost=n), "key" if n == 3 else None) for n in range(6)
    ]
    outcomes = await asyncio.gather(*logging, return_exceptions=True)
    assert [isinstance(outcome, InvalidRequest) for outcome in outcomes] == [
        n == 3 for n in range(6)
    ]
    assert await count(ring, project_id) == 6


async def test_a_key_in_progress_is_a_conflict_for_its_own_call_only(
    project_id: ProjectId, settings: Settings
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        async with hold_key(ring, project_id, "locked"):
            logging = [ring.usage.log(project_id, call(), key) for key in ("locked", "free", None)]
            outcomes = await asyncio.gather(*logging, return_exceptions=True)
            assert [isinstance(outcome, RequestInProgress) for outcome in outcomes] == [
                True,
                False,
                False,
            ]
        assert not (await ring.usage.log(project_id, call(), "locked")).replayed
        assert await count(ring, project_id) == 3


async def test_while_one_key_is_locked_all_others_are_decided(
    project_id: ProjectId, settings: Settings
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        used = await ring.usage.log(project_id, call(), "used")
        calls: list[tuple[NewCall, str | None]] = [
            (call(), "locked"),
            (call(), "used"),
            (call(cost=1), "used"),
            (call(), "new"),
            (call(), "new"),
            (call(), None),
        ]
        async with hold_key(ring, project_id, "locked"):
            logging = [ring.usage.log(project_id, *each) for each in calls]
            outcomes = await asyncio.gather(*logging, return_exceptions=True)
        locked, replayed, reused, new, duplicate, without_key = outcomes
        assert isinstance(locked, RequestInProgress)
        assert isinstance(reused, InvalidRequest)
        assert reused.code == "idempotency_key_reused"
        results = [
            each for each in (replayed, new, duplicate, without_key) if isinstance(each, LogResult)
        ]
        assert [result.replayed for result in results] == [True, False, True, False]
        assert results[0].log_id == used.log_id
        assert results[1].log_id == results[2].log_id
        assert await count(ring, project_id) == 3


async def test_a_locked_table_is_overload_for_all_callers(
    settings: Settings, project_id: ProjectId, owner: AsyncDatabaseManager
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        async with owner.transaction() as tx:
            await tx.execute("LOCK TABLE {{tables.usage_logs}}")
            with pytest.raises(Overloaded):
                await ring.usage.log(project_id, call(), "key")
        await ring.usage.log(project_id, call(), "key")
        assert await count(ring, project_id) == 1


async def test_only_the_call_that_cannot_be_stored_fails(ring: Ring, project_id: ProjectId) -> None:
    calls = [call(alias="a\0b" if n % 7 == 3 else "good") for n in range(40)]
    logging = [ring.usage.log(project_id, each) for each in calls]
    outcomes = await asyncio.gather(*logging, return_exceptions=True)
    assert sum(isinstance(outcome, InvalidRequest) for outcome in outcomes) == 6
    assert await count(ring, project_id) == 34


async def test_a_batch_is_all_or_nothing(ring: Ring, project_id: ProjectId) -> None:
    for bad in range(5):
        calls = [call(alias="a\0b" if n == bad else None) for n in range(5)]
        with pytest.raises(InvalidRequest):
            await ring.usage.log_many(project_id, calls)
    assert await count(ring, project_id) == 0


async def test_a_batch_with_a_key_is_replayed_as_a_whole(ring: Ring, project_id: ProjectId) -> None:
    calls = [call(cost=Decimal(n)) for n in range(5)]
    first = await ring.usage.log_many(project_id, calls, "batch")
    again = await ring.usage.log_many(project_id, calls, "batch")
    assert [each.log_id for each in again] == [each.log_id for each in first]
    for other in (calls[:4], [*calls, call()], calls[::-1]):
        with pytest.raises(InvalidRequest):
            await ring.usage.log_many(project_id, other, "batch")
    assert await count(ring, project_id) == 5


async def test_duplicates_in_a_batch_are_one_call(ring: Ring, project_id: ProjectId) -> None:
    duplicate = call(idempotency_key="duplicate")
    one, two = await ring.usage.log_many(project_id, [duplicate, duplicate])
    assert (one.log_id, one.replayed, two.replayed) == (two.log_id, False, True)
    with pytest.raises(InvalidRequest):
        await ring.usage.log_many(project_id, [call(), call(idempotency_key="duplicate", cost=1)])
    assert await count(ring, project_id) == 1


async def test_calls_are_committed_with_the_callers_transaction(
    ring: Ring, project_id: ProjectId
) -> None:
    async def work(outcome: int) -> None:
        async with ring.db.transaction() as tx:
            await ring.within(tx).usage.log(project_id, call())
            await ring.within(tx).usage.log_many(project_id, [call()] * 3)
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
            await ring.within(tx).usage.log_many(project_id, [call(alias="a\0b")])
        await ring.within(tx).usage.log(project_id, call())
    assert await count(ring, project_id) == 1


async def test_lost_connections_lose_and_duplicate_nothing(
    settings: Settings, project_id: ProjectId, ring: Ring
) -> None:
    async with Ring.open(settings.model_copy(update={"acquire_timeout": 30})) as other:
        work = [asyncio.create_task(other.usage.log(project_id, call())) for _ in range(300)]
        for _ in range(3):
            await asyncio.sleep(0.01)
            await terminate_connections(settings)
        logged = await asyncio.gather(*work)
    assert len({each.log_id for each in logged}) == 300
    assert await count(ring, project_id) == 300


async def test_a_callers_transaction_has_its_own_sums(ring: Ring, project_id: ProjectId) -> None:
    transactions = (
        "SELECT count(DISTINCT caller_xid) FROM {{tables.usage_recent}} WHERE project_id = $1"
    )
    await ring.usage.log(project_id, call(), "key")
    await ring.usage.log_many(project_id, [call()] * 3)
    assert await ring.db.fetch_value(transactions, project_id) == 1
    async with ring.db.transaction() as tx:
        await ring.within(tx).usage.log(project_id, call())
        # This does not wait for the caller.
        await ring.usage.log(project_id, call())
    assert await ring.db.fetch_value(transactions, project_id) == 2
    assert await count(ring, project_id) == 6


@pytest.mark.parametrize(
    ("header", "in_body", "status"),
    [("a", "b", 422), ('"a"', "b", 422), ("a", "a", 200), ('"a"', "a", 200), ("a", None, 200)],
)
async def test_two_keys_of_a_call_must_be_the_same(
    client: httpx.AsyncClient, header: str, in_body: str | None, status: int
) -> None:
    body = CALL | {"idempotency_key": in_body}
    response = await client.post("/api/v1/log", json=body, headers={"Idempotency-Key": header})
    assert response.status_code == status
    assert len((await client.get("/api/v1/logs")).json()) == (status == 200)
    if status == 422:
        assert "different keys" in response.text


async def test_a_batch_in_parts_has_a_key_or_its_calls_have(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/api/v1/logs/batch?partial=true",
        json=[CALL, CALL | {"idempotency_key": "b"}, CALL | {"idempotency_key": "a"}],
        headers={"Idempotency-Key": "a"},
    )
    report = response.json()
    assert [logged["index"] for logged in report["logged"]] == [0]
    assert [(each["index"], each["status"]) for each in report["rejected"]] == [(1, 422), (2, 422)]
    assert "not both" in report["rejected"][0]["detail"]
