"""Fairness: what one project sends is no reason to refuse another, and delays it only little."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import NewCall, Ring, Settings, build
from llmring_server.core import time_slices
from llmring_server.core.fair_queue import FairSlots, QueueLimits, SlotLimits
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.errors import Overloaded, RingError
from llmring_server.usage.models import LogResult
from tests.conftest import CALL
from tests.support.conversations import exchange

BATCH = "/api/v1/logs/batch"


def call(**fields: Any) -> NewCall:
    return NewCall(**CALL | {"cost": 1} | fields)


@pytest.fixture
def other_id(key: str) -> ProjectId:
    return project_of_key("other" + key)


@asynccontextmanager
async def locked_calls(owner: AsyncDatabaseManager) -> AsyncIterator[None]:
    """Lock the table of calls, so that whatever is logged waits."""
    async with owner.transaction() as transaction:
        await transaction.execute("LOCK TABLE {{tables.usage_logs}}")
        yield


async def wait_for_locks(owner: AsyncDatabaseManager, number: int) -> None:
    """Return once this many statements wait for the table of calls."""
    async with asyncio.timeout(10):
        while True:
            waiting = await owner.fetch_value(
                "SELECT count(*) FROM pg_locks WHERE NOT granted"
                " AND relation = '{{tables.usage_logs}}'::regclass"
            )
            if waiting == number:
                return


@asynccontextmanager
async def client_of(ring: Ring, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=build(ring.db, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_calls_behind_those_of_another_project_are_in_the_next_commit(
    settings: Settings, owner: AsyncDatabaseManager, project_id: ProjectId, other_id: ProjectId
) -> None:
    limits = {"log_max_pending": 16, "log_batch_size": 2, "log_concurrent_commits": 1}
    # No commit may fail while the table is locked.
    limits |= {"lock_timeout": 10}
    async with Ring.open(settings.model_copy(update=limits)) as ring:
        async with locked_calls(owner):
            first = asyncio.create_task(ring.usage.log(project_id, call()))
            await wait_for_locks(owner, 1)
            flood = [asyncio.create_task(ring.usage.log(project_id, call())) for _ in range(6)]
            done, waiting = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
            refused = [task.exception() for task in done]
            assert len(waiting) == 4
            assert all(isinstance(exc, Overloaded) for exc in refused)
            assert "of your project" in str(refused[0])
            quiet = asyncio.create_task(ring.usage.log(other_id, call()))
            await asyncio.sleep(0)
        results = await asyncio.gather(first, *waiting)
        ids = [result.log_id for result in results]
        transactions = "SELECT xmin::text FROM {{tables.usage_logs}} WHERE id = ANY ($1)"
        [of_quiet] = await ring.db.fetch_all(transactions, [(await quiet).log_id])
        of_flood = sorted(int(row["xmin"]) for row in await ring.db.fetch_all(transactions, ids))
    # The first call; one of each project; the other three.
    assert of_flood[1] == int(of_quiet["xmin"])
    assert len(set(of_flood)) == 4


@pytest.mark.parametrize("query", ["", "?partial=true"])
async def test_batches_of_one_project_are_refused_and_those_of_others_are_stored(
    settings: Settings, owner: AsyncDatabaseManager, key: str, query: str
) -> None:
    limits = {"log_max_pending": 16, "lock_timeout": 10, "acquire_timeout": 10}
    limited = settings.model_copy(update=limits)
    async with Ring.open(limited) as ring, client_of(ring, limited) as client:

        def send(name: str, calls: int = 3) -> asyncio.Task[httpx.Response]:
            body = [call().model_dump(mode="json", exclude_unset=True)] * calls
            headers = {"X-API-Key": name + key}
            return asyncio.create_task(client.post(BATCH + query, json=body, headers=headers))

        async with locked_calls(owner):
            # One is written and two wait: with the first of them, less waits than may.
            flood = [send("flooding") for _ in range(5)]
            done: set[asyncio.Task[httpx.Response]] = set()
            while len(done) < 2:
                more, _ = await asyncio.wait(set(flood) - done, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            for response in [task.result() for task in done]:
                assert response.status_code == 503
                assert response.json()["code"] == "overloaded"
                assert "of your project" in response.json()["detail"]
                assert response.headers["Retry-After"] == "1"
            quiet = [send("quiet", 20), send("quiet")]
            await wait_for_locks(owner, 2)
        responses = await asyncio.gather(*flood, *quiet)
    assert sorted(response.status_code for response in responses) == [200] * 5 + [503] * 2
    logged = [len(each.json()["logged"]) for each in responses if each.status_code == 200]
    assert sorted(logged) == [3, 3, 3, 3, 20]


async def test_exchanges_that_wait_leave_connections_for_other_projects(
    settings: Settings, owner: AsyncDatabaseManager, project_id: ProjectId, other_id: ProjectId
) -> None:
    limits = {"lock_timeout": 10, "acquire_timeout": 10}
    async with Ring.open(settings.model_copy(update=limits)) as ring:
        id = (await ring.conversations.create(project_id)).id
        async with owner.transaction() as transaction:
            await transaction.execute(
                "SELECT 1 FROM {{tables.conversations}} WHERE id = $1 FOR UPDATE", id
            )
            flood = [
                asyncio.create_task(
                    ring.conversations.log(project_id, exchange(conversation_id=str(id)))
                )
                for _ in range(8)
            ]
            await asyncio.wait(flood, timeout=0)
            async with asyncio.timeout(5):
                await ring.usage.log(other_id, call())
                await ring.conversations.log(other_id, exchange())
            assert not any(task.done() for task in flood)
        await asyncio.gather(*flood)
        assert (await ring.conversations.get(project_id, id)).message_count == 24


@pytest.fixture
async def refusing(alone: Ring) -> Ring:
    """A ring whose database refuses some calls, and counts the statements that insert calls."""
    await alone.db.execute(
        """
        CREATE TABLE {{schema}}.statements (calls integer);
        CREATE FUNCTION {{schema}}.count_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO {{schema}}.statements SELECT count(*) FROM new_rows;
            RETURN NULL;
        END $$;
        CREATE TRIGGER counting AFTER INSERT ON {{tables.usage_logs}}
            REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
            EXECUTE FUNCTION {{schema}}.count_statement();
        ALTER TABLE {{tables.usage_logs}} ADD CHECK (alias <> 'bug');
        CREATE FUNCTION {{schema}}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE numeric_value_out_of_range;
        END $$;
        CREATE TRIGGER refusing BEFORE INSERT ON {{tables.usage_logs}} FOR EACH ROW
            WHEN (NEW.alias = 'value') EXECUTE FUNCTION {{schema}}.refuse();
        """
    )
    return alone


async def statements(ring: Ring) -> list[int]:
    rows = await ring.db.fetch_all("SELECT calls FROM {{schema}}.statements ORDER BY ctid")
    return [row["calls"] for row in rows]


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_batch_in_parts_is_one_statement(refusing: Ring, key: str, keyed: bool) -> None:  # noqa: FBT001, a parameter of the test
    body = [CALL | {"alias": str(n)} for n in range(1000)]
    headers = {"X-API-Key": key} | ({"Idempotency-Key": "key"} if keyed else {})
    async with client_of(refusing, Settings(auth="open")) as client:
        url = BATCH + "?partial=true"
        first = await client.post(url, json=[*body[:-1], {"bad": 1}], headers=headers)
        assert len(first.json()["logged"]) == 999
        assert [each["index"] for each in first.json()["rejected"]] == [999]
        again = await client.post(url, json=body, headers=headers)
    assert len(again.json()["logged"]) == 1000
    assert (first.json()["logged"] == again.json()["logged"][:999]) == keyed
    assert await statements(refusing) == [999, 1 if keyed else 1000]


@pytest.mark.parametrize(("alias", "status"), [("value", 422), ("bug", 500)])
async def test_of_a_batch_in_parts_only_the_call_that_the_database_refuses_is_rejected(
    refusing: Ring, key: str, alias: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    body: list[dict[str, Any]] = [CALL] * 1000
    body[700] = CALL | {"alias": alias}
    async with client_of(refusing, Settings(auth="open")) as client:
        response = await client.post(BATCH + "?partial=true", json=body, headers={"X-API-Key": key})
    assert response.status_code == 200
    [rejected] = response.json()["rejected"]
    assert (rejected["index"], rejected["status"]) == (700, status)
    logged = [each["index"] for each in response.json()["logged"]]
    assert logged == [n for n in range(1000) if n != 700]
    assert sum(await statements(refusing)) == 999
    # Halved until it was alone.
    assert len(await statements(refusing)) == 10
    assert ("CheckViolation" in caplog.text) == (status == 500)


async def test_a_call_that_the_database_refuses_does_not_end_the_callers_transaction(
    refusing: Ring, project_id: ProjectId
) -> None:
    calls = [call(alias=alias) for alias in ("a", "value", "b")]
    async with refusing.db.transaction() as transaction:
        inside = refusing.within(transaction)
        await inside.usage.log(project_id, call())
        outcomes = await inside.usage.log_each(project_id, calls)
        assert [isinstance(outcome, LogResult) for outcome in outcomes] == [True, False, True]
    assert len(await refusing.usage.logs(project_id)) == 3


async def test_a_held_key_leaves_the_settings_of_the_callers_transaction(
    ring: Ring, owner: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    async with owner.transaction() as holding, ring.db.transaction() as transaction:
        await ring.within(holding).usage.log(project_id, call(), "held")
        before = await transaction.fetch_value("SHOW lock_timeout")
        inside = ring.within(transaction)
        held, free = await inside.usage.log_each(
            project_id, [call(idempotency_key="held"), call(idempotency_key="free")]
        )
        assert (isinstance(held, RingError), isinstance(free, LogResult)) == (True, True)
        assert await transaction.fetch_value("SHOW lock_timeout") == before


async def test_each_call_has_its_own_outcome(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log(project_id, call(), "used")
    calls: list[NewCall | RingError] = [
        call(alias="a"),
        Overloaded(),
        call(alias="a\0b"),
        call(idempotency_key="used"),
        call(idempotency_key="used", alias="another"),
        call(idempotency_key="new"),
        call(idempotency_key="new"),
    ]
    outcomes = await ring.usage.log_each(project_id, calls)
    assert [each.replayed if isinstance(each, LogResult) else each.status for each in outcomes] == [
        False,
        503,
        422,
        True,
        422,
        False,
        True,
    ]
    assert await ring.usage.log_each(project_id, [calls[1]]) == [calls[1]]
    async with ring.db.transaction() as transaction:
        inside = await ring.within(transaction).usage.log_each(project_id, [call()])
        assert isinstance(inside[0], LogResult)


# Slots.


def slots(in_all: int, of_project: int, timeout: float = 10, max_pending: int = 8) -> FairSlots:
    limits = SlotLimits(in_all, of_project)
    return FairSlots(lambda: limits, QueueLimits(max_pending, 0.25), timeout)


class Workers:
    """Tasks that occupy slots until they are told to end."""

    def __init__(self, slots: FairSlots) -> None:
        self.slots = slots
        self.working: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}

    async def start(self, *names: str) -> None:
        """Start workers; the first letter of a name is that of its project."""
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._work(name))
        await asyncio.sleep(0)

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        for _ in range(3):
            await asyncio.sleep(0)

    async def _work(self, name: str) -> None:
        async with self.slots.slot(name[0]):
            self.working.append(name)
            await self.ends[name].wait()


async def test_projects_take_turns_for_slots() -> None:
    workers = Workers(slots(3, 2, max_pending=16))
    await workers.start("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    assert workers.working == ["a1", "a2", "b1"]
    for ending in ("a1", "b1", "a2", "a3", "c1"):
        await workers.end(ending)
    assert workers.working == ["a1", "a2", "b1", "a3", "b2", "c1", "a4"]
    for ending in ("b2", "a4"):
        await workers.end(ending)
    assert not workers.slots._occupied
    assert not workers.slots._waiting


async def test_a_worker_that_is_cancelled_leaves_its_slot_or_its_place() -> None:
    workers = Workers(slots(1, 1))
    await workers.start("a1", "a2", "a3")
    await workers.start("b1")
    with pytest.raises(Overloaded):
        async with workers.slots.slot("a"):
            pass
    workers.tasks["a2"].cancel()
    await asyncio.wait([workers.tasks["a2"]])
    await workers.start("a4")
    # Granted and cancelled before it could begin.
    workers.ends["a1"].set()
    await asyncio.sleep(0)
    workers.tasks["a3"].cancel()
    await asyncio.wait([workers.tasks["a3"]])
    await workers.end("b1")
    await workers.end("a4")
    assert workers.working == ["a1", "b1", "a4"]
    assert not workers.slots._occupied
    assert not workers.slots._waiting


async def test_who_waits_too_long_is_refused() -> None:
    workers = Workers(slots(1, 1, timeout=0.01))
    await workers.start("a1")
    with pytest.raises(Overloaded):
        async with workers.slots.slot("a"):
            pass
    await workers.end("a1")
    await workers.start("a2")
    assert workers.working == ["a1", "a2"]
    await workers.end("a2")


async def test_between_two_slices_everything_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_slices, "SLICE_SECONDS", -1)
    events: list[str] = []

    async def work(name: str) -> None:
        of_work = time_slices.TimeSlices()
        for _ in range(5):
            await of_work.pause()
            events.append(name)

    working = asyncio.gather(*map(work, "abc"))
    while not working.done():
        await asyncio.sleep(0)
        events.append("")
    assert sorted(filter(None, events)) == sorted("abc" * 5)
    assert not any(one and two for one, two in pairwise(events))
