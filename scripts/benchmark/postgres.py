"""One PostgreSQL for all who are measured, with the durability that it has by default."""

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from llmring_server.embedded import Embedded
from scripts.benchmark.processes import PROC, await_end, free_port, serving

HOUR = 3600.0
# Every server has a database of its own, and this schema in it.
SCHEMA = "llmring"

MISSING = (
    "--peer takes a PostgreSQL with the extension pgcrypto, which ours comes without:"
    " `apt-get install postgresql`, or name a superuser's with --database."
)


def query(url: str, sql: str, *arguments: Any) -> list[Any]:
    """Run one statement on a connection of its own."""

    async def run() -> list[Any]:
        settings = {"search_path": SCHEMA, "work_mem": "256MB"}
        connection = await asyncpg.connect(url, timeout=30, server_settings=settings)
        try:
            return await connection.fetch(sql, *arguments, timeout=HOUR)
        finally:
            await connection.close()

    return asyncio.run(run())


def value(url: str, sql: str, *arguments: Any) -> Any:
    return query(url, sql, *arguments)[0][0]


def postmaster(url: str) -> int | None:
    """Return the id of the server's first process, if it runs on this machine."""
    pid = int(value(url, r"SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)"))
    name = PROC / str(pid) / "comm"
    return pid if name.exists() and name.read_text().startswith("postgres") else None


@contextmanager
def database(server: str) -> Iterator[str]:
    """Make a database, and drop it at the end of the block."""
    name = f"bench_{secrets.token_hex(4)}"
    query(server, f"CREATE DATABASE {name}")
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        query(server, f"DROP DATABASE {name} WITH (FORCE)")


def cluster(url: str | None, *, extensions: bool) -> AbstractContextManager[str]:
    """Yield the URL of a superuser: as given, or of a server that lives as long as the block."""
    if url:
        return nullcontext(url)
    return _installed() if extensions else _embedded()


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        # PostgreSQL, which never runs as root, must find its way through.
        Path(folder).chmod(0o711)
        yield Path(folder)


@contextmanager
def _embedded() -> Iterator[str]:
    with _folder() as folder, ExitStack() as last, Embedded(folder / "postgres") as server:
        # It goes on for a moment when nobody has a share in it any more.
        last.callback(await_end, postmaster(server.url()))
        yield server.url()


@contextmanager
def _installed() -> Iterator[str]:
    """Run the system's PostgreSQL on a cluster of its own."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    programs = [each.parent for each in sorted(found, key=lambda it: float(it.parts[-3]))]
    if not programs:
        sys.exit(MISSING)
    with _folder() as folder:
        yield from _run(programs[-1], folder)


def _run(programs: Path, folder: Path) -> Iterator[str]:
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres")
    data, port = folder / "data", free_port()
    initdb = [str(programs / "initdb"), "--auth=trust", "--username=postgres", f"--pgdata={data}"]
    subprocess.run(initdb, check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)  # noqa: S603
    options = ["-D", str(data), "-p", str(port), "-k", "", "-h", "127.0.0.1"]
    with serving([str(programs / "postgres"), *options], port, {}, **user):
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
