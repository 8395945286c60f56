"""An unsafe database is reported: in the log, in the readiness probe and by `db status`."""

import asyncio
import re
import shutil
import subprocess
import tempfile
from asyncio import Transport
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest

from llmring_server import Ring, Settings, build, create_app, migrate
from llmring_server.db.connect import crosses_public_network_unencrypted
from llmring_server.db.database import open_database
from llmring_server.db.embedded_postgres import EmbeddedPostgres
from llmring_server.db.postgres_supervisor import DataDirectory
from tests.cli.test_db import ENVIRONMENT, PROGRAM, run
from tests.conftest import pool_of
from tests.support.postgres import database, make_cluster, wait_until_stopped

ROOT = Path(__file__).parents[2]
SAFETY = "llmring_server.db.safety"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an embedded PostgreSQL with its usual settings: that of the tests is unsafe."""
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    make_cluster(folder)
    with EmbeddedPostgres(folder, linger=0) as server:
        yield server.url()
    wait_until_stopped(DataDirectory(folder))
    shutil.rmtree(folder)


@pytest.fixture
async def safe(server: str) -> AsyncIterator[str]:
    """The URL of an empty database on that PostgreSQL."""
    async with database(server, "safe") as url:
        yield url


@pytest.fixture(scope="module")
async def migrated(server: str) -> AsyncIterator[str]:
    async with database(server, "migrated") as url:
        async with pool_of(url, "llmring") as db:
            await migrate(db)
        yield url


async def execute(url: str, statement: str) -> None:
    """Run a statement, with the name of the database in place of `{}`."""
    connection = await asyncpg.connect(url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(statement.format(name))
    await connection.close()


@asynccontextmanager
async def changed(url: str, setting: str, value: str) -> AsyncIterator[None]:
    """Change a setting of the whole server."""
    await _change(url, setting, f"SET {setting} = {value}", value)
    try:
        yield
    finally:
        await _change(url, setting, f"RESET {setting}", "on")


async def _change(url: str, setting: str, change: str, expected: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"ALTER SYSTEM {change}")
    await connection.execute("SELECT pg_reload_conf()")
    # The server reads its configuration after a moment.
    async with asyncio.timeout(30):
        while await connection.fetchval(f"SHOW {setting}") != expected:
            pass
    await connection.close()


async def codes(url: str, **settings: Any) -> set[str]:
    options = Settings(database_url=url, database_pool_size=1, **settings)
    async with open_database(options) as db:
        return {warning["code"] for warning in await Ring(db, options).database_warnings()}


@asynccontextmanager
async def client_of(
    url: str, kind: str, **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Ring]]:
    """Serve a database, on a parent's pool or on one of the server's own."""
    options = Settings(database_url=url, database_pool_size=1, **settings)
    async with pool_of(url, "llmring") as db:
        app = build(db, options) if kind == "mounted" else create_app(settings=options)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            yield client, app.state.ring


@pytest.mark.parametrize("is_behind_pooler", [False, True])
async def test_the_embedded_postgres_is_safe(server: str, *, is_behind_pooler: bool) -> None:
    assert await codes(server, database_pooler=is_behind_pooler) == set()


@pytest.mark.parametrize("is_behind_pooler", [False, True])
@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("ALTER DATABASE {} SET synchronous_commit = off", {"synchronous_commit_off"}),
        ("ALTER ROLE llmring IN DATABASE {} SET synchronous_commit = off",
         {"synchronous_commit_off"}),
        # The database's own disk has the commit, whatever its standbys have.
        ("ALTER DATABASE {} SET synchronous_commit = local", set()),
        ("ALTER DATABASE {} SET synchronous_commit = remote_write", set()),
        ("ALTER DATABASE {} SET default_transaction_read_only = on", {"read_only"}),
    ],
)  # fmt: skip
async def test_settings_of_a_database_and_a_role_are_found(
    safe: str, statement: str, expected: set[str], *, is_behind_pooler: bool
) -> None:
    await execute(safe, statement)
    assert await codes(safe, database_pooler=is_behind_pooler) == expected


@pytest.mark.parametrize(
    "parameter", ["options=-c%20synchronous_commit%3Doff", "synchronous_commit=off"]
)
async def test_parameters_of_the_url_are_found(server: str, parameter: str) -> None:
    assert await codes(f"{server}&{parameter}") == {"synchronous_commit_off"}


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_settings_of_the_server_are_found(safe: str, setting: str) -> None:
    async with changed(safe, setting, "off"):
        assert await codes(safe) == {f"{setting}_off"}
        # Neon's storage service makes commits durable, whatever these settings are.
        await execute(safe, "ALTER DATABASE {} SET neon.timeline_id = 'x'")
        assert await codes(safe) == set()


async def test_an_old_postgres_of_a_parent_is_found(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{SAFETY}.MIN_POSTGRES", 99)
    async with pool_of(server, "llmring") as db:
        assert [w["code"] for w in await Ring(db).database_warnings()] == ["version_too_old"]


@pytest.mark.parametrize("kind", ["mounted", "standalone"])
async def test_by_default_an_unsafe_database_is_ready_with_warnings(
    migrated: str, kind: str
) -> None:
    url = f"{migrated}&options={quote('-c synchronous_commit=off')}"
    async with client_of(url, kind) as (client, _):
        response = await client.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    [warning] = response.json()["warnings"]
    assert warning["code"] == "synchronous_commit_off"
    assert "Set synchronous_commit=on" in warning["detail"]


@pytest.mark.parametrize("kind", ["mounted", "standalone"])
async def test_an_unsafe_database_can_be_refused(migrated: str, kind: str) -> None:
    url = f"{migrated}&options={quote('-c synchronous_commit=off')}"
    async with client_of(url, kind, unsafe_database="refuse") as (client, _):
        response = await client.get("/health/ready")
        assert (await client.get("/health")).json()["status"] == "healthy"
    assert (response.status_code, response.json()["code"]) == (503, "unsafe_database")
    assert "synchronous_commit is off" in response.json()["detail"]


@pytest.mark.parametrize("kind", ["mounted", "standalone"])
async def test_a_safe_database_is_ready_without_warnings(migrated: str, kind: str) -> None:
    async with client_of(migrated, kind, unsafe_database="refuse") as (client, ring):
        response = await client.get("/health/ready")
        await ring.ready()
    assert response.json() == {"status": "ready", "warnings": []}


async def findings(client: httpx.AsyncClient) -> list[str]:
    warnings = (await client.get("/health/ready")).json()["warnings"]
    return [warning["code"] for warning in warnings]


async def until_found(client: httpx.AsyncClient, *expected: str) -> None:
    """Probe until the session of the server, too, has the changed setting."""
    async with asyncio.timeout(30):
        while await findings(client) != [*expected]:
            pass


async def test_probes_ask_the_database_once_for_a_while(migrated: str) -> None:
    async with (
        client_of(migrated, "standalone") as (client, _),
        changed(migrated, "fsync", "off"),
    ):
        assert await findings(client) == []


async def test_a_finding_is_logged_at_start_and_once_until_it_ends(
    migrated: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{SAFETY}.CACHE_SECONDS", 0)

    def logged() -> int:
        return sum("fsync is off" in record.getMessage() for record in caplog.records)

    async with changed(migrated, "fsync", "off"), client_of(migrated, "standalone"):
        assert logged() == 1
    async with client_of(migrated, "standalone") as (client, _):
        await until_found(client)
        assert logged() == 1
        async with changed(migrated, "fsync", "off"):
            await until_found(client, "fsync_off")
            assert await findings(client) == ["fsync_off"]
            assert logged() == 2
        await until_found(client)
        async with changed(migrated, "fsync", "off"):
            await until_found(client, "fsync_off")
            assert logged() == 3


@pytest.mark.parametrize(
    ("peer", "is_reported"),
    [
        (("93.184.216.34", 5432), True),
        (("2606:2800:220:1::1", 5432, 0, 0), True),
        (("127.0.0.1", 5432), False),
        (("10.0.0.7", 5432), False),
        (("172.17.0.2", 5432), False),
        (("100.64.0.1", 5432), False),
        (("::1", 5432, 0, 0), False),
        (("fe80::1%eth0", 5432, 0, 2), False),
        (("fdaa::3", 5432, 0, 0), False),
        ("/run/postgresql/.s.PGSQL.5432", False),
        ("", False),
        (None, False),
    ],
)
def test_only_public_addresses_need_encryption(peer: object, *, is_reported: bool) -> None:
    assert crosses_public_network_unencrypted(Transport({"peername": peer})) == is_reported
    encrypted = Transport({"peername": peer, "ssl_object": object()})
    assert not crosses_public_network_unencrypted(encrypted)


@pytest.fixture(scope="module")
def compiler() -> str:
    return shutil.which("cc") or pytest.skip("needs a C compiler")


@pytest.mark.parametrize(("seconds", "difference"), [(3600, 3600), (-3600, 3600), (3, None)])
def test_clocks_that_differ_are_found(
    server: str, tmp_path: Path, compiler: str, seconds: int, difference: int | None
) -> None:
    library = tmp_path / "shifted_clock.so"
    subprocess.run(
        (compiler, "-shared", "-fPIC", "-o", library, f"-DOFFSET=({seconds})",
         f'-DLIBRARY="{library}"', ROOT / "scripts/shifted_clock.c", "-ldl"),
        check=True,
    )  # fmt: skip
    shifted = {"LD_PRELOAD": str(library), "LLMRING_DATABASE_URL": server}
    printed = subprocess.check_output(
        (PROGRAM, "db", "status", "--env", "prod"), env=ENVIRONMENT | shifted, text=True
    )
    assert ("Unsafe database: " in printed) == bool(difference)
    if difference:
        [said] = [line for line in printed.splitlines() if line.startswith("Unsafe database: ")]
        found = int(said.partition("differ by at least ")[2].partition(" s:")[0].replace(",", ""))
        assert difference - 5 <= found <= difference


async def test_status_and_serve_name_the_reasons(migrated: str) -> None:
    prod = {"LLMRING_DATABASE_URL": f"{migrated}&options={quote('-c synchronous_commit=off')}"}
    status = run("db", "status", "--env", "prod", **prod)
    assert status.returncode == 0
    assert "Unsafe database: synchronous_commit is off: " in status.stdout
    refuse = {"LLMRING_UNSAFE_DATABASE": "refuse"}
    refused = run("serve", "--env", "prod", "--port", "0", **prod, **refuse)
    assert refused.returncode == 1
    assert "The database is not safe to use. synchronous_commit is off" in re.sub(
        r"[\s│]+", " ", refused.stderr
    )
    # Commands go on working: one of them may be what makes the database safe.
    assert run("keys", "list", "--env", "prod", **prod, **refuse).returncode == 0
