"""Fixtures: one database per worker, one fresh project per test, and apps.

`client` is for most tests. Its app is new, but its pool is that of all tests: opening one for each
test takes longer than most tests do. `client_of_each_kind` runs a test twice, with an app that
opens and closes its own database, and with one below a path of a parent, on the parent's pool: for
what concerns paths, links, starting and stopping. tests/embedding/test_routes.py compares every
route of the two.
"""

import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager, DatabaseConfig
from starlette.applications import Starlette

from llmring_server import Ring, Settings, build, create_app, migrate
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.db import admin
from llmring_server.db.database import open_database
from llmring_server.pricing.cost import USAGE_FIELDS, TokenUsage, normalize_usage
from llmring_server.pricing.token_semantics import ReportedTokens
from tests.support.fake_registry import FakeRegistry, fake_registry
from tests.support.pooler import allow, expect_pooler, is_between
from tests.support.postgres import database, run_folder, shared_server

# Only tests with a fake registry fetch anything.
Settings.model_fields["registry_url"].default = "none"
Settings.model_rebuild(force=True)

if is_between():
    expect_pooler()

# What pgdbm must be told behind a pooler.
BEHIND_POOLER: dict[str, Any] = {"statement_cache_size": 0, "shared_pool_search_path": None}

SCHEMA = "tested"

CALL: dict[str, Any] = {
    "provider": "openai",
    "model": "gpt-4o-mini",
    "input_tokens": 1000,
    "output_tokens": 200,
}


def used(call: dict[str, Any]) -> TokenUsage:
    """Return the usage that a call reports, by kind."""
    reported = {*USAGE_FIELDS, "cache_tokens_included", "reasoning_tokens_included"}
    details = {name: count for name, count in call.items() if name in reported}
    tokens = call["input_tokens"], call["output_tokens"], call.get("cached_input_tokens", 0)
    return normalize_usage(
        ReportedTokens(call["provider"], call.get("model", ""), *tokens, details)
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked `full`, too")


def pytest_configure(config: pytest.Config) -> None:
    """Create the folder of the run, once for all workers."""
    if not hasattr(config, "workerinput"):
        stack = ExitStack()
        stack.enter_context(run_folder())
        config.add_cleanup(stack.close)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run each file in one worker, unless it names a group, and start with the slow tests.

    Behind a pooler, skip what is marked `direct`.

    Leave out what is marked `full`, unless --full is given.
    """
    if not config.getoption("--full"):
        full = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if item not in full]
    for item in items:
        if is_between() and (direct := item.get_closest_marker("direct")):
            item.add_marker(pytest.mark.skip(reason=direct.args[0]))
        # Tests that kill processes or test timeouts are one group: no two run at the same time.
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of a PostgreSQL to test on: TEST_DATABASE_URL, or one that all workers share."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with shared_server() as url:
        yield url


@pytest.fixture(scope="session")
async def template(server_url: str) -> AsyncIterator[str]:
    """The name of a migrated database without connections, to create copies of."""
    async with database(server_url, "template", may_be_pooled=False) as url:
        async with pool_of(url, SCHEMA) as db:
            await migrate(db)
        yield admin.database_name(url)


@pytest.fixture(scope="session")
async def url(server_url: str, template: str) -> AsyncIterator[str]:
    """The URL of a migrated database that all tests of this worker share."""
    async with database(server_url, "worker", template) as url:
        yield url


def pool_of(url: str, schema: str) -> AbstractAsyncContextManager[AsyncDatabaseManager]:
    """Open a parent's manager, with a pool that pgdbm creates."""

    @asynccontextmanager
    async def open_pool() -> AsyncIterator[AsyncDatabaseManager]:
        pool = await AsyncDatabaseManager.create_shared_pool(
            DatabaseConfig(
                connection_string=url,
                min_connections=1,
                max_connections=5,
                **(BEHIND_POOLER if is_between() else {}),
            )
        )
        yield AsyncDatabaseManager(pool=pool, schema=schema)
        await pool.close()

    return open_pool()


def grants(role: str, schema: str) -> str:
    """Return the grants of docs/deployment.md for a role that serves."""
    text = (Path(__file__).parent.parent / "docs" / "deployment.md").read_text()
    [statements] = re.findall(r"```sql\n(CREATE ROLE .*?)```", text, re.DOTALL)
    statements = statements.replace("llmring_app", role).replace("llmring", schema)
    return str(statements.replace("mcp_client", f"{schema}_mcp"))


async def drop(db: AsyncDatabaseManager, schema: str) -> None:
    """Drop a schema, and that of MCP beside it, if they exist."""
    await db.execute(f"DROP SCHEMA IF EXISTS {schema}, {schema}_mcp CASCADE")


@pytest.fixture(scope="session")
async def owner(url: str) -> AsyncIterator[AsyncDatabaseManager]:
    """The manager of the role that migrates, of the schema that all tests share."""
    async with pool_of(url, SCHEMA) as owner:
        yield owner


@pytest.fixture(scope="session")
async def role_url(url: str, owner: AsyncDatabaseManager) -> AsyncIterator[str]:
    """The URL of a role with the documented grants, and no others."""
    role = f"role_{uuid4().hex[:8]}"
    await owner.execute(grants(role, owner.schema or "").replace("'...'", f"'{role}'"))
    # A parent's sessions may not be in UTC: in this zone, two days a year have 23 or 25 hours.
    await owner.execute(f"ALTER ROLE {role} SET timezone = 'America/St_Johns'")
    parts = urlsplit(url)
    role_url = parts._replace(netloc=f"{role}:{role}@{parts.netloc.rpartition('@')[2]}").geturl()
    if is_between():
        for setting in ("statement_timeout = '10s'", "lock_timeout = '2s'"):
            await owner.execute(f"ALTER ROLE {role} SET {setting}")
        await allow(role, role_url)
    yield role_url
    await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture(scope="session")
async def db(owner: AsyncDatabaseManager, role_url: str) -> AsyncIterator[AsyncDatabaseManager]:
    """A parent's manager, with a role that can create nothing."""
    async with pool_of(role_url, owner.schema or "") as db:
        yield db


def settings_of(role_url: str, db: AsyncDatabaseManager) -> Settings:
    return Settings(
        database_url=role_url,
        database_schema=db.schema or "public",
        database_pool_size=2,
        database_pool_overflow=2,
        auth="open",
        conversation_content="full",
    )


@pytest.fixture
def settings(role_url: str, db: AsyncDatabaseManager) -> Settings:
    """Settings of a standalone server on the same schema."""
    return settings_of(role_url, db)


@pytest.fixture(scope="session")
async def server_db(role_url: str, db: AsyncDatabaseManager) -> AsyncIterator[AsyncDatabaseManager]:
    """The manager of a standalone server on the same schema, with the sessions that it sets up."""
    async with open_database(settings_of(role_url, db)) as server_db:
        yield server_db


@pytest.fixture
def owner_settings(url: str, settings: Settings) -> Settings:
    """Settings with a role that may do anything, for tests that need a separate schema."""
    return settings.model_copy(update={"database_url": url})


@pytest.fixture
async def alone(owner_settings: Settings, server_url: str, template: str) -> AsyncIterator[Ring]:
    """A ring on a separate database, isolated from other tests."""
    async with database(server_url, "alone", template) as url:
        own = owner_settings.model_copy(update={"database_url": url, "database_schema": SCHEMA})
        async with Ring.open(own) as ring:
            yield ring


@pytest.fixture
def ring(db: AsyncDatabaseManager) -> Ring:
    return Ring(db, Settings(conversation_content="full"))


@pytest.fixture
def key() -> str:
    return uuid4().hex


@pytest.fixture
def project_id(key: str) -> ProjectId:
    return project_of_key(key)


@pytest.fixture
async def fake(owner: AsyncDatabaseManager) -> AsyncIterator[FakeRegistry]:
    """A fake registry; afterwards, the files that were fetched from it are deleted."""
    async with fake_registry() as fake:
        yield fake
    tables = "{{tables.registry_files}}, {{tables.registry_sources}}"
    await owner.execute(f"TRUNCATE {tables} RESTART IDENTITY")


@asynccontextmanager
async def client_of(app: Starlette, key: str, prefix: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """Start an app, and yield a client with a key."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url=f"http://test{prefix}",
            headers={"X-API-Key": key},
        ) as client,
    ):
        yield client


@pytest.fixture
async def client(
    server_db: AsyncDatabaseManager, settings: Settings, key: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app, with a key."""
    app = build(server_db, settings)
    async with client_of(app, key) as client:
        yield client
    await app.state.ring.aclose()


KINDS = ("standalone", "mounted")


def app_of(kind: str, db: AsyncDatabaseManager, settings: Settings) -> tuple[Starlette, str]:
    """Return an app that opens its own database, or one on a parent's, and the path of its root."""
    if kind == "standalone":
        return create_app(settings=settings), ""
    app = Starlette()
    app.mount("/llmring", build(db, settings))
    return app, "/llmring"


@pytest.fixture(params=KINDS)
async def client_of_each_kind(
    request: pytest.FixtureRequest, db: AsyncDatabaseManager, settings: Settings, key: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, with a key, under both kinds of owner."""
    app, prefix = app_of(request.param, db, settings)
    async with client_of(app, key, prefix) as client:
        yield client


@pytest.fixture
async def keys_client(db: AsyncDatabaseManager) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app in mode `keys`, without a key."""
    transport = httpx.ASGITransport(app=build(db))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
