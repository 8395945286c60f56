"""Fixtures of pytest for applications that embed the server.

Name this module in your conftest: `pytest_plugins = ["llmring_server.testing"]`. It needs pytest
and pytest-asyncio. See docs/embedding.md for what each fixture is for.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
from pgdbm import AsyncDatabaseManager, DatabaseConfig
from starlette.applications import Starlette

from llmring_server.asgi import build, create_app
from llmring_server.cli.environment import server_for_tests
from llmring_server.db import admin
from llmring_server.db.embedded_postgres import default_data_dir
from llmring_server.db.migrations import migrate
from llmring_server.settings import NO_REGISTRY, Settings

try:
    import pytest
    import pytest_asyncio
except ImportError as exc:
    raise ImportError(
        "llmring_server.testing needs pytest and pytest-asyncio: `pip install pytest"
        " pytest-asyncio`."
    ) from exc

SCHEMA = "llmring_test"
API_KEY = "test"
MOUNT_PATH = "/llmring"

Mode = Literal["standalone", "mounted"]
MODES: tuple[Mode, ...] = ("standalone", "mounted")

POOL_SIZE = 5


@pytest.fixture(scope="session")
def llmring_data_dir() -> Path:
    """Where the embedded PostgreSQL has its data, if no TEST_DB_* variable names a server.

    It stays there after the tests, so that the next run starts quickly.
    """
    data_dir = default_data_dir()
    return data_dir.with_name(data_dir.name + "-tests")


@pytest.fixture(scope="session")
def llmring_server_url(llmring_data_dir: Path) -> Iterator[str]:
    """The URL of the PostgreSQL in which databases for tests are created."""
    with server_for_tests(llmring_data_dir) as url:
        yield url


@pytest.fixture(scope="session")
def llmring_template(llmring_server_url: str) -> Iterator[str]:
    """The name of a migrated database without rows, to create copies of."""
    url = admin.throwaway_url(llmring_server_url)
    _run(_create_template(url))
    try:
        yield admin.database_name(url)
    finally:
        _run(admin.drop_database(url))


@pytest.fixture
def llmring_database_url(llmring_server_url: str, llmring_template: str) -> Iterator[str]:
    """The URL of a new, migrated database, which is dropped after the test."""
    url = admin.throwaway_url(llmring_server_url)
    _run(admin.create_database(url, throwaway=True, template=llmring_template))
    try:
        yield url
    finally:
        _run(admin.drop_database(url))


@pytest_asyncio.fixture
async def llmring_db(llmring_database_url: str) -> AsyncIterator[AsyncDatabaseManager]:
    """A parent's manager of a new, migrated database, with a pool of its own."""
    async with _manager(llmring_database_url) as db:
        yield db


@pytest.fixture
def llmring_settings(llmring_database_url: str) -> Settings:
    """The settings of `llmring_app`: any API key names a project, and nothing is fetched."""
    return Settings(
        database_url=llmring_database_url,
        database_schema=SCHEMA,
        database_pool_size=1,
        database_pool_overflow=POOL_SIZE - 1,
        auth="open",
        registry_url=NO_REGISTRY,
    )


@pytest.fixture
def llmring_mode() -> Mode:
    """How `llmring_app` gets its database: `mounted` (from its parent) or `standalone`."""
    return "mounted"


@pytest_asyncio.fixture
async def llmring_app(
    llmring_mode: Mode, llmring_settings: Settings, llmring_database_url: str
) -> AsyncIterator[Starlette]:
    """The server's app, on the same database as `llmring_db`."""
    if llmring_mode == "standalone":
        app = create_app(settings=llmring_settings)
        async with app.router.lifespan_context(app):
            yield app
        return
    if llmring_mode != "mounted":
        raise ValueError(f"llmring_mode: must be one of {', '.join(MODES)}")
    async with _manager(llmring_database_url) as db:
        app = build(db, llmring_settings)
        yield app
        await app.state.ring.aclose()


@pytest_asyncio.fixture
async def llmring_client(
    llmring_app: Starlette, llmring_mode: Mode
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of `llmring_app` with an API key; the app is below a path in mode `mounted`."""
    app, path = llmring_app, ""
    if llmring_mode == "mounted":
        app, path = Starlette(), MOUNT_PATH
        app.mount(path, llmring_app)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app),
        base_url=f"http://test{path}",
        headers={"X-API-Key": API_KEY},
    ) as client:
        yield client


def _run(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine in a loop of its own, whatever loop pytest uses."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, work).result()


async def _create_template(url: str) -> None:
    await admin.create_database(url, throwaway=True)
    async with _manager(url) as db:
        await migrate(db)


@asynccontextmanager
async def _manager(url: str) -> AsyncIterator[AsyncDatabaseManager]:
    config = DatabaseConfig(connection_string=url, min_connections=1, max_connections=POOL_SIZE)
    pool = await AsyncDatabaseManager.create_shared_pool(config)
    try:
        yield AsyncDatabaseManager(pool=pool, schema=SCHEMA)
    finally:
        await pool.close()
