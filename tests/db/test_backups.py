"""Backups: what docs/operations.md says of them works with the programs of PostgreSQL."""

import asyncio
from pathlib import Path

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, project_of_key
from llmring_server.db.embedded_postgres import find_programs
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.support.postgres import database


async def run(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(find_programs() / program, *arguments)
    assert await process.wait() == 0


async def test_a_dump_restores_calls_sums_and_keys(
    alone: Ring, server_url: str, tmp_path: Path
) -> None:
    project_id = project_of_key("project")
    for number in range(3):
        await alone.usage.log(project_id, NewCall(**CALL | {"alias": str(number)}))
    issued = await alone.keys.issue("named", actor=LIBRARY)
    dump = str(tmp_path / "llmring.dump")
    url = alone.settings.database_url or ""
    await run("pg_dump", "--format", "custom", "--file", dump, url)
    async with database(server_url, "restored") as restored_url:
        await run("pg_restore", "--dbname", restored_url, dump)
        settings = alone.settings.model_copy(
            update={"database_url": restored_url, "migrate_on_start": False}
        )
        async with Ring.open(settings) as restored:
            await restored.ready()
            assert await restored.usage.stats(project_id) == await alone.usage.stats(project_id)
            assert await restored.usage.logs(project_id) == await alone.usage.logs(project_id)
            caller = await restored.keys.caller(issued.secret)
            assert caller
            assert caller.project_id == issued.project_id
            await restored.usage.log(project_id, NewCall(**CALL))
