"""Commands on databases that cannot be reached or used: each says why, without a traceback."""

import asyncio
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from llmring_server.db.embedded_postgres import EmbeddedPostgres, find_programs
from llmring_server.db.postgres_supervisor import DataDirectory, chown_to_postgres, spawn
from tests.cli.test_db import check_output, run
from tests.support.postgres import make_cluster, wait_until_stopped

# The database `postgres` is closed to roles that are not superusers, as some providers have it.
SET_UP = """
CREATE ROLE owner LOGIN;
CREATE ROLE plain LOGIN;
CREATE ROLE nologin NOLOGIN;
CREATE ROLE locked LOGIN PASSWORD 'right';
REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
"""
DATABASES = (
    "CREATE DATABASE shop",
    "CREATE DATABASE owned OWNER owner",
    "CREATE DATABASE unmigrated OWNER owner",
    "CREATE DATABASE closed",
)
CLOSE = "REVOKE CONNECT ON DATABASE closed FROM PUBLIC"

ON_TABLES = ("db migrate", "db status", "db maintain", "keys list", "keys issue", "audit")
ALL = ("db create", *ON_TABLES)
WRITING = ("db maintain", "keys issue")

NO_PRIVILEGE = "lacks a privilege (permission denied for"
READ_ONLY = "The database is read-only: name its primary"
# The role and the database in a URL, the commands, and what each says.
SITUATIONS = [
    ("locked:canary", "shop", ALL, 'password authentication failed for user "locked"'),
    ("locked", "shop", ALL, 'password authentication failed for user "locked"'),
    ("absent", "shop", ALL, 'role "absent" does not exist'),
    ("nologin", "shop", ALL, 'role "nologin" is not permitted to log in'),
    ("owner", "nowhere", ON_TABLES, 'database "nowhere" does not exist. Create it with'),
    ("owner", "nowhere", ("db create",), "this role may not create it: let an administrator run"),
    ("plain", "closed", ALL, 'permission denied for database "closed"'),
    ("plain", "shop", ALL, NO_PRIVILEGE),
    ("plain", "owned", ("db create", "db migrate"), "may not create the schema llmring"),
    ("plain", "owned", ("db maintain", "keys list", "audit"), "tables are missing or outdated"),
    ("llmring", "frozen", WRITING, READ_ONLY),
    ("llmring", "frozen_empty", ("db create", "db migrate"), READ_ONLY),
    ("llmring", "frozen_empty", ("db maintain", "keys list"), "tables are missing or outdated"),
]
CASES = [
    (role, database, command, error)
    for role, database, commands, error in SITUATIONS
    for command in commands
]


def refused(url: str, command: str) -> str:
    """Run a command that must fail; return what it says, on one line."""
    ran = run(*command.split(), "--env", "prod", LLMRING_DATABASE_URL=url)
    assert ran.returncode == 1, ran.stdout
    assert "canary" not in ran.stdout + ran.stderr
    return re.sub(r"[\s│]+", " ", ran.stderr)


def url_on(server: EmbeddedPostgres, role: str, database: str) -> str:
    return server.url(database).replace("//llmring@", f"//{role}@")


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a cluster that PostgreSQL can enter."""
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    make_cluster(folder)
    yield folder
    wait_until_stopped(DataDirectory(folder))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL with roles and databases that cannot be used."""
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    make_cluster(folder)
    rules = folder / "data/pg_hba.conf"
    rules.write_text(f"local all locked scram-sha-256\n{rules.read_text()}")
    with EmbeddedPostgres(folder, linger=0) as server:
        asyncio.run(execute(server.url(), SET_UP, *DATABASES, CLOSE))
        for database in ("shop", "frozen"):
            check_output("db", "create", "--env", "prod", LLMRING_DATABASE_URL=server.url(database))
        freeze = "ALTER DATABASE {} SET default_transaction_read_only = on"
        statements = ["CREATE DATABASE frozen_empty"]
        statements += [freeze.format(name) for name in ("frozen", "frozen_empty")]
        asyncio.run(execute(server.url(), *statements))
        yield server
    wait_until_stopped(DataDirectory(folder))
    shutil.rmtree(folder)


@pytest.mark.parametrize(("role", "database", "command", "error"), CASES)
def test_a_command_says_why_it_cannot_use_the_database(
    server: EmbeddedPostgres, role: str, database: str, command: str, error: str
) -> None:
    assert error in refused(url_on(server, role, database), command)


@pytest.mark.parametrize("command", ["db create", "serve --port 0"])
@pytest.mark.parametrize("role", ["plain", "nologin", "locked:canary"])
def test_serve_says_why_it_cannot_use_the_database(
    server: EmbeddedPostgres, role: str, command: str
) -> None:
    assert "Error" in refused(url_on(server, role, "shop"), command)


def test_create_finds_a_database_whose_owner_may_create_none(server: EmbeddedPostgres) -> None:
    owned = {"LLMRING_DATABASE_URL": url_on(server, "owner", "owned")}
    found = check_output("db", "create", "--env", "prod", **owned)
    assert found.startswith("Found the database: local socket/owned\nApplied: 001_usage.sql")
    again = check_output("db", "create", "--env", "prod", **owned)
    assert again == "Found the database: local socket/owned\nThe database is up to date.\n"


def test_create_needs_no_access_to_the_database_postgres(server: EmbeddedPostgres) -> None:
    asyncio.run(execute(server.url(), "CREATE ROLE creator LOGIN CREATEDB"))
    url = url_on(server, "creator", "created by a role with CREATEDB")
    created = check_output("db", "create", "--env", "prod", LLMRING_DATABASE_URL=url)
    assert created.startswith("Created the database: local socket/created by a role with CREATEDB")


def test_a_read_only_database_can_be_read(server: EmbeddedPostgres) -> None:
    frozen = {"LLMRING_DATABASE_URL": server.url("frozen")}
    assert "pending" not in check_output("db", "status", "--env", "prod", **frozen)
    assert "up to date" in check_output("db", "migrate", "--env", "prod", **frozen)
    check_output("keys", "list", "--env", "prod", **frozen)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("db create", 'The database "shop" does not exist. The database is read-only'),
        ("db migrate", 'database "shop" does not exist'),
        ("db migrate --database postgres", READ_ONLY),
        ("db create --database postgres", READ_ONLY),
        ("db maintain --database postgres", "tables are missing or outdated"),
    ],
)
def test_a_command_says_that_the_server_is_a_standby(
    folder: Path, command: str, error: str
) -> None:
    command, _, database = command.partition(" --database ")
    with standby(folder, database or "shop") as url:
        assert error in refused(url, command)


def test_status_says_that_the_server_is_a_standby(folder: Path) -> None:
    with standby(folder, "postgres") as url:
        status = check_output("db", "status", "--env", "prod", LLMRING_DATABASE_URL=url)
    assert f"Unsafe database: The database is a standby. {READ_ONLY}" in status


@contextmanager
def standby(folder: Path, database: str) -> Iterator[str]:
    """Run the cluster as a standby without a primary; yield the URL of a database."""
    (folder / "data/standby.signal").touch()
    chown_to_postgres(folder / "data/standby.signal")
    options = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={folder / 'data'}")
    program = find_programs() / "postgres"
    with spawn(program, "-D", folder / "data", *options, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(folder / "data/.s.PGSQL.5432")
            yield f"postgresql://llmring@/{database}?host={folder / 'data'}"
        finally:
            server.terminate()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
async def old_server() -> AsyncIterator[int]:
    """The port of a server that says that it is PostgreSQL 12, and answers nothing else."""

    def message(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("!i", len(content) + 4) + content

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            (size,) = struct.unpack("!i", await reader.readexactly(4))
            await reader.readexactly(size - 4)
            writer.write(message(b"R", struct.pack("!i", 0)))
            writer.write(message(b"S", b"server_version\x0012.22\x00"))
            writer.write(message(b"K", struct.pack("!ii", 1, 1)) + message(b"Z", b"I"))
            await reader.read(1)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("command", [*ALL, "serve --port 0"])
async def test_a_command_says_that_postgresql_is_too_old(old_server: int, command: str) -> None:
    url = f"postgresql://ada:canary@127.0.0.1:{old_server}/shop?sslmode=disable"
    said = await asyncio.to_thread(refused, url, command)
    assert "The database runs on PostgreSQL 12, and the server needs 14 or later." in said


@pytest.mark.parametrize("command", ["db create", "keys list"])
@pytest.mark.parametrize("parameters", ["", "?channel_binding=require&connect_timeout=1"])
def test_a_command_says_that_nothing_answers(
    monkeypatch: pytest.MonkeyPatch, command: str, parameters: str
) -> None:
    monkeypatch.setattr("llmring_server.db.connect.START_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said = refused(f"postgresql://ada:canary@127.0.0.1:{port}/shop{parameters}", command)
    assert f"Cannot connect to the database: nothing listens on 127.0.0.1:{port}." in said


def test_a_command_gives_up_after_connect_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://ada:canary@127.0.0.1:{port}/shop?connect_timeout=1"
        assert "Cannot connect to the database: there was no answer in time." in refused(
            url, "db create"
        )


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"TEST_DB_PORT": "1"}, "Cannot connect to the server: nothing listens on 127.0.0.1:1."),
        (
            {"TEST_DB_HOST": "nowhere.invalid"},
            "Cannot connect to the server: host nowhere.invalid not found.",
        ),
    ],
)
@pytest.mark.parametrize(
    "command", ["db create --env test", "db drop-test", "db migrate --env test"]
)
def test_a_command_says_why_it_cannot_use_the_server_for_tests(
    settings: dict[str, str], error: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.db.connect.START_TIMEOUT_SECONDS", 0.1)
    ran = run(*command.split(), **{"TEST_DB_HOST": "127.0.0.1"} | settings)
    assert ran.returncode == 1
    assert error in re.sub(r"[\s│]+", " ", ran.stderr)


def test_a_role_for_tests_needs_the_right_to_create_databases(server: EmbeddedPostgres) -> None:
    folder = server.url().rpartition("host=")[2].partition("&")[0]
    ours = {"TEST_DB_HOST": folder.replace("%2F", "/"), "TEST_DB_USER": "plain"}
    ran = run("db", "create", "--env", "test", **ours)
    assert ran.returncode == 1
    assert "may not create it" in re.sub(r"[\s│]+", " ", ran.stderr)


@pytest.mark.parametrize("command", ["db status", "db migrate", "keys list"])
@pytest.mark.parametrize("variable", ["DATABASE_URL", "LLMRING_DATABASE_URL"])
def test_hints_repeat_the_options_of_the_command(
    server: EmbeddedPostgres, command: str, variable: str
) -> None:
    options = ("--env", "prod", "--data-dir", "/tmp/my data")  # noqa: S108, not used
    url = url_on(server, "owner", "nowhere")
    for given, repeated in (
        (options[:2], "--env prod"),
        (options, "--env prod --data-dir '/tmp/my data'"),
    ):
        ran = run(*command.split(), *given, **{variable: url})
        assert ran.returncode == 1
        assert f"Create it with `llmring-server db create {repeated}`" in ran.stderr
    ran = run("db", "maintain", *options[:2], **{variable: url_on(server, "owner", "unmigrated")})
    assert "run `llmring-server db migrate --env prod`" in ran.stderr
    assert "await" not in ran.stderr


MODES = "sslmode: write disable, allow, prefer, require, verify-ca, verify-full"


@pytest.mark.parametrize("variable", ["DATABASE_URL", "LLMRING_DATABASE_URL"])
@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("mysql://ada:canary@h/x", "not a PostgreSQL URL: write postgresql://"),
        ("https://h/canary", "not a PostgreSQL URL: write postgresql://"),
        ("postgresql://h/x?sslmode=requird", MODES + "; did you mean require?"),
        ("postgresql://h/x?sslmode=canary", MODES),
    ],
)
def test_a_bad_url_is_blamed_on_the_variable_that_has_it(
    variable: str, url: str, error: str
) -> None:
    ran = run("db", "status", "--env", "prod", **{variable: url})
    assert ran.returncode == 2
    assert f" {variable}: {error}" in re.sub(r"[\s│]+", " ", ran.stderr)
    assert "canary" not in ran.stderr
    both = run("db", "status", "--env", "prod", DATABASE_URL="x", LLMRING_DATABASE_URL=url)
    assert " LLMRING_DATABASE_URL: " in re.sub(r"[\s│]+", " ", both.stderr)


async def test_a_role_without_other_databases_learns_that_its_own_is_missing(
    server: EmbeddedPostgres,
) -> None:
    await execute(server.url("template1"), "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC")
    said = await asyncio.to_thread(refused, url_on(server, "owner", "nowhere"), "db create")
    assert 'The database "nowhere" does not exist, and this role may not create it' in said
    await execute(server.url("template1"), "GRANT CONNECT ON DATABASE template1 TO PUBLIC")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"LLMRING_AUTH": "proxy"}, "LLMRING_AUTH=proxy needs LLMRING_PROXY_SECRETS"),
        ({"LLMRING_PROXY_SECRETS": "s" * 32}, "LLMRING_PROXY_SECRETS needs LLMRING_AUTH=proxy"),
    ],
)
def test_proxy_secrets_and_their_mode_need_each_other(settings: dict[str, str], error: str) -> None:
    url = {"LLMRING_DATABASE_URL": "postgresql://h/x"}
    assert error in run("db", "status", "--env", "prod", **url | settings).stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only for root is another user needed")
def test_a_user_that_does_not_exist_is_named_by_its_variable(folder: Path) -> None:
    new = folder / "new/data"
    ran = run("db", "status", "--data-dir", str(new), LLMRING_PG_OS_USER="nosuch")
    assert ran.returncode == 1
    assert "LLMRING_PG_OS_USER names no user of this system" in ran.stderr
    assert not new.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as another user only for root")
def test_a_refused_data_directory_is_not_left_behind(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(0o700)
    ran = run("db", "status", "--data-dir", str(closed / "one/two"))
    assert ran.returncode == 1
    assert f"cannot enter {closed}" in re.sub(r"[\s│]+", " ", ran.stderr)
    assert list(closed.iterdir()) == []
