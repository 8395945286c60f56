"""PgBouncer in transaction mode between the tests and their PostgreSQL: scripts/test-pgbouncer."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from llmring_server import Settings
from llmring_server.core.connection_string import parse
from llmring_server.db.postgres_supervisor import USER, chown_to_postgres, spawn

# The program to put between the tests and their database. Without it, there is none.
PROGRAM = "LLMRING_TEST_PGBOUNCER"
# The folder of a run. Workers of pytest-xdist inherit the environment of the process that starts
# them.
FOLDER = "LLMRING_TEST_RUN"
PORT = 6432
START_TIMEOUT_SECONDS = 10.0

# Names of databases are those of the server. `auth_query` would look up roles there, too, but with
# it, PgBouncer 1.18 ends if a client logs in while another one cancels a statement.
CONFIGURATION = """
[databases]
* = host={server} port=5432

[pgbouncer]
pool_mode = transaction
unix_socket_dir = {folder}
listen_port = {port}
auth_type = trust
auth_file = {folder}/users
admin_users = {user}
pidfile = {folder}/pid
logfile = {folder}/log
max_client_conn = 1000
default_pool_size = 10
# A database with connections cannot be copied.
server_idle_timeout = 2
# Of parents' pools: the server sends no parameters of sessions.
ignore_startup_parameters = extra_float_digits,jit,search_path,statement_timeout,{timeouts}
"""


def find_pgbouncer() -> Path:
    """Return the program; an error says how to get it."""
    search = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    found = os.environ.get(PROGRAM) or shutil.which("pgbouncer", path=search)
    if not found:
        raise FileNotFoundError(
            "PgBouncer is not installed: run scripts/test-pgbouncer, which gets Debian's, install"
            f" it, or name it in {PROGRAM}."
        )
    return Path(found)


@contextmanager
def pgbouncer(program: Path, folder: Path, server: Path) -> Iterator[None]:
    """Run PgBouncer with its socket in `folder`, for the server with its socket in `server`."""
    folder.mkdir(mode=0o755, exist_ok=True)
    (folder / "users").write_text(f'"{USER}" ""\n')
    (folder / "configuration").write_text(
        CONFIGURATION.format(
            timeouts="lock_timeout,idle_in_transaction_session_timeout",
            server=server,
            folder=folder,
            port=PORT,
            user=USER,
        )
    )
    folder.chmod(0o755)
    chown_to_postgres(folder)
    process = spawn(program, "-q", folder / "configuration")
    try:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not (folder / f".s.PGSQL.{PORT}").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer has not started: {(folder / 'log').read_text()}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


def pooled(url: str, folder: Path) -> str:
    """Return the URL of the same database behind the PgBouncer in `folder`."""
    connection = parse(url)
    return connection.url_with(
        {**connection.parameters.used, "host": str(folder), "port": str(PORT)}
    )


async def allow(role: str, url: str) -> None:
    """Let a new role log in to the PgBouncer that is between the tests and their server."""
    folder = Path(os.environ[FOLDER]) / "pooler"
    with (folder / "users").open("a") as file:
        file.write(f'"{role}" ""\n')
    os.kill(int((folder / "pid").read_text()), signal.SIGHUP)
    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        while True:
            with suppress(asyncpg.PostgresError):
                connection = await asyncpg.connect(url)
                await connection.close()
                return
            await asyncio.sleep(0.02)


@contextmanager
def pooler_between(run: Path) -> Iterator[None]:
    """Put a PgBouncer between the tests of a run and its server, if the environment names one."""
    if not (program := os.environ.get(PROGRAM)):
        yield
        return
    with pgbouncer(Path(program), run / "pooler", run / "server/sock"):
        yield


def is_between() -> bool:
    return bool(os.environ.get(PROGRAM))


def expect_pooler() -> None:
    """Have everything that the tests connect with expect a pooler, as its operator must."""
    # As `import asyncpg; asyncpg.connect(url, statement_cache_size=0)` everywhere.
    defaults: Any = asyncpg.connect.__kwdefaults__
    defaults["statement_cache_size"] = 0
    Settings.model_fields["database_pooler"].default = True
    Settings.model_rebuild(force=True)
