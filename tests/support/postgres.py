"""PostgreSQL for a test run: one server for all workers, and databases of each worker."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg

from llmring_server.core.connection_string import parse
from llmring_server.db import admin
from llmring_server.db.embedded_postgres import EmbeddedPostgres, prepare_cluster
from llmring_server.db.postgres_supervisor import DataDirectory, lock_file
from tests.support.pooler import FOLDER, is_between, pooled, pooler_between

# The data of this server is discarded: nothing needs to reach the disk. Tests of durability
# start separate servers, with the default settings.
UNSAFE = "\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"


@contextmanager
def run_folder() -> Iterator[None]:
    """Create the folder that all processes of a run share; remove it after the run."""
    # PostgreSQL does not run as root, and its user cannot enter pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    folder.chmod(0o711)
    os.environ[FOLDER] = str(folder)
    # Commands look for running servers here: those of whoever runs the tests are none of ours.
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    try:
        with pooler_between(folder):
            yield
    finally:
        del os.environ[FOLDER]
        wait_until_stopped(DataDirectory(folder / "server"))
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_stopped(directory: DataDirectory, timeout: float = 30) -> None:
    """Wait until the supervisor of a data directory has ended, if it has one."""
    deadline = time.monotonic() + timeout
    while directory.path.exists() and time.monotonic() < deadline:
        if (lock := lock_file(directory.supervisor_lock, fcntl.LOCK_EX)) is not None:
            os.close(lock)
            return
        time.sleep(0.02)


def make_cluster(folder: Path, settings: str = "") -> None:
    """Copy a cluster that initdb created into `folder`, which nobody uses yet."""
    run = Path(os.environ[FOLDER])
    pristine = DataDirectory(run / "pristine")
    with (run / "pristine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not pristine.data.exists():
            open_folder(pristine.path)
            prepare_cluster(pristine)
    open_folder(folder)
    # PostgreSQL requires that its user owns its files; shutil.copytree would change the owner.
    subprocess.run(("/bin/cp", "-a", pristine.data, folder / "new"), check=True)
    with (folder / "new/postgresql.conf").open("a") as file:
        file.write(settings)
    (folder / "new").rename(folder / "data")


def open_folder(folder: Path) -> None:
    """Create a folder that PostgreSQL's user can enter."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)


@contextmanager
def shared_server() -> Iterator[str]:
    """Run the server that all workers share; yield the URL of its maintenance database."""
    run = Path(os.environ[FOLDER])
    with (run / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (run / "server/data").exists():
            make_cluster(run / "server", UNSAFE)
    with EmbeddedPostgres(run / "server", linger=0) as server:
        yield server.url("postgres")


@asynccontextmanager
async def database(
    server: str, name: str, template: str = "", *, may_be_pooled: bool = True
) -> AsyncIterator[str]:
    """Create a database, a copy of `template` if one is named; yield its URL; drop it.

    The URL leads through the pooler that is between the tests and their server, if there is one.
    """
    name = f"{name}_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(server)
    try:
        await create(connection, name, template)
        url, run = admin.with_database_name(server, name), Path(os.environ[FOLDER])
        # It is between the tests and the server that they share, not those of single tests.
        is_shared = parse(server).parameters.used.get("host") == str(
            DataDirectory(run / "server").sockets
        )
        is_pooled = may_be_pooled and is_between() and is_shared
        yield pooled(url, run / "pooler") if is_pooled else url
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    finally:
        await connection.close()


async def create(connection: asyncpg.Connection, name: str, template: str) -> None:
    # Copying files is faster than logging every page if a checkpoint need not reach the disk.
    options = f"TEMPLATE {template} STRATEGY file_copy" if template else ""
    await connection.execute(f"CREATE DATABASE {name} {options}")
