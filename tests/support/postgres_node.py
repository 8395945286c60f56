"""A PostgreSQL server of its own for a test that starts, stops, copies or promotes it."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg

from llmring_server.db.embedded_postgres import find_programs
from llmring_server.db.postgres_supervisor import USER, chown_to_postgres, spawn
from tests.support.postgres import open_folder


async def run_as_postgres(program: str, *arguments: str | Path) -> None:
    """Run a program of PostgreSQL, as the user that PostgreSQL runs as."""
    process = spawn(find_programs() / program, *arguments)
    assert await asyncio.to_thread(process.wait) == 0, program


class PostgresNode:
    """A PostgreSQL server on the data directory `folder`/data, with its socket in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.url = f"postgresql://{USER}@/postgres?host={folder}"

    async def control(self, *arguments: str) -> None:
        log = self.folder / "log"
        await run_as_postgres("pg_ctl", "-D", self.data, "-w", "-l", log, *arguments)

    async def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder}"
        await self.control("-o", options, "start")

    async def stop(self, mode: str = "fast") -> None:
        await self.control("-m", mode, "stop")

    async def promote(self) -> None:
        await self.control("promote")

    async def query(self, text: str) -> object:
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchval(text)
        finally:
            await connection.close()


@asynccontextmanager
async def running(node: PostgresNode, stop: str = "immediate") -> AsyncIterator[PostgresNode]:
    """Run a node, and stop it in the mode `stop`, unless the test has stopped it."""
    await node.start()
    try:
        yield node
    finally:
        if (node.data / "postmaster.pid").exists():
            await node.stop(stop)


@contextmanager
def nodes_folder() -> Iterator[Path]:
    """Create a folder for the folders of several nodes; remove it afterwards."""
    # PostgreSQL's user cannot enter pytest's folders, and the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    try:
        open_folder(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def create_owned_folder(folder: Path) -> None:
    """Create a folder that belongs to PostgreSQL's user."""
    open_folder(folder)
    chown_to_postgres(folder)
