"""The PostgreSQL cluster that all servers under test share, with its default durability."""

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from llmring_server.db.embedded_postgres import EmbeddedPostgres
from scripts.benchmark.processes import (
    PROC,
    START_TIMEOUT_SECONDS,
    free_port,
    run_server,
    wait_for_exit,
)

QUERY_TIMEOUT_SECONDS = 3600.0
# Every server under test has its own database, with this schema in it.
SCHEMA = "llmring"

MISSING = (
    "--peer needs a PostgreSQL with the extension pgcrypto, which the embedded one lacks:"
    " `apt-get install postgresql`, or pass a superuser's URL with --database."
)


def fetch(url: str, sql: str, *arguments: Any) -> list[Any]:
    """Run one statement on a new connection."""

    async def run() -> list[Any]:
        settings = {"search_path": SCHEMA, "work_mem": "256MB"}
        connection = await asyncpg.connect(url, timeout=30, server_settings=settings)
        try:
            return await connection.fetch(sql, *arguments, timeout=QUERY_TIMEOUT_SECONDS)
        finally:
            await connection.close()

    return asyncio.run(run())


def execute(url: str, script: str) -> None:
    """Run a script of statements on a new connection."""

    async def run() -> None:
        settings = {"search_path": SCHEMA}
        connection = await asyncpg.connect(url, timeout=30, server_settings=settings)
        try:
            await connection.execute(script, timeout=QUERY_TIMEOUT_SECONDS)
        finally:
            await connection.close()

    asyncio.run(run())


def fetch_value(url: str, sql: str, *arguments: Any) -> Any:
    return fetch(url, sql, *arguments)[0][0]


def postmaster_pid(url: str) -> int | None:
    """Return the process id of the postmaster; None if it does not run on this machine."""
    sql = r"SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)"
    pid = int(fetch_value(url, sql))
    name = PROC / str(pid) / "comm"
    return pid if name.exists() and name.read_text().startswith("postgres") else None


@contextmanager
def temporary_database(cluster_url: str) -> Iterator[str]:
    """Create a database, yield its URL, and drop it at the end of the block."""
    name = f"bench_{secrets.token_hex(4)}"
    fetch(cluster_url, f"CREATE DATABASE {name}")
    try:
        yield urlsplit(cluster_url)._replace(path=f"/{name}").geturl()
    finally:
        fetch(cluster_url, f"DROP DATABASE {name} WITH (FORCE)")


def running_cluster(url: str | None, *, with_extensions: bool) -> AbstractContextManager[str]:
    """Yield a superuser's URL: the given one, or that of a cluster which ends with the block."""
    if url:
        return nullcontext(url)
    return _system_cluster() if with_extensions else _embedded_cluster()


@contextmanager
def _embedded_cluster() -> Iterator[str]:
    with _directory() as path, ExitStack() as after, EmbeddedPostgres(path / "postgres") as server:
        # It lingers for a moment after its last client has left.
        after.callback(wait_for_exit, postmaster_pid(server.url()))
        yield server.url()


def system_programs() -> Path | None:
    """Return the folder of the newest PostgreSQL that Debian's packages have installed."""
    installed = [initdb.parent for initdb in Path("/usr/lib/postgresql").glob("[0-9]*/bin/initdb")]
    return max(installed, key=lambda path: float(path.parent.name), default=None)


@contextmanager
def _system_cluster() -> Iterator[str]:
    """Run the newest PostgreSQL of the operating system on a new data directory."""
    programs = system_programs()
    if programs is None:
        sys.exit(MISSING)
    with _directory() as path:
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(path, "postgres")
        data, port = path / "data", free_port()
        initdb = [
            str(programs / "initdb"),
            "--auth=trust",
            "--username=postgres",
            f"--pgdata={data}",
        ]
        subprocess.run(initdb, check=True, cwd=path, stdout=subprocess.DEVNULL, **user)  # noqa: S603
        options = ["-D", str(data), "-p", str(port), "-k", "", "-h", "127.0.0.1"]
        with run_server([str(programs / "postgres"), *options], port, {}, **user):
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            _wait_until_ready(url)
            yield url


def _wait_until_ready(url: str) -> None:
    """Wait until the cluster, which already accepts connections, also accepts queries."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            fetch(url, "SELECT 1")
        except asyncpg.CannotConnectNowError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def _directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as path:
        # PostgreSQL never runs as root, and its user has to pass through here.
        Path(path).chmod(0o711)
        yield Path(path)
