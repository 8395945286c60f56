"""The command line: databases, keys and settings in every environment, and its errors."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import build
from llmring_server.cli import environment
from llmring_server.db import admin
from llmring_server.db.embedded_postgres import EmbeddedPostgres
from llmring_server.db.postgres_supervisor import DataDirectory
from tests.conftest import CALL
from tests.db.test_migrations import names
from tests.support.command_line import invoke
from tests.support.pooler import is_between
from tests.support.postgres import make_cluster, wait_until_stopped

PROGRAM = str(Path(sys.executable).parent / "llmring-server")
OURS = ("LLMRING_", "DATABASE_URL", "TEST_DB_")
# Without the settings of whoever runs the tests: they may name a database with valuable data.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
ENVIRONMENT |= {"COLUMNS": "300", "LLMRING_REGISTRY_URL": "none"}
if is_between():
    ENVIRONMENT |= {"LLMRING_DATABASE_POOLER": "true"}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return invoke(*arguments, environment=ENVIRONMENT | settings)


def check_output(*arguments: str, **settings: str) -> str:
    """Run a command that must succeed; return what it printed."""
    ran = run(*arguments, **settings)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, place = parts.username or "", parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:{password}@{place}").geturl()


@pytest.fixture
def prod(db: AsyncDatabaseManager, url: str) -> dict[str, str]:
    """Settings of the schema that all tests share."""
    return {"LLMRING_DATABASE_URL": url, "LLMRING_DATABASE_SCHEMA": db.schema or ""}


@pytest.fixture
async def nowhere(url: str) -> AsyncIterator[str]:
    """The URL of a database that does not exist yet."""
    name = f"cli_{uuid4().hex}"
    yield admin.with_database_name(url, name)
    connection = await asyncpg.connect(url)
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
def server_for_tests(url: str) -> dict[str, str]:
    """Name the server of `url` as TEST_DB_*."""
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or "localhost"])
    return {
        "TEST_DB_HOST": host[0],
        "TEST_DB_PORT": str(parts.port or 5432),
        "TEST_DB_USER": parts.username or "postgres",
        "TEST_DB_PASSWORD": parts.password or "",
    }


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A separate data directory; its server runs until the last test of this file."""
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    folder.chmod(0o711)
    make_cluster(folder / "data")
    with EmbeddedPostgres(folder / "data", linger=0):
        yield folder / "data"
    wait_until_stopped(DataDirectory(folder / "data"))
    shutil.rmtree(folder)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("command", ["db create", "db migrate", "db status", "keys list", "serve"])
def test_prod_requires_a_database_url(command: str) -> None:
    refused = run(*command.split(), "--env", "prod")
    assert refused.returncode == 2
    assert "prod has no default database: set LLMRING_DATABASE_URL=" in refused.stderr


@pytest.mark.direct("PgBouncer does not create databases")
def test_prod_creates_its_database_once(nowhere: str) -> None:
    prod = {"LLMRING_DATABASE_URL": nowhere}
    missing = run("db", "status", "--env", "prod", **prod)
    assert missing.returncode == 1
    assert "does not exist" in missing.stderr
    files = ", ".join(names())
    created = check_output("db", "create", "--env", "prod", **prod)
    assert created.startswith("Created")
    assert created.endswith(f"Applied: {files}\n")
    assert check_output("db", "create", "--env", "prod", **prod).startswith("Found")
    assert "up to date" in check_output("db", "migrate", "--env", "prod", **prod)
    assert "pending" not in check_output("db", "status", "--env", "prod", **prod)


def test_dev_without_a_database_url_uses_embedded_postgres(data_dir: Path) -> None:
    dev = {"LLMRING_DATA_DIR": str(data_dir)}
    assert str(data_dir) in check_output("db", "create", **dev)
    assert "up to date" in check_output("db", "migrate", "--env", "dev", **dev)
    assert "pending" not in check_output("db", "status", **dev)


def test_dev_and_test_ignore_a_database_url_that_is_not_theirs(data_dir: Path) -> None:
    theirs = {"DATABASE_URL": "postgresql://theirs.invalid/precious"}
    ours = theirs | {"LLMRING_DATA_DIR": str(data_dir)}
    assert str(data_dir) in check_output("db", "create", **ours)
    assert "precious" not in check_output("db", "url", **ours)
    assert "Applied: 001" in check_output("db", "migrate", "--env", "test", **ours)
    # Platforms set it for what they run.
    assert "precious" in check_output("db", "url", "--env", "prod", **theirs)


async def test_the_url_of_the_embedded_database_is_printed_to_connect_to_it(data_dir: Path) -> None:
    printed = await asyncio.to_thread(run, "db", "url", "--env", "dev", "--data-dir", str(data_dir))
    assert (printed.returncode, printed.stderr) == (0, "")
    connection = await asyncpg.connect(printed.stdout.strip())
    assert await connection.fetchval("SELECT current_database()") == "llmring_dev"
    await connection.close()


@pytest.mark.parametrize(
    ("url", "is_warned"),
    [
        ("postgresql://ada:secret@host/name", True),
        ("postgresql://ada@host/name?password=secret", True),
        ("postgresql://ada@host/name", False),
    ],
)
def test_a_url_with_a_password_is_printed_with_a_warning(url: str, *, is_warned: bool) -> None:
    printed = run("db", "url", "--env", "prod", LLMRING_DATABASE_URL=url)
    assert printed.stdout.strip() == url
    assert ("contains a password" in printed.stderr) == is_warned


def test_a_temporary_database_has_no_url_to_print() -> None:
    assert run("db", "url", "--env", "test").returncode == 2


def test_drop_test_drops_only_test_databases(data_dir: Path) -> None:
    ours = {"LLMRING_DATA_DIR": str(data_dir)}
    check_output("db", "create", **ours)
    made = {check_output("db", "create", "--env", "test", **ours).strip() for _ in range(2)}
    assert "Applied: 001" in check_output(
        "db", "migrate", "--env", "test", **ours
    )  # a temporary one
    dropped = check_output("db", "drop-test", **ours)
    assert {f"local socket/{name}" for name in re.findall(r"test_\w+", dropped)} == made
    assert "no test databases" in check_output("db", "drop-test", **ours)
    assert "pending" not in check_output("db", "status", **ours)


@pytest.mark.direct("PgBouncer does not create databases")
async def test_env_test_creates_a_database_on_the_configured_server(
    url: str, server_for_tests: dict[str, str]
) -> None:
    created = await asyncio.to_thread(
        check_output, "db", "create", "--env", "test", **server_for_tests
    )
    name = created.strip().rpartition("/")[2]
    assert re.fullmatch("test_[0-9a-f]{8}_llmring_test", name)
    made = admin.with_database_name(url, name)
    connection = await asyncpg.connect(made)
    assert await connection.fetchval("SELECT count(*) FROM llmring_test.usage_logs") == 0
    await connection.close()
    await admin.drop_database(made)


def test_the_server_for_tests_has_the_defaults_of_older_servers(tmp_path: Path) -> None:
    with environment.server_for_tests(tmp_path, {"TEST_DB_HOST": "db.example"}) as server:
        assert server == "postgresql://postgres:postgres@db.example:5432/postgres"


async def status_with(db: AsyncDatabaseManager, key: str) -> int:
    transport = httpx.ASGITransport(build(db))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.post("/api/v1/log", json=CALL, headers={"X-API-Key": key})
        return response.status_code


async def test_issued_key_works_until_it_is_revoked(
    db: AsyncDatabaseManager, prod: dict[str, str]
) -> None:
    project = f"shop-{uuid4()}"

    async def keys(*arguments: str) -> str:
        return await asyncio.to_thread(check_output, "keys", *arguments, "--env", "prod", **prod)

    key = (await keys("issue", "--project", project)).strip()
    id = key.removeprefix("llmr_k1_")[:8]
    assert await status_with(db, key) == 200
    assert f"{id} was revoked" in await keys("revoke", id)
    assert await status_with(db, key) == 401
    [listed] = (line for line in (await keys("list")).splitlines() if id in line)
    assert project in listed
    assert key not in listed


@pytest.mark.parametrize("command", ["db create", "db status", "keys list"])
def test_no_command_prints_the_database_password(prod: dict[str, str], command: str) -> None:
    secret = with_password(prod["LLMRING_DATABASE_URL"], "pass-canary")
    for url in (secret, secret.replace("//", "//nobody")):
        ran = run(*command.split(), "--env", "prod", **prod | {"LLMRING_DATABASE_URL": url})
        assert "pass-canary" not in ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr


def test_invalid_settings_are_reported_without_their_values() -> None:
    wrong = {"LLMRING_DATABASE_POOL_SIZE": "canary", "LLMRING_AUTH": "canary"}
    refused = run("db", "status", **wrong)
    assert refused.returncode == 2
    assert all(name in refused.stderr for name in wrong)
    assert "canary" not in refused.stderr


def test_open_mode_is_served_on_loopback_only(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    options = ("--host", "0.0.0.0", "--data-dir", str(data_dir))  # noqa: S104, it is refused
    refused = run("serve", *options)
    assert refused.returncode == 2
    assert "LLMRING_AUTH=keys" in refused.stderr
    assert not data_dir.exists(), "a database was started"


def test_port_in_use_is_reported(prod: dict[str, str], taken: int) -> None:
    refused = run("serve", "--env", "prod", "--port", str(taken), **prod)
    assert refused.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{taken}" in refused.stderr
    assert "Choose another one (0 picks a free one)" in refused.stderr
