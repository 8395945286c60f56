"""Failover: several hosts, servers that take no writes any more, and connections that grow old."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Settings, build, create_app
from llmring_server.core.connection_string import parse
from llmring_server.db.connection_cache import OwnedConnection
from llmring_server.db.database import Database, open_database
from llmring_server.errors import Overloaded, Unavailable
from tests.conftest import CALL, client_of
from tests.db.test_connection_cache import pid, pool_of

LOG = "/api/v1/log"
# What a server says that was the primary before a failover.
DEMOTE = "SET default_transaction_read_only = on"


@contextmanager
def refusing() -> Iterator[str]:
    """Yield a place where nothing listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{closed.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """Yield a place that accepts connections and never answers, as a host that lost its power."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def starting() -> Iterator[str]:
    """Yield a place where a PostgreSQL is starting."""
    fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        if not writer.is_closing():
            writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
            writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.ensure_future(asyncio.start_server(refuse, sock=listener))
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    task.result().close()


def with_hosts(url: str, *places: str, role: str = "read-write") -> str:
    """Return the URL with other hosts before its own, and the role that the server must have."""
    parts, used = urlsplit(url), parse(url).parameters.used
    own = used.get("host") or parts.hostname or ""
    port = used.get("port") or str(parts.port or 5432)
    hosts = ",".join([*(place.partition(":")[0] for place in places), own])
    ports = ",".join([*(place.partition(":")[2] for place in places), port])
    credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    query = f"host={quote(hosts)}&port={ports}&sslmode=disable&target_session_attrs={role}"
    return f"postgresql://{credentials}{parts.path}?{query}"


@pytest.mark.parametrize("others", [refusing, silent, starting])
async def test_a_host_that_is_down_is_passed_over(
    settings: Settings, key: str, others: Any
) -> None:
    with others() as place:
        assert settings.database_url
        url = with_hosts(settings.database_url, place)
        changes = {"database_url": url, "migrate_on_start": False}
        changed = settings.model_copy(update=changes)
        async with client_of(create_app(settings=changed), key) as client:
            assert (await client.post(LOG, json=CALL)).status_code == 200


async def test_standbys_are_preferred_and_a_primary_will_do(settings: Settings) -> None:
    with refusing() as place:
        assert settings.database_url
        url = with_hosts(settings.database_url, place, role="prefer-standby")
        async with open_database(settings.model_copy(update={"database_url": url})) as db:
            assert await db.fetch_value("SELECT 1") == 1


async def test_if_no_host_is_usable_the_error_names_each(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.db.connect.START_TIMEOUT_SECONDS", 0)
    with refusing() as place:
        assert settings.database_url
        url = with_hosts(settings.database_url, place, role="standby")
        with pytest.raises(Unavailable) as raised:
            async with open_database(settings.model_copy(update={"database_url": url})):
                pass
    assert f"{place}: nothing listens on {place}; " in str(raised.value)
    assert "it is not standby, as target_session_attrs asks." in str(raised.value)


async def test_requests_return_503_while_no_host_takes_writes(
    settings: Settings, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.db.repository.RETRY_SECONDS", 0)
    assert settings.database_url
    async with open_database(settings) as db:
        app = build(db, settings)
        async with client_of(app, key) as client:
            pool: Any = db._pool
            # As after a failover, before the new primary has been promoted.
            pool.set_connect_args(with_hosts(settings.database_url, role="standby"), timeout=5)
            await pool.expire_connections()
            response = await client.get("/api/v1/stats")
        await app.state.ring.aclose()
    assert response.status_code == 503
    assert response.headers["Retry-After"]


@pytest.fixture
async def own(settings: Settings) -> AsyncIterator[Database]:
    """A database with a pool of three connections of its own."""
    changes = {"database_pool_size": 3, "database_pool_overflow": 0}
    async with open_database(settings.model_copy(update=changes)) as db:
        database = Database(db)
        yield database
        await database.aclose()


async def demote(manager: AsyncDatabaseManager, connections: int) -> set[int]:
    """Make `connections` of a pool's sessions take no writes; return their process ids."""
    async with AsyncExitStack() as stack:
        held: list[Any] = [
            await stack.enter_async_context(manager.acquire()) for _ in range(connections)
        ]
        for connection in held:
            await connection.execute(DEMOTE)
        return {await connection.fetchval("SELECT pg_backend_pid()") for connection in held}


async def pids(manager: AsyncDatabaseManager, connections: int) -> set[int]:
    async with AsyncExitStack() as stack:
        held: list[Any] = [
            await stack.enter_async_context(manager.acquire()) for _ in range(connections)
        ]
        return {await connection.fetchval("SELECT pg_backend_pid()") for connection in held}


@pytest.mark.direct("the sessions of a pooler are not those of the server's connections")
async def test_after_a_failover_all_connections_of_the_own_pool_are_replaced(
    own: Database, settings: Settings, key: str
) -> None:
    app = build(own.manager, settings)
    async with client_of(app, key) as client:
        demoted = await demote(own.manager, 3)
        assert (await client.post(LOG, json=CALL)).status_code == 200
    await app.state.ring.aclose()
    assert not await pids(own.manager, 3) & demoted


@pytest.mark.direct("the sessions of a pooler are not those of the server's connections")
async def test_of_a_parents_pool_only_the_read_only_connections_are_ended(
    role_url: str, db: AsyncDatabaseManager, key: str
) -> None:
    # A reset would undo what stands for a failover here.
    own: dict[str, Any] = {"connection_class": OwnedConnection}
    async with asyncpg.create_pool(role_url, min_size=3, max_size=3, **own) as pool:
        manager = AsyncDatabaseManager(pool=pool, schema=db.schema)
        before = await pids(manager, 3)
        # The pool hands out the connection that was released last.
        [demoted] = await demote(manager, 1)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=build(manager, Settings(auth="open"))),
            base_url="http://test",
            headers={"X-API-Key": key},
        ) as client:
            assert (await client.post(LOG, json=CALL)).status_code == 200
        assert before - await pids(manager, 3) == {demoted}


@pytest.mark.direct("the sessions of a pooler are not those of the server's connections")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_if_a_server_does_not_answer_all_connections_of_the_own_pool_are_replaced(
    settings: Settings,
) -> None:
    changes = {"database_pool_size": 3, "database_pool_overflow": 0}
    settings = settings.model_copy(update={**changes, "statement_timeout": 0.1})
    async with open_database(settings) as db:
        database = Database(db, settings)
        silent = await pids(db, 3)
        for process in silent:
            # As a host that lost its power: its end of the connections does nothing any more.
            os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(Overloaded):
                await database.fetch("SELECT 1")
            assert not await pids(db, 3) & silent
        finally:
            for process in silent:
                os.kill(process, signal.SIGCONT)
        await database.aclose()


@pytest.mark.direct("the sessions of a pooler are not those of the server's connections")
@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ReadOnlySQLTransactionError("25006"),
        asyncpg.AdminShutdownError("57P01"),
        asyncpg.CrashShutdownError("57P02"),
        asyncpg.CannotConnectNowError("57P03"),
        asyncpg.ConnectionFailureError("08006"),
        asyncpg.ProtocolViolationError("08P01"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["own", "parent"])
async def test_these_errors_end_their_connection(
    own: Database, role_url: str, kind: str, error: Exception
) -> None:
    async def fail(database: Database) -> int:
        async with database.acquire() as connection:
            backend: int = await connection.fetchval("SELECT pg_backend_pid()")
            raise error
        return backend

    async with asyncpg.create_pool(role_url, min_size=1, max_size=1) as pool:
        database = own if kind == "own" else Database(AsyncDatabaseManager(pool=pool))
        size = 3 if kind == "own" else 1
        before = await pids(database.manager, size)
        with pytest.raises(type(error)):
            await fail(database)
        assert before - await pids(database.manager, size)


async def test_another_error_does_not_end_its_connection(own: Database) -> None:
    before = await pids(own.manager, 3)
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with own.acquire() as connection:
            await connection.fetch("SELECT 1 / 0")
    assert await pids(own.manager, 3) == before


@pytest.mark.direct("the sessions of a pooler are not those of the server's connections")
@pytest.mark.parametrize(("age", "is_replaced"), [(0, False), (0.001, True), (1800, False)])
async def test_a_connection_beyond_the_maximum_age_is_replaced(
    settings: Settings,
    age: float,
    is_replaced: bool,  # noqa: FBT001, a parameter of a test
) -> None:
    changes = {"database_pool_size": 1, "database_pool_overflow": 0}
    settings = settings.model_copy(update={**changes, "database_max_connection_age": age})
    async with open_database(settings) as db:
        database = Database(db)
        first = await pid(database)
        await asyncio.sleep(0.002)
        assert (await pid(database) != first) is is_replaced
        assert pool_of(database).get_size() == 1
