"""A primary and a streaming replica of it: two PostgreSQL servers in one folder."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg

from llmring_server.db.embedded_postgres import find_programs
from llmring_server.db.postgres_supervisor import USER, chown_to_postgres, spawn
from tests.support.postgres import make_cluster, open_folder

# A query of the replica that delays replaying is cancelled soon. These data are discarded.
PRIMARY = """
wal_level = replica
max_wal_senders = 10
wal_keep_size = 64MB
max_standby_streaming_delay = 100ms
fsync = off
"""


async def run(program: str, *arguments: str | Path) -> None:
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
        await run("pg_ctl", "-D", self.data, "-w", "-l", log, *arguments)

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
async def running(node: PostgresNode) -> AsyncIterator[PostgresNode]:
    """Run a node, which a test may have stopped at the end."""
    await node.start()
    try:
        yield node
    finally:
        if (node.data / "postmaster.pid").exists():
            await node.stop("immediate")


@asynccontextmanager
async def primary_and_replica(
    settings: str = "",
) -> AsyncIterator[tuple[PostgresNode, PostgresNode]]:
    """Run a primary with `settings`, and a streaming replica of it."""
    # PostgreSQL's user cannot enter pytest's folders, and the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    try:
        open_folder(folder)
        primary, replica = PostgresNode(folder / "a"), PostgresNode(folder / "b")
        for node in (primary, replica):
            open_folder(node.folder)
            chown_to_postgres(node.folder)
        make_cluster(primary.folder, PRIMARY + settings)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(running(primary))
            backup = ("-R", "-X", "stream", "-C", "-S", "replica", "--checkpoint", "fast")
            await run("pg_basebackup", *backup, "-D", replica.data, "-d", primary.url)
            yield primary, await stack.enter_async_context(running(replica))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
