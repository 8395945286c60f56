"""Kills: an acknowledged call is stored, whatever is killed, and the test would notice if not."""

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
from tests.support.crash_writers import CrashReport, WriterRecord, check, writers
from tests.support.postgres import make_cluster

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

SEED = int(os.environ.get("TEST_SEED") or time.time_ns() % 10**6)
# In seconds, for a busy machine. Usually, a test takes a few seconds.
LONGEST = 120.0

Kill = Callable[[], Awaitable[None]]


def seeded_random() -> Random:
    sys.stdout.write(f"TEST_SEED={SEED}\n")
    return Random(SEED)  # noqa: S311, a failure can be reproduced with its seed


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONGEST):
        while not condition():  # noqa: ASYNC110, other processes set no event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def killable_postgres() -> AsyncIterator[tuple[EmbeddedPostgres, DataDirectory]]:
    """Start a PostgreSQL that may be killed, in a folder that its user can enter."""
    directory = DataDirectory(Path(tempfile.mkdtemp(prefix="llmring-")))
    directory.path.chmod(0o711)
    try:
        make_cluster(directory.path)
        with EmbeddedPostgres(directory.path, linger=0) as server:
            yield server, directory
        await until(lambda: has_no_supervisor(directory))
    finally:
        shutil.rmtree(directory.path, ignore_errors=True)


def has_no_supervisor(directory: DataDirectory) -> bool:
    if (lock := lock_file(directory.supervisor_lock, LOCK_EX)) is not None:
        os.close(lock)
    return lock is not None


def postmaster(directory: DataDirectory) -> int:
    """Return the process id of the server on these data; 0 if none is running."""
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
async def run_server(listener: socket.socket, **settings: str) -> AsyncIterator[Process]:
    """Run a server on a listening socket, which stays open when the server is killed."""
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
    """Run two servers on one database; yield their ports."""
    environ = {name: str(value) for name, value in settings.model_dump(exclude_unset=True).items()}
    async with AsyncExitStack() as stack:
        listeners = [stack.enter_context(listen("127.0.0.1", 0)) for _ in range(2)]
        for each in listeners:
            await stack.enter_async_context(run_server(each, **environ))
        yield [each.getsockname()[1] for each in listeners]


class CrashTest:
    """A server and a PostgreSQL that are killed and restarted while writers log calls."""

    def __init__(self, url: str, directory: DataDirectory) -> None:
        self.url, self.directory, self.ledger = url, directory, directory.path / "ledger"
        self.random = seeded_random()
        self.server: Process
        self.clients: subprocess.Popen[bytes]

    async def run(self, server_kills: int, postgres_kills: int) -> WriterRecord:
        """Kill both in random order; return what the writers recorded."""
        kills = [self.kill_server] * server_kills + [self.kill_postgres] * postgres_kills
        self.random.shuffle(kills)
        self.ledger.touch()
        with listen("127.0.0.1", 0) as listener:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self.keep_serving(listener))
                await self.while_writing(url_of(listener), kills)
                keeper.cancel()
        return WriterRecord.of(self.ledger)

    async def keep_serving(self, listener: socket.socket) -> None:
        while True:
            async with run_server(listener, database_url=self.url, auth="open") as self.server:
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
        """Kill mostly while calls are stored, and sometimes before everything has recovered."""
        if self.random.random() < 0.75:
            await self.progress()
        await asyncio.sleep(self.random.uniform(0.05, 0.6))
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
        """Kill the postmaster and its children. It is stopped first, to start no others."""
        await until(lambda: postmaster(self.directory) > 0)
        os.kill(parent := postmaster(self.directory), signal.SIGSTOP)
        for process in (*children(parent), parent):
            os.kill(process, signal.SIGKILL)


async def crash_report(url: str, record: WriterRecord) -> CrashReport:
    async with Ring.open(Settings(database_url=url, database_pool_size=1)) as ring:
        report = await check(ring, record)
    sys.stdout.write(f"{report}\n")
    return report


async def test_acknowledged_calls_survive_any_mix_of_kills() -> None:
    async with killable_postgres() as (server, directory):
        record = await CrashTest(server.url(), directory).run(server_kills=8, postgres_kills=4)
        assert await crash_report(server.url(), record) == CrashReport(len(record.acknowledged))


async def test_a_database_that_acknowledges_too_early_is_detected() -> None:
    async with killable_postgres() as (server, directory):
        # The tables themselves must not be lost.
        async with Ring.open(server.url()) as ring:
            await ring.db.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            await ring.db.execute("SELECT pg_reload_conf()")
        hasty = f"{server.url()}&synchronous_commit=off"
        record = await CrashTest(hasty, directory).run(server_kills=0, postgres_kills=4)
        assert (await crash_report(server.url(), record)).lost > 0
