"""Acknowledged means committed, whoever is killed; and a broken promise would be noticed."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from fcntl import LOCK_EX
from pathlib import Path
from random import Random

import pytest

from llmring_server import Ring, Settings
from llmring_server.db.embedded_postgres import EmbeddedPostgres
from llmring_server.db.postgres_supervisor import DataDirectory, is_postgres_on, lock_file
from llmring_server.server.in_process import listen, url_of
from tests.cli.test_db import ENVIRONMENT
from tests.support.crash_writers import Kept, Verdict, judge, writers
from tests.support.postgres import make_cluster

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

SEED = int(os.environ.get("TEST_SEED") or time.time_ns() % 10**6)
# For a machine that is busy with other things: usually all is over in seconds.
LONGEST = 120.0

Kill = Callable[[], Awaitable[None]]


def chance() -> Random:
    sys.stdout.write(f"TEST_SEED={SEED}\n")
    return Random(SEED)  # noqa: S311, chance that can be had again


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONGEST):
        while not condition():  # noqa: ASYNC110, other processes set no event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def own_cluster() -> AsyncIterator[tuple[EmbeddedPostgres, DataDirectory]]:
    """Start a PostgreSQL that may be killed, in a folder that its user can enter."""
    directory = DataDirectory(Path(tempfile.mkdtemp(prefix="llmring-")))
    directory.path.chmod(0o711)
    try:
        make_cluster(directory.path)
        with EmbeddedPostgres(directory.path, linger=0) as server:
            yield server, directory
        await until(lambda: unguarded(directory))
    finally:
        shutil.rmtree(directory.path, ignore_errors=True)


def unguarded(directory: DataDirectory) -> bool:
    if (lock := lock_file(directory.supervisor_lock, LOCK_EX)) is not None:
        os.close(lock)
    return lock is not None


def postmaster(directory: DataDirectory) -> int:
    """Find the server that runs on these data; 0 if there is none now."""
    with suppress(OSError, IndexError, ValueError):
        number = int((directory.data / "postmaster.pid").read_text().split()[0])
        return number if is_postgres_on(number, directory.data) else 0
    return 0


def children(process: int) -> list[int]:
    if sys.platform == "linux":
        return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
    command = ("/usr/bin/pgrep", "-P", str(process))
    return [*map(int, subprocess.run(command, check=False, capture_output=True).stdout.split())]


@asynccontextmanager
async def serving(listener: socket.socket, **settings: str) -> AsyncIterator[Process]:
    """Run a server on a socket that stays ours when it is killed."""
    command = (sys.executable, "-m", "uvicorn", "llmring_server:app", "--no-access-log", "--fd")
    environ = {f"LLMRING_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *command, str(listener.fileno()), pass_fds=[listener.fileno()], env=ENVIRONMENT | environ
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), LONGEST)


@asynccontextmanager
async def two_processes(settings: Settings) -> AsyncIterator[list[int]]:
    """Serve one database twice; yield the ports."""
    given = {name: str(value) for name, value in settings.model_dump(exclude_unset=True).items()}
    async with AsyncExitStack() as stack:
        listeners = [stack.enter_context(listen("127.0.0.1", 0)) for _ in range(2)]
        for each in listeners:
            await stack.enter_async_context(serving(each, **given))
        yield [each.getsockname()[1] for each in listeners]


class Storm:
    """A server and a PostgreSQL that are killed and come back, and writers who live through it."""

    def __init__(self, url: str, directory: DataDirectory) -> None:
        self.url, self.directory, self.ledger = url, directory, directory.path / "ledger"
        self.dice = chance()
        self.server: Process
        self.clients: subprocess.Popen[bytes]

    async def rage(self, server_kills: int, postgres_kills: int) -> Kept:
        """Kill them in any order; return what the writers kept."""
        kills = [self.kill_server] * server_kills + [self.kill_postgres] * postgres_kills
        self.dice.shuffle(kills)
        self.ledger.touch()
        with listen("127.0.0.1", 0) as listener:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self.keep_serving(listener))
                await self.while_writing(url_of(listener), kills)
                keeper.cancel()
        return Kept.of(self.ledger)

    async def keep_serving(self, listener: socket.socket) -> None:
        while True:
            async with serving(listener, database_url=self.url, auth="open") as self.server:
                await self.server.wait()

    async def while_writing(self, url: str, kills: Sequence[Kill]) -> None:
        with writers(url, self.ledger, LONGEST) as self.clients:
            try:
                await self.progress()
                for kill in kills:
                    await self.kill_soon(kill)
                await self.progress()
            finally:
                self.clients.terminate()
                ended = await asyncio.to_thread(self.clients.wait, LONGEST)
        assert ended == 0

    async def kill_soon(self, kill: Kill) -> None:
        """Kill mostly in full swing, and sometimes before all has recovered."""
        if self.dice.random() < 0.75:
            await self.progress()
        await asyncio.sleep(self.dice.uniform(0.05, 0.6))
        await kill()

    async def progress(self) -> None:
        """Wait until something more is acknowledged, as long as there are writers."""
        known = self.ledger.stat().st_size
        await until(lambda: self.ledger.stat().st_size > known or self.clients.poll() is not None)
        assert self.ledger.stat().st_size > known, "the writers have given up"

    async def kill_server(self) -> None:
        with suppress(ProcessLookupError):
            self.server.kill()

    async def kill_postgres(self) -> None:
        """Kill the postmaster and its children; stopped first, it neither makes nor buries any."""
        await until(lambda: postmaster(self.directory) > 0)
        os.kill(father := postmaster(self.directory), signal.SIGSTOP)
        for each in (*children(father), father):
            os.kill(each, signal.SIGKILL)


async def verdict(url: str, kept: Kept) -> Verdict:
    async with Ring.open(Settings(database_url=url, database_pool_size=1)) as ring:
        found = await judge(ring, kept)
    sys.stdout.write(f"{found}\n")
    return found


async def test_what_was_acknowledged_survives_any_mix_of_kills() -> None:
    async with own_cluster() as (server, directory):
        kept = await Storm(server.url(), directory).rage(server_kills=8, postgres_kills=4)
        assert await verdict(server.url(), kept) == Verdict(len(kept.acknowledged))


async def test_a_database_that_acknowledges_too_early_is_found_out() -> None:
    async with own_cluster() as (server, directory):
        # The tables themselves shall not be lost.
        async with Ring.open(server.url()) as ring:
            await ring.db.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            await ring.db.execute("SELECT pg_reload_conf()")
        hasty = f"{server.url()}&synchronous_commit=off"
        kept = await Storm(hasty, directory).rage(server_kills=0, postgres_kills=4)
        assert (await verdict(server.url(), kept)).lost > 0
