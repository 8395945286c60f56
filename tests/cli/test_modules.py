"""`db ... --config pgdbm.toml`: modules in their order and their schemas, beside a foreign one."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from pgdbm import AsyncDatabaseManager, AsyncMigrationManager, DatabaseConfig

from llmring_server.db import admin
from llmring_server.db.migrations import FOLDER
from llmring_server.db.pgdbm_config import read_pgdbm_config
from tests.db.test_migrations import names
from tests.support.command_line import invoke
from tests.support.postgres import database

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
PROGRAM = Path(sys.executable).parent / "llmring-server"
OURS = ", ".join(names())
MIGRATIONS = {
    "users/migrations/001_users.sql": "CREATE TABLE {{tables.users}} (id bigint PRIMARY KEY);",
    # Unqualified names are in the schema of the module, too.
    "billing/migrations/001_invoices.sql": "CREATE TABLE invoices (id bigint PRIMARY KEY,"
    " customer bigint REFERENCES {{tables.users.users}},"
    " call uuid, at timestamptz);",
    "billing/migrations/002_index.sql": "-- pgdbm:no-transaction\n"
    "CREATE INDEX CONCURRENTLY invoices_at ON {{tables.invoices}} (at);",
}
PASSWORD = "pa55word"  # noqa: S105


@pytest.fixture
async def empty(server_url: str) -> AsyncIterator[str]:
    """An empty database."""
    async with database(server_url, "modules") as url:
        yield url


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """The documented pgdbm.toml, with the folders that it names."""
    [template] = re.findall(r"```toml\n(\[project\].*?)```", DEPLOYMENT.read_text(), re.DOTALL)
    for name, text in MIGRATIONS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    config = tmp_path / "pgdbm.toml"
    config.write_text(template)
    return config


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return invoke(*map(str, arguments), environment={"COLUMNS": "300", **environment})


async def applied(url: str, schema: str) -> list[tuple[str, str]]:
    """Return the modules and files that are recorded in a schema."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        f"SELECT module_name, filename FROM {schema}.schema_migrations ORDER BY id"  # noqa: S608
    )
    await connection.close()
    return [tuple(row) for row in rows]


async def test_the_documented_file_migrates_its_modules_in_order(
    empty: str, template: Path
) -> None:
    def db(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        options = ("--config", template, "--env", "prod")
        return run("db", *arguments, *options, DATABASE_URL=empty, **environment)

    migrated = db("migrate")
    assert (migrated.returncode, migrated.stderr) == (0, "")
    location = admin.display_location(empty)
    assert migrated.stdout.splitlines() == [
        f"Database: {location}, environment prod",
        "Order: users (users) -> llmring (llmring, mcp_client) -> billing (billing)",
        "users: 001_users.sql",
        f"llmring: {OURS}",
        "billing: 001_invoices.sql, 002_index.sql",
    ]
    assert await applied(empty, "billing") == [
        ("billing", "001_invoices.sql"),
        ("billing", "002_index.sql"),
    ]
    ours = await applied(empty, "llmring") + await applied(empty, "mcp_client")
    modules = ("llmring_server_llmring", "llmring"), ("llmring_mcp_mcp_client", "mcp_client")
    assert ours == [(module, file) for module, folder in modules for file in names(folder)]

    again = db("migrate").stdout.splitlines()
    assert again[2:] == [f"{name}: up to date" for name in ("users", "llmring", "billing")]
    # The commands without the file agree.
    plain = run("db", "migrate", "--env", "prod", DATABASE_URL=empty)
    assert plain.stdout == "The database is up to date.\n"
    status = db("status").stdout
    assert "pending" not in status
    assert all(name in status for name in (*names(), "001_users.sql", "002_index.sql", "billing"))
    assert re.search(r"llmring +│ mcp_client +│ 002_definitions.sql", status)
    # So does pgdbm.
    pool = await AsyncDatabaseManager.create_shared_pool(
        DatabaseConfig(connection_string=empty, min_connections=1, max_connections=2)
    )
    manager = AsyncMigrationManager(
        AsyncDatabaseManager(pool=pool, schema="billing"),
        str(template.parent / "billing/migrations"),
        module_name="billing",
    )
    assert await manager.get_pending_migrations() == []
    await pool.close()

    file = template.parent / "users/migrations/001_users.sql"
    file.write_text(file.read_text() + " -- changed")
    assert "and the file was changed since" in db("status").stdout
    refused = db("migrate")
    assert refused.returncode == 1
    assert "Module users" in refused.stderr
    assert "modified after being applied" in refused.stderr


async def test_a_module_that_fails_leaves_those_before_it(empty: str, template: Path) -> None:
    (template.parent / "billing/migrations/003_bad.sql").write_text(
        "CREATE TABLE half (); CREATE TABLE {{tables.invoices}} ()"
    )
    options = ("--config", template, "--env", "prod")
    failed = run("db", "migrate", *options, DATABASE_URL=empty)
    assert failed.returncode == 1
    assert failed.stdout.endswith(f"llmring: {OURS}\n")
    assert "Module billing, schema billing" in failed.stderr
    assert "003_bad.sql" in failed.stderr
    assert 'relation "invoices" already exists' in failed.stderr
    assert len(await applied(empty, "billing")) == 2
    status = run("db", "status", *options, DATABASE_URL=empty).stdout
    assert status.count("pending") == 1


async def test_runs_of_several_processes_wait_for_one_another(empty: str, template: Path) -> None:
    connection = await asyncpg.connect(empty)
    await connection.execute(
        "SELECT pg_advisory_lock(hashtextextended('llmring-server: modules', 0))"
    )
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, "db", "migrate", "--config", template, "--env", "prod"),
        env={"DATABASE_URL": empty},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    assert await process.stderr.readline() == (
        b"Waiting for another process that migrates this database ...\n"
    )
    # Nothing was changed meanwhile, and no statement is waiting in the database.
    assert await connection.fetchval("SELECT to_regnamespace('users')") is None
    await connection.close()
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert f"llmring: {OURS}" in output.decode()


async def test_two_instances_and_other_schemas_tell_their_settings(
    empty: str, tmp_path: Path
) -> None:
    path = tmp_path / "pgdbm.toml"
    path.write_text(
        """
        [environments.staging]
        connection_string = "${URL}"
        [modules.second]
        migrations_path = "package:llmring_server"
        schema = "calls"
        mcp_schema = "tools"
        depends_on = ["first"]
        [modules.first]
        migrations_path = "${INSTALLED}/llmring"
        schema = "llmring"
        """
    )
    migrated = run(
        "db", "migrate", "--config", path, "--env", "staging", URL=empty, INSTALLED=str(FOLDER)
    )
    assert migrated.returncode == 0, migrated.stderr
    assert "Order: first (llmring, mcp_client) -> second (calls, tools)" in migrated.stdout
    assert migrated.stderr == (
        "To serve second, set LLMRING_DATABASE_SCHEMA=calls LLMRING_MCP_SCHEMA=tools\n"
    )
    settings = {"LLMRING_DATABASE_SCHEMA": "calls", "LLMRING_MCP_SCHEMA": "tools"}
    plain = run("db", "migrate", "--env", "prod", DATABASE_URL=empty, **settings)
    assert plain.stdout == "The database is up to date.\n"


async def test_a_file_without_environments_uses_the_database_of_the_command(
    empty: str, tmp_path: Path
) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql/001.sql").write_text("CREATE TABLE here ()")
    path = tmp_path / "pgdbm.toml"
    path.write_text('[modules.app]\nmigrations_path = "sql"\n')
    missing = empty.replace("modules_", "created_")
    options = ("--config", path, "--env", "prod")
    created = run("db", "create", *options, LLMRING_DATABASE_URL=missing)
    assert created.returncode == 0, created.stderr
    assert created.stdout.startswith("Created the database: ")
    assert created.stdout.endswith("Order: app (public)\napp: 001.sql\n")
    connection = await asyncpg.connect(empty)
    await connection.execute(f"DROP DATABASE {admin.database_name(missing)}")
    await connection.close()
    unknown = run("db", "migrate", "--config", path, "--env", "staging")
    assert unknown.returncode == 2
    assert "has no environments" in unknown.stderr


def test_without_a_file_an_environment_has_one_of_our_names() -> None:
    refused = run("db", "migrate", "--env", "staging")
    assert refused.returncode == 2
    assert "'dev', 'test', 'prod'" in refused.stderr


MODULE = '[modules.a]\nmigrations_path = "sql"\n'
OWN = 'migrations_path = "package:llmring_server"\n'
DEV = "[environments.dev]\n"
URL = f'url = "postgresql://u:{PASSWORD}@localhost/x"\n'
MCP_CLIENT = f'migrations_path = "{FOLDER / "mcp_client"}"\n'
CIRCLE = """
depends_on = ["b"]
[modules.b]
migrations_path = "sql"
depends_on = ["c"]
[modules.c]
migrations_path = "sql"
depends_on = ["b"]
"""
# The error, and the file that causes it.
REFUSED = {
    "is not valid TOML": "[modules",
    "modules: Field required": "",
    "sharedpool: unknown key. Did you mean shared_pool?": f"[sharedpool]\n{MODULE}",
    "a.depend_on: unknown key. Did you mean depends_on?": f"{MODULE}depend_on = []",
    "modules.a.depends_on: there is no module b": f'{MODULE}depends_on = ["b"]',
    "modules.a.depends_on: Input should be an array": f'{MODULE}depends_on = "b"',
    "modules.a.mode: Input should be 'standalone'": f'{MODULE}mode = "both"',
    "modules.a.schema: expected lower-case letters": f'{MODULE}schema = "Mine"',
    "modules.a.mcp_schema: only a module with": f'{MODULE}mcp_schema = "m"',
    "modules.a.migrations_path: there is no folder": '[modules.a]\nmigrations_path = "none"',
    "whose mcp_schema names": f"[modules.a]\n{MCP_CLIENT}",
    "The modules a and b need the schema llmring for": (
        f"[modules.a]\n{OWN}[modules.b]\n{OWN}{DEV}{URL}"
    ),
    "shared_pool.modules: there is no module aa": f'{MODULE}[shared_pool]\nmodules = ["aa"]',
    "min_connections is larger than": f"{MODULE}[shared_pool]\nmin_connections = 200",
    "modules depend on one another in a circle: b -> c -> b": f"{MODULE}{CIRCLE}",
    "in a circle: a -> a": f'{MODULE}depends_on = ["a"]',
    "has no environment dev. Choose one with --env: prod": (
        f"{MODULE}[environments.prod]\nurl = 'x'"
    ),
    "environments.dev: keep one of url and host": f"{MODULE}{DEV}{URL}host = 'x'",
    "environments.dev: name a database": f"{MODULE}{DEV}host = 'x'",
    "ssl_mode has an effect only with ssl_enabled": f"{MODULE}{DEV}{URL}ssl_mode = 'require'",
    "environments.dev.passwort: unknown key. Did you mean password?": (
        f"{MODULE}{DEV}{URL}passwort = '{PASSWORD}'"
    ),
    "environments.dev.url: the environment variable NO_SUCH is not set": (
        f"{MODULE}{DEV}url = '${{NO_SUCH}}'"
    ),
    "environments.dev: not a PostgreSQL URL": f"{MODULE}{DEV}url = 'mysql://u:{PASSWORD}@h/x'",
    "does not work through a pooler": (
        f"{MODULE}{DEV}url = 'postgresql://u:{PASSWORD}@h/x?pgbouncer=true'"
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_invalid_file_is_refused_with_its_error(message: str, tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    path = tmp_path / "pgdbm.toml"
    path.write_text(REFUSED[message])
    refused = run("db", "migrate", "--config", path)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert PASSWORD not in refused.stdout + refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize("password", ["pa/55word", "p@ss/w:55word%", "1/55word", "h?55word"])
def test_no_part_of_a_password_from_a_variable_is_shown(password: str, tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    path = tmp_path / "pgdbm.toml"
    path.write_text(f"{MODULE}{DEV}url = 'postgresql://app:${{PW}}@/d1?host={tmp_path}'")
    refused = run("db", "status", "--config", path, PW=password)
    assert refused.returncode == 1
    assert "55word" not in refused.stdout + refused.stderr


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused = run("db", "status", "--config", tmp_path / "none.toml")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Cannot read" in refused.stderr


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        (
            'host = "h"\nport = 1\ndatabase = "d b"\nuser = "u@x"\npassword = "${SECRET}/"',
            "postgresql://u%40x:s%2F@h:1/d%20b",
        ),
        ('url = "postgresql://u:${SPECIAL}@h/d"', "postgresql://u:p%40s%2Fw%25@h/d"),
        ('url = "${URL}"', "postgresql://u:p%40@h/d"),
        ('host = "/run/pg"\ndatabase = "d"', "postgresql:///d?host=%2Frun%2Fpg&port=5432"),
        (
            'url = "postgresql://h/d"\nssl_enabled = true\nssl_ca_file = "ca.pem"',
            "postgresql://h/d?sslmode=verify-full&sslrootcert={folder}%2Fca.pem",
        ),
    ],
)
def test_an_environment_names_its_database(environment: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    path = tmp_path / "pgdbm.toml"
    path.write_text(f"[environments.x]\n{environment}\n{MODULE}")
    variables: dict[str, Any] = {"SECRET": "s", "PGDBM_ENV": "x", "SPECIAL": "p@s/w%"}
    variables["URL"] = "postgresql://u:p%40@h/d"
    config = read_pgdbm_config(path, None, variables)
    assert config.url == url.format(folder=quote(str(tmp_path), safe=""))
