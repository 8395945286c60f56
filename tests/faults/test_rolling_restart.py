"""Rolling restart: the workers of a server are replaced under load, and no client notices."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llmring_server import Ring, Settings
from llmring_server.server.in_process import listen
from tests.cli.test_db import ENVIRONMENT, PROGRAM
from tests.faults.test_kills import LONGEST, children, killable_postgres, until
from tests.support.crash_writers import CrashReport, check
from tests.support.paced_writers import PacedWriters
from tests.support.served import is_live

pytestmark = [
    pytest.mark.full,
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

PER_SECOND = 300
WORKERS = 2


def workers_of(process: int) -> set[int]:
    commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children(process)}
    return {child for child, command in commands.items() if b"spawn_main" in command}


@asynccontextmanager
async def serving(url: str, port: int, output: Path) -> AsyncIterator[int]:
    """Run `serve` with several workers; yield its process id."""
    environ = {"LLMRING_DATABASE_URL": url, "LLMRING_AUTH": "open"}
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(PROGRAM, "serve", "--env", "prod", "--port", str(port), "--workers", str(WORKERS)),
            env=ENVIRONMENT | environ, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        await until(lambda: is_live(port))
        yield process.pid
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), LONGEST)


async def test_no_request_fails_while_workers_are_replaced(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    writers = PacedWriters(port, PER_SECOND)
    async with killable_postgres() as (server, _):
        async with serving(server.url(), port, tmp_path / "output") as parent:
            await until(lambda: len(workers_of(parent)) == WORKERS)
            async with asyncio.timeout(LONGEST), writers.running():
                for worker in workers_of(parent):
                    acknowledged = len(writers.acknowledged)
                    await until(lambda: len(writers.acknowledged) > acknowledged + PER_SECOND)  # noqa: B023, called at once
                    os.kill(worker, signal.SIGTERM)
                    await until(
                        lambda: len(workers_of(parent) - {worker}) == WORKERS  # noqa: B023, called at once
                    )
                acknowledged = len(writers.acknowledged)
                await until(lambda: len(writers.acknowledged) > acknowledged + 5 * PER_SECOND)
        async with Ring.open(Settings(database_url=server.url())) as ring:
            report = await check(ring, writers.record)
    assert "Traceback" not in (tmp_path / "output").read_text()
    sys.stdout.write(f"{report}, {writers.rejected} rejected, {writers.dropped} dropped\n")
    assert report == CrashReport(len(writers.acknowledged)), writers.failures[:1]
    assert (writers.rejected, writers.dropped) == (0, 0)
