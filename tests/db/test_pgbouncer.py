"""Behind PgBouncer in transaction mode. `scripts/test-pgbouncer` runs the whole suite like this."""

import asyncio
from uuid import uuid4

import pytest

from llmring_server import Ring, Settings
from llmring_server.core.identity import project_of_key
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.faults.test_kills import killable_postgres
from tests.support.pooler import find_pgbouncer, pgbouncer, pooled

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("processes")]

CALLS = 200


async def test_a_server_migrates_and_logs_behind_pgbouncer_and_survives_its_restart() -> None:
    program, project_id = find_pgbouncer(), project_of_key(uuid4().hex)
    async with killable_postgres() as (server, directory):
        folder = directory.path / "pooler"
        settings = Settings(
            database_url=pooled(server.url(), folder),
            database_pooler=True,
            database_pool_size=30,
            database_pool_overflow=0,
        )

        async def log(ring: Ring) -> int:
            calls = (ring.usage.log(project_id, NewCall(**CALL)) for _ in range(CALLS))
            return len({result.log_id for result in await asyncio.gather(*calls)})

        with pgbouncer(program, folder, directory.sockets):
            opening = Ring.open(settings)
            ring = await opening.__aenter__()
            assert await log(ring) == CALLS
        with pgbouncer(program, folder, directory.sockets):
            assert await log(ring) == CALLS
            stats = await ring.usage.stats(project_id)
            assert stats.summary.total_requests == 2 * CALLS
            await opening.__aexit__(None, None, None)
