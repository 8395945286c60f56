"""Failover under load: a replica becomes the primary, and no acknowledged call is lost or doubled.

The figures are printed: `pytest --full -s tests/faults/test_failover.py`.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable

import pytest

from llmring_server import Ring, Settings
from llmring_server.db.postgres_supervisor import DataDirectory
from llmring_server.server.in_process import listen
from tests.faults.test_kills import LONGEST, children, postmaster, run_server
from tests.support.crash_writers import CrashReport, check
from tests.support.paced_writers import PacedWriters
from tests.support.postgres_node import PostgresNode
from tests.support.replica import primary_and_replica

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("processes")]

PER_SECOND = 1000
# How long before the failover, and after it, calls are logged.
SECONDS = 5.0
# How long after the new primary takes writes the server may need to use it.
MAX_SECONDS = 10.0


async def kill(primary: PostgresNode) -> None:
    """Kill the postmaster and its children. It is stopped first, to start no others."""
    os.kill(parent := postmaster(DataDirectory(primary.folder)), signal.SIGSTOP)
    for process in (*children(parent), parent):
        os.kill(process, signal.SIGKILL)
    (primary.data / "postmaster.pid").unlink()


async def switch_over(primary: PostgresNode) -> None:
    """Stop the primary; it ends when the replica has received everything."""
    await primary.stop("fast")


@pytest.mark.parametrize(
    ("standby_names", "end"),
    [("*", kill), ("", switch_over)],
    ids=["kill, synchronous", "switchover, asynchronous"],
)
async def test_no_acknowledged_call_is_lost_in_a_failover(
    standby_names: str, end: Callable[[PostgresNode], Awaitable[None]]
) -> None:
    async with primary_and_replica("fsync = on\n") as (primary, replica):
        # After the copy was made: the replica must not wait for a replica once it is promoted.
        await primary.query(f"ALTER SYSTEM SET synchronous_standby_names = '{standby_names}'")
        await primary.query("SELECT pg_reload_conf()")
        hosts = f"{primary.folder},{replica.folder}"
        url = f"{primary.url.partition('?')[0]}?host={hosts}&target_session_attrs=read-write"
        with listen("127.0.0.1", 0) as listener:
            writers = PacedWriters(listener.getsockname()[1], PER_SECOND)
            async with (
                run_server(listener, database_url=url, auth="open") as process,
                asyncio.timeout(LONGEST),
                writers.running(),
            ):
                await writers.acknowledged_since(0)
                await asyncio.sleep(SECONDS)
                before = writers.rate(SECONDS - 1)
                if standby_names:
                    assert (
                        await primary.query("SELECT sync_state FROM pg_stat_replication") == "sync"
                    )
                ended_at = time.monotonic()
                await end(primary)
                await replica.promote()
                accepts_at = time.monotonic()
                async with asyncio.timeout(MAX_SECONDS):
                    writes_at = await writers.acknowledged_since(accepts_at)
                await asyncio.sleep(SECONDS)
                after = writers.rate(SECONDS - 1)
                assert process.returncode is None
        async with Ring.open(Settings(database_url=replica.url)) as ring:
            report = await check(ring, writers.record)
    sys.stdout.write(
        f"{report}; {before:.0f} calls/s before, {after:.0f} after; the new primary took writes"
        f" {accepts_at - ended_at:.2f} s after the end of the old one, and the server used it"
        f" {writes_at - accepts_at:.2f} s later; {writers.rejected} requests rejected,"
        f" {writers.dropped} connections dropped\n"
    )
    assert report == CrashReport(len(writers.acknowledged)), writers.failures[:1]
