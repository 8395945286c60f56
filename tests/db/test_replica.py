"""Read replica: reads that may be a moment old, and reads that see the writes of their client."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NamedTuple
from uuid import uuid4

import asyncpg
import httpx
import pytest
from pgdbm import AsyncDatabaseManager, DatabaseConfig
from starlette.applications import Starlette

from llmring_server import Ring, Settings, build
from llmring_server.conversations.models import NewConversation
from llmring_server.core.identity import LIBRARY, ProjectId, project_of_key
from llmring_server.db import replica as replica_module
from llmring_server.db.replica import OTHER_CLUSTER, decode_position, encode_position
from llmring_server.db.repository import Repository
from llmring_server.errors import BadRequest, NotFound, Unavailable, UnsafeDatabase
from llmring_server.receipts.models import ReceiptRequest
from llmring_server.templates.models import NewTemplate
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.support.postgres_node import PostgresNode
from tests.support.replica import primary_and_replica
from tests.support.signing import keyring

POSITION, LAG = "X-LLMRing-Position", "X-LLMRing-Replica-Lag"
WRITING = re.compile(r"\b(INSERT|UPDATE|DELETE|TRUNCATE|LOCK|nextval|FOR (SHARE|NO KEY))\b")


class Nodes(NamedTuple):
    primary: PostgresNode
    replica: PostgresNode

    def settings(self, **options: object) -> Settings:
        urls = {"database_url": self.primary.url, "database_read_url": self.replica.url}
        sizes = {"database_pool_size": 2, "database_pool_overflow": 2}
        return Settings(**{"auth": "open", "max_replica_lag": 60} | urls | sizes | options)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Let the replica stay as it is."""
        await self.replica.query("SELECT pg_wal_replay_pause()")
        try:
            yield
        finally:
            await self.replica.query("SELECT pg_wal_replay_resume()")


@pytest.fixture(scope="module")
async def nodes() -> AsyncIterator[Nodes]:
    async with primary_and_replica() as (primary, replica):
        yield Nodes(primary, replica)


@pytest.fixture
async def replicated(nodes: Nodes) -> AsyncIterator[Ring]:
    async with Ring.open(nodes.settings()) as ring:
        # The replica has the tables.
        ring_at = ring.reading(await ring.position())
        async with asyncio.timeout(10):
            while ring_at.replica_lag is None:
                await ring_at.usage.stats(project_of_key("nobody"))
        yield ring


async def log(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log(project_id, NewCall(**CALL))


async def count(ring: Ring, project_id: ProjectId) -> int:
    return (await ring.usage.stats(project_id)).summary.total_requests


async def test_a_read_with_a_position_sees_the_write(
    replicated: Ring, project_id: ProjectId
) -> None:
    for number in range(1, 51):
        await log(replicated, project_id)
        reading = replicated.reading(await replicated.position())
        assert await count(reading, project_id) == number


async def test_a_read_whose_position_does_not_arrive_is_answered_by_the_primary(
    replicated: Ring, nodes: Nodes, project_id: ProjectId
) -> None:
    await log(replicated, project_id)
    await count(replicated.reading(await replicated.position()), project_id)
    async with nodes.paused():
        await log(replicated, project_id)
        stale = replicated.reading()
        assert await count(stale, project_id) == 1
        assert stale.replica_lag is not None
        fresh = replicated.reading(await replicated.position())
        assert await count(fresh, project_id) == 2
        assert fresh.replica_lag is None
        calls = [call async for call in fresh.usage.export(project_id)]
        assert len(calls) == 2


async def test_too_old_data_are_not_read(nodes: Nodes, project_id: ProjectId) -> None:
    async with Ring.open(nodes.settings(max_replica_lag=0.2)) as ring:
        await log(ring, project_id)
        async with nodes.paused():
            await log(ring, project_id)
            async with asyncio.timeout(10):
                while await count(ring.reading(), project_id) < 2:  # noqa: ASYNC110, time passes
                    await asyncio.sleep(0.05)


async def test_what_was_just_created_exists(
    replicated: Ring, nodes: Nodes, project_id: ProjectId
) -> None:
    conversations = replicated.conversations
    async with nodes.paused():
        created = await conversations.create(project_id, NewConversation(title="old"))
        assert await conversations.get(project_id, created.id) == created
        assert await conversations.messages(project_id, created.id) == []
        await conversations.update(project_id, created.id, NewConversation(title="new"))
        assert (await conversations.get(project_id, created.id)).title == "new"
        new = NewTemplate(name="t", created_by="me", system_prompt="Hello")
        template = await replicated.templates.create(project_id, new, actor=LIBRARY)
        version = await replicated.templates.version(project_id, template.id, 1)
        assert version.system_prompt == "Hello"
        with pytest.raises(NotFound):
            await replicated.templates.version(project_id, template.id, 2)


async def test_http_responses_have_the_position_and_the_lag(
    replicated: Ring, nodes: Nodes, key: str
) -> None:
    headers = {"X-API-Key": key}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=build_on(replicated, nodes)),
        base_url="http://test",
        headers=headers,
    ) as client:
        async with nodes.paused():
            logged = await client.post("/api/v1/log", json=CALL)
            position = {POSITION: logged.headers[POSITION]}
            assert len((await client.get("/api/v1/logs", headers=position)).json()) == 1
        assert (await client.get("/api/v1/logs", headers=position)).json()[0]["model"]
        listed = await client.get("/api/v1/logs")
        assert 0 <= float(listed.headers[LAG]) < 60
        assert POSITION not in listed.headers
        assert LAG in (await client.get("/api/v1/logs/export")).headers
        refused = await client.get("/api/v1/logs", headers={POSITION: "AQ"})
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


def build_on(ring: Ring, nodes: Nodes) -> Starlette:
    """Return an app on the managers of a parent: those of `ring`."""
    replica = ring._database.replica
    assert replica
    return build(ring.db, nodes.settings(), read_db=replica._database.manager)


async def test_what_is_not_yet_replayed_is_complete(nodes: Nodes, project_id: ProjectId) -> None:
    async with Ring.open(nodes.settings(), keyring()) as ring:
        for _ in range(2):
            await log(ring, project_id)
        await count(ring.reading(await ring.position()), project_id)
        logged = await ring.usage.logs(project_id)
        async with nodes.paused():
            request = ReceiptRequest(log_ids=[call.id for call in logged])
            issued = await ring.receipts.generate(project_id, request)
            id = issued["receipt"]["receipt_id"]
            reading = ring.reading()
            assert (await reading.receipts.calls(project_id, id))["total"] == 2
            exported = [each async for each in reading.receipts.export(project_id, id)]
            assert len(exported) == 2
            proof = await reading.receipts.proof(project_id, id, logged[0].id)
            assert proof["call"]
            template = await ring.templates.create(
                project_id,
                NewTemplate(name="new", system_prompt="x", created_by="test"),
                actor=LIBRARY,
            )
            assert len(await reading.templates.versions(project_id, template.id)) == 1


async def test_a_position_that_the_primary_does_not_have_is_not_waited_for(
    replicated: Ring, nodes: Nodes, project_id: ProjectId
) -> None:
    """Nor do many such reads keep others from the replica."""
    replica = replicated._database.replica
    assert replica
    await log(replicated, project_id)
    await count(replicated.reading(await replicated.position()), project_id)
    async with nodes.paused():
        readings = [replicated.reading(encode_position(2**62)) for _ in range(40)]
        assert await asyncio.gather(*(count(each, project_id) for each in readings)) == [1] * 40
        assert {each.replica_lag for each in readings} == {None}
        assert not replica.is_unreachable
        other = replicated.reading()
        assert await count(other, project_id) == 1
        assert other.replica_lag is not None


async def test_an_occupied_replica_is_not_called_unreachable(
    nodes: Nodes, project_id: ProjectId
) -> None:
    async with Ring.open(nodes.settings(acquire_timeout=0.1)) as ring:
        await log(ring, project_id)
        await count(ring.reading(await ring.position()), project_id)
        replica = ring._database.replica
        assert replica
        async with AsyncExitStack() as stack:
            for _ in range(replica._database.max_connections):
                await stack.enter_async_context(replica._database.acquire())
            assert await count(ring.reading(), project_id) == 1
        codes = [warning["code"] for warning in await ring.database_warnings()]
        assert "replica_unreachable" not in codes


@pytest.mark.parametrize("pooler", [False, True])
async def test_a_read_and_its_check_are_one_transaction_where_hosts_may_change(
    nodes: Nodes, project_id: ProjectId, *, pooler: bool
) -> None:
    read_url = nodes.replica.url + "&pgbouncer=true" * pooler
    async with Ring.open(nodes.settings(database_read_url=read_url)) as ring:
        await log(ring, project_id)
        replica, reader = ring._database.replica, ring.reading(await ring.position())._database
        assert replica
        async with replica.connect(reader) as database:
            assert database.connection
            assert database.connection.is_in_transaction() is pooler
        assert reader.read_report
        assert reader.read_report.lag is not None


def test_reading_shares_what_has_a_state(replicated: Ring) -> None:
    reading = replicated.reading()
    for name in ("_safety", "pricing", "registry", "rollups", "events"):
        assert getattr(reading, name) is getattr(replicated, name)


async def test_each_warning_is_logged_once(
    replicated: Ring, nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    app = build_on(replicated, nodes)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as client:
        for _ in range(3):
            warnings = (await client.get("/health/ready")).json()["warnings"]
            assert "fsync_off" in {warning["code"] for warning in warnings}
    assert len([text for text in caplog.messages if "fsync is off" in text]) == 1


async def test_without_a_replica_no_response_has_a_position(client: httpx.AsyncClient) -> None:
    logged = await client.post("/api/v1/log", json=CALL, headers={POSITION: "anything"})
    assert POSITION not in logged.headers
    assert LAG not in (await client.get("/api/v1/logs")).headers


async def test_what_is_in_a_transaction_is_read_there(
    replicated: Ring, nodes: Nodes, project_id: ProjectId
) -> None:
    async with nodes.paused(), replicated.db.transaction() as transaction:
        inside = replicated.within(transaction)
        await log(inside, project_id)
        assert await count(inside, project_id) == 1
        assert len([call async for call in inside.usage.export(project_id)]) == 1


async def test_a_query_in_conflict_with_replaying_is_run_on_the_primary(
    replicated: Ring, nodes: Nodes
) -> None:
    replica = replicated._database.replica
    assert replica
    reading = replicated.reading()._database
    # Longer than the replica waits until it cancels what holds a lock that it must take.
    text = "SELECT pg_is_in_recovery() FROM llmring.templates RIGHT JOIN pg_sleep(1) ON true"
    running = asyncio.create_task(replica.fetch(reading, text))
    await asyncio.sleep(0.3)
    await nodes.primary.query("DO 'BEGIN LOCK TABLE llmring.templates; END'")
    row, *_ = await running
    assert row["pg_is_in_recovery"] is False
    assert not replica.is_unreachable


async def test_while_the_replica_is_down_the_primary_answers(
    replicated: Ring,
    nodes: Nodes,
    project_id: ProjectId,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_module, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(replica_module, "MAX_PAUSE_SECONDS", 0.2)
    caplog.set_level(logging.WARNING, "llmring_server.db")
    await log(replicated, project_id)
    await nodes.replica.stop()
    for _ in range(5):
        reading = replicated.reading()
        assert await count(reading, project_id) == 1
        assert reading.replica_lag is None
    assert len(caplog.messages) == 1
    codes = [warning["code"] for warning in await replicated.database_warnings()]
    assert "replica_unreachable" in codes
    await replicated.ready()
    await nodes.replica.start()
    async with asyncio.timeout(20):
        while reading.replica_lag is None:
            await asyncio.sleep(0.05)
            await count(reading := replicated.reading(), project_id)
    assert "again" in caplog.messages[-1]


async def test_a_server_starts_without_its_replica(nodes: Nodes, project_id: ProjectId) -> None:
    settings = nodes.settings(database_read_url="postgresql://127.0.0.1:1/x")
    async with Ring.open(settings) as ring:
        await log(ring, project_id)
        assert await count(ring, project_id) == 1


async def test_a_database_of_another_cluster_is_refused(
    nodes: Nodes, url: str, replicated: Ring, project_id: ProjectId
) -> None:
    with pytest.raises(Unavailable, match=OTHER_CLUSTER):
        async with Ring.open(nodes.settings(database_read_url=url)):
            pass
    # A parent's replica is checked when it is used.
    pool = await AsyncDatabaseManager.create_shared_pool(
        DatabaseConfig(connection_string=url, min_connections=1, max_connections=2)
    )
    read_db = AsyncDatabaseManager(pool=pool, schema=replicated.db.schema)
    ring = Ring(replicated.db, nodes.settings(), read_db=read_db)
    await log(ring, project_id)
    assert await count(ring, project_id) == 1
    await ring.aclose()
    await pool.close()


async def test_a_read_url_of_the_primary_works_with_a_warning(
    nodes: Nodes, project_id: ProjectId
) -> None:
    settings = nodes.settings(database_read_url=nodes.primary.url, unsafe_database="refuse")
    async with Ring.open(settings) as ring:
        await log(ring, project_id)
        assert await count(ring.reading(await ring.position()), project_id) == 1
        codes = [warning["code"] for warning in await ring.database_warnings()]
        assert "replica_is_primary" in codes
        with pytest.raises(UnsafeDatabase) as refused:
            await ring.ready()
        # fsync is off here; that the replica is none does not matter.
        assert "LLMRING_DATABASE_READ_URL" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "x", "AQ", "AQAAAAAAAAAAAA==", "AgAAAAAAAAAB", "ä" * 12])
def test_positions_of_others_are_refused(text: str) -> None:
    assert decode_position(encode_position(2**62)) == 2**62
    with pytest.raises(BadRequest):
        decode_position(text)


def test_statements_for_a_replica_exist_and_only_read(ring: Ring) -> None:
    for service in ring.services:
        for name in type(service).replica_reads:
            assert not WRITING.search(service._sql[name].text), name
    assert sum(len(type(service).replica_reads) for service in ring.services) > 20
    assert Repository.replica_reads == frozenset()


@pytest.mark.full
async def test_10_000_reads_with_a_position_see_their_writes(nodes: Nodes) -> None:
    """The replica also stops to replay now and then, so that reads wait or go to the primary."""
    answered = {"replica": 0, "primary": 0}

    async def write_and_read(ring: Ring, tries: int) -> None:
        project_id = ProjectId(uuid4())
        for number in range(1, tries + 1):
            await log(ring, project_id)
            reading = ring.reading(await ring.position())
            assert await count(reading, project_id) == number
            answered["primary" if reading.replica_lag is None else "replica"] += 1

    async def pause_now_and_then() -> None:
        while True:
            # Replaying may cancel these queries, too.
            with suppress(asyncpg.PostgresError):
                async with nodes.paused():
                    await asyncio.sleep(0.3)
            await asyncio.sleep(0.7)

    async with Ring.open(nodes.settings(database_pool_overflow=10)) as ring:
        pausing = asyncio.create_task(pause_now_and_then())
        async with asyncio.TaskGroup() as clients:
            for _ in range(10):
                clients.create_task(write_and_read(ring, 1000))
        pausing.cancel()
        # An error of its own would mean that nothing was paused.
        with suppress(asyncio.CancelledError):
            await pausing
    assert min(answered.values()) > 50, answered


@pytest.mark.full
async def test_a_promoted_replica_is_read_as_a_primary(project_id: ProjectId) -> None:
    async with primary_and_replica() as nodes, Ring.open(Nodes(*nodes).settings()) as ring:
        primary, replica = nodes
        await log(ring, project_id)
        position = await ring.position()
        assert await count(ring.reading(position), project_id) == 1
        await primary.stop()
        await replica.promote()
        promoted = Nodes(replica, replica).settings()
        async with Ring.open(promoted) as after:
            assert await count(after.reading(position), project_id) == 1
            await log(after, project_id)
            # A position of a write that the new primary never got.
            lost = encode_position(decode_position(position or "") + 2**32)
            assert await count(after.reading(lost), project_id) == 2
