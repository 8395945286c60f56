"""Backups: what docs/operations.md says of them works with the programs of PostgreSQL."""

import asyncio
from pathlib import Path

import pytest

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, project_of_key
from llmring_server.db.embedded_postgres import find_programs
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.support.postgres import database, make_cluster
from tests.support.postgres_node import (
    PostgresNode,
    create_owned_folder,
    nodes_folder,
    run_as_postgres,
    running,
)


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


# As docs/operations.md says, but for the folders and the target, which a test can name exactly.
ARCHIVING = """
wal_level = replica
archive_mode = on
archive_command = 'test ! -f {folder}/wal/%f && cp %p {folder}/wal/%f'
"""
RESTORING = """
restore_command = 'cp {folder}/wal/%f %p'
recovery_target_name = 'before the mistake'
recovery_target_action = 'promote'
"""


@pytest.mark.full
async def test_a_base_backup_and_the_archive_restore_a_point_in_time() -> None:
    project_id = project_of_key("project")
    with nodes_folder() as folder:
        for name in ("wal", "first", "second"):
            create_owned_folder(folder / name)
        first, second = PostgresNode(folder / "first"), PostgresNode(folder / "second")
        make_cluster(first.folder, ARCHIVING.format(folder=folder))
        # Stopping fast archives what has been written.
        async with (
            running(first, stop="fast"),
            Ring.open(Settings(database_url=first.url)) as ring,
        ):
            await ring.usage.log(project_id, NewCall(**CALL | {"alias": "before the backup"}))
            backup = ("--pgdata", second.data, "--checkpoint", "fast", "--dbname", first.url)
            await run_as_postgres("pg_basebackup", *backup)
            await ring.usage.log(project_id, NewCall(**CALL | {"alias": "after the backup"}))
            expected = await ring.usage.stats(project_id)
            await ring.db.execute("SELECT pg_create_restore_point('before the mistake')")
            await ring.projects.erase(project_id, actor=LIBRARY)
            await ring.db.execute("SELECT pg_switch_wal()")
        with (second.data / "postgresql.conf").open("a") as file:
            file.write(RESTORING.format(folder=folder))
        (second.data / "recovery.signal").touch()
        async with running(second), Ring.open(Settings(database_url=second.url)) as ring:
            assert await ring.usage.stats(project_id) == expected
            assert len(await ring.usage.logs(project_id)) == 2
            await ring.usage.log(project_id, NewCall(**CALL))
