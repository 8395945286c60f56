"""Backups: what docs/operations.md says of them works with the programs of PostgreSQL."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, project_of_key
from llmring_server.db.embedded_postgres import find_programs
from llmring_server.db.postgres_supervisor import USER, chown_to_postgres, spawn
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.support.postgres import database, make_cluster, open_folder


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


@asynccontextmanager
async def running(data: Path) -> AsyncIterator[str]:
    """Run PostgreSQL on a data directory, whose folder is also that of its socket."""
    options = f"-c listen_addresses= -c unix_socket_directories={data.parent}"
    control = find_programs() / "pg_ctl"
    arguments = ("-D", data, "-l", data.parent / "log", "-w")
    assert await asyncio.to_thread(spawn(control, *arguments, "-o", options, "start").wait) == 0
    try:
        yield f"postgresql://{USER}@/postgres?host={data.parent}"
    finally:
        await asyncio.to_thread(spawn(control, *arguments, "-m", "fast", "stop").wait)


@pytest.mark.full
async def test_a_base_backup_and_the_archive_restore_a_point_in_time() -> None:
    # PostgreSQL's user cannot enter pytest's folders, and a path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="llmring-"))
    project_id = project_of_key("project")
    try:
        open_folder(folder)
        for name in ("wal", "first", "second"):
            open_folder(folder / name)
            chown_to_postgres(folder / name)
        make_cluster(folder / "first", ARCHIVING.format(folder=folder))
        async with (
            running(folder / "first/data") as url,
            Ring.open(Settings(database_url=url)) as ring,
        ):
            await ring.usage.log(project_id, NewCall(**CALL | {"alias": "before the backup"}))
            backup = ("--pgdata", folder / "second/data", "--checkpoint", "fast", "--dbname", url)
            program = find_programs() / "pg_basebackup"
            assert await asyncio.to_thread(spawn(program, *backup).wait) == 0
            await ring.usage.log(project_id, NewCall(**CALL | {"alias": "after the backup"}))
            expected = await ring.usage.stats(project_id)
            await ring.db.execute("SELECT pg_create_restore_point('before the mistake')")
            await ring.projects.erase(project_id, actor=LIBRARY)
            await ring.db.execute("SELECT pg_switch_wal()")
        with (folder / "second/data/postgresql.conf").open("a") as file:
            file.write(RESTORING.format(folder=folder))
        (folder / "second/data/recovery.signal").touch()
        async with (
            running(folder / "second/data") as url,
            Ring.open(Settings(database_url=url)) as ring,
        ):
            assert await ring.usage.stats(project_id) == expected
            assert len(await ring.usage.logs(project_id)) == 2
            await ring.usage.log(project_id, NewCall(**CALL))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
