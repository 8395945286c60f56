"""llmemory: it and the server in one program, on separate pools or on one."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

import asyncpg
import pytest
from llmemory import LLMemory
from pgdbm import AsyncDatabaseManager, DatabaseConfig, SchemaManager
from pgdbm.errors import MigrationError

from llmring_server import Ring, Settings, migrate
from llmring_server.core.identity import project_of_key
from llmring_server.db.database import Pool
from llmring_server.usage.models import NewCall
from tests.conftest import CALL, SCHEMA
from tests.support.llmemory import (
    OWNER,
    add,
    config_without_models,
    found,
    has_extension,
    memory_on,
    offline_tokenizer,
    require_vector,
)
from tests.support.postgres import database

ENTRY = NewCall(**CALL, cost=Decimal(1))
PROJECT = project_of_key(OWNER)
TEXT = "Invoices are paid within thirty days."
# The only search path of a shared pool under which llmemory's migrations apply.
LLMEMORY_PATH = "llmemory, public"
DEFAULT = "pg_catalog"


pytestmark = pytest.mark.usefixtures("_vector", "_tokenizer", "_pools")


@pytest.fixture(scope="module")
async def _vector(server_url: str) -> None:
    await require_vector(server_url)


@pytest.fixture
def _tokenizer() -> Iterator[None]:
    with offline_tokenizer():
        yield


@pytest.fixture
async def fresh_url(server_url: str) -> AsyncIterator[str]:
    """An empty database."""
    async with database(server_url, "llmemory") as url:
        yield url


@pytest.fixture
async def migrated_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A database with the server's tables in the schema that tests share."""
    async with database(server_url, "llmemory", template) as url:
        yield url


@pytest.fixture
def _pools(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every pool that is open after the test, such as those of llmemory after a failure."""
    pools = []
    create_pool = asyncpg.create_pool

    def create(*args: Any, **kwargs: Any) -> Pool:
        pools.append(create_pool(*args, **kwargs))
        return pools[-1]

    monkeypatch.setattr(asyncpg, "create_pool", create)
    yield
    for pool in pools:
        pool.terminate()


async def shared_pool(url: str, search_path: str | None = LLMEMORY_PATH) -> Pool:
    config = DatabaseConfig(
        connection_string=url,
        min_connections=1,
        max_connections=4,
        shared_pool_search_path=search_path,
    )
    return await AsyncDatabaseManager.create_shared_pool(config)


async def open_memory(pool: Pool, schema: str = "llmemory") -> LLMemory:
    """Migrate llmemory in its schema on a shared pool. pgdbm does not create the schema."""
    db = AsyncDatabaseManager(pool=pool, schema=schema)
    await SchemaManager(db).ensure_schema_exists()
    memory = memory_on(db)
    await memory.initialize()
    return memory


async def requests(ring: Ring) -> int:
    return (await ring.usage.stats(PROJECT)).summary.total_requests


@dataclass
class Assistant:
    """A library on llmemory and the server: it answers from documents, and records its calls.

    It opens a database of its own, or works on the managers of an application.
    """

    memory: LLMemory
    ring: Ring

    @classmethod
    async def attached(cls, memory_db: AsyncDatabaseManager, ring_db: AsyncDatabaseManager) -> Self:
        """Migrate both, each in the schema of its manager."""
        await SchemaManager(memory_db).ensure_schema_exists()
        assistant = cls(memory_on(memory_db), Ring(ring_db))
        await assistant.memory.initialize()
        await migrate(ring_db)
        return assistant

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str) -> AsyncIterator[Self]:
        """Open a pool, which is closed at the end."""
        pool = await shared_pool(url)
        memory_db = AsyncDatabaseManager(pool=pool, schema="llmemory")
        assistant = await cls.attached(memory_db, AsyncDatabaseManager(pool=pool, schema="llmring"))
        yield assistant
        await assistant.close()
        await pool.close()

    async def answer(self, question: str) -> str:
        [context, *_] = await found(self.memory, question)
        await self.ring.usage.log(PROJECT, ENTRY)
        return context

    async def close(self) -> None:
        await self.memory.close()
        await self.ring.aclose()


async def test_each_has_a_pool_of_its_own(migrated_url: str) -> None:
    config = DatabaseConfig(
        connection_string=migrated_url, schema="llmemory", min_connections=1, max_connections=2
    )
    own = AsyncDatabaseManager(config)
    await own.connect()
    memory = memory_on(own)
    await memory.initialize()
    settings = Settings(
        database_url=migrated_url, database_schema=SCHEMA, database_pool_size=1, auth="open"
    )
    async with Ring.open(settings) as ring:
        assert await add(memory, TEXT) > 0
        await ring.usage.log(PROJECT, ENTRY)
        assert await found(memory, "invoices")
        assert await requests(ring) == 1
    await memory.close()
    await own.disconnect()


async def test_another_library_uses_both(fresh_url: str) -> None:
    async with Assistant.opened(fresh_url) as assistant:
        await add(assistant.memory, TEXT)
        assert "Invoices" in await assistant.answer("When are invoices paid?")
        assert await requests(assistant.ring) == 1


async def test_an_application_gives_each_a_schema_on_its_pool(migrated_url: str) -> None:
    pool = await shared_pool(migrated_url)
    orders = AsyncDatabaseManager(pool=pool, schema="orders")
    await SchemaManager(orders).ensure_schema_exists()
    await orders.execute("CREATE TABLE {{tables.orders}} (id int, document text)")
    # The search path names one schema for llmemory, so the library uses it, too.
    memory_db = AsyncDatabaseManager(pool=pool, schema="llmemory")
    ring_db = AsyncDatabaseManager(pool=pool, schema=SCHEMA)
    assistant = await Assistant.attached(memory_db, ring_db)
    memory = await open_memory(pool)
    await add(memory, TEXT)
    await assistant.answer("When are invoices paid?")
    await orders.execute("INSERT INTO {{tables.orders}} VALUES (1, $1)", TEXT)
    # Both write within the same pool at the same time.
    await asyncio.gather(
        *(assistant.ring.usage.log(PROJECT, ENTRY) for _ in range(20)),
        *(add(memory, f"{number} orders") for number in range(5)),
    )
    assert await requests(assistant.ring) == 21
    assert (await memory.get_statistics(OWNER)).document_count == 6
    assert await found(assistant.memory, "orders", "text")
    assert await orders.fetch_value("SELECT count(*) FROM {{tables.orders}}") == 1
    await memory.close()
    await assistant.close()
    await pool.close()


async def test_they_close_in_any_order(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Every write starts a move of sums to the rollups, which closing has to end.
    monkeypatch.setattr("llmring_server.usage.rollups.MOVE_INTERVAL_SECONDS", -1)
    tasks = asyncio.all_tasks()
    for order in itertools.permutations(("ring", "memory", "pool")):
        pool = await shared_pool(migrated_url)
        ring = Ring(AsyncDatabaseManager(pool=pool, schema=SCHEMA))
        memory = await open_memory(pool)
        await add(memory, TEXT)
        await ring.usage.log(PROJECT, ENTRY)
        closing = {"ring": ring.aclose, "memory": memory.close, "pool": pool.close}
        async with asyncio.timeout(10):
            for name in order:
                await closing[name]()
        assert asyncio.all_tasks() == tasks, order
    # If the pool closes first, a move may fail: that is a warning.
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "search_path",
    [
        DEFAULT,
        pytest.param("public", marks=pytest.mark.full),
        pytest.param(None, marks=pytest.mark.full),
        LLMEMORY_PATH,
    ],
)
async def test_only_its_own_search_path_suits_llmemory_and_every_one_suits_the_server(
    search_path: str | None, fresh_url: str
) -> None:
    pool = await shared_pool(fresh_url, search_path)
    if search_path == LLMEMORY_PATH:
        memory = await open_memory(pool)
        assert await add(memory, TEXT) > 0
        await memory.close()
    else:
        problem = 'type "vector"' if search_path == DEFAULT else "idx_embeddings_openai_3_small"
        with pytest.raises(MigrationError, match=problem):
            await open_memory(pool)
    db = AsyncDatabaseManager(pool=pool, schema="llmring")
    await migrate(db)
    ring = Ring(db)
    await ring.usage.log(PROJECT, ENTRY)
    assert await requests(ring) == 1
    await ring.aclose()
    await pool.close()


@pytest.mark.full
async def test_llmemory_that_is_migrated_works_on_a_pool_with_the_search_path_public(
    migrated_url: str,
) -> None:
    pool = await shared_pool(migrated_url)
    await (await open_memory(pool)).close()
    await pool.close()
    pool = await shared_pool(migrated_url, "public")
    memory = await open_memory(pool)
    assert await add(memory, TEXT) > 0
    assert await found(memory, "invoices")
    await memory.close()
    await pool.close()


async def test_llmemory_with_a_connection_string_needs_pgcrypto(
    fresh_url: str, server_url: str
) -> None:
    """docs/embedding.md says so: the embedded PostgreSQL does not have this extension."""
    if await has_extension(server_url, "pgcrypto"):
        pytest.skip("this PostgreSQL has the extension pgcrypto")
    memory = LLMemory(connection_string=fresh_url, config=config_without_models())
    with pytest.raises(ValueError, match="pgcrypto extension not available"):
        await memory.initialize()
