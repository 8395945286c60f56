import asyncio
import sys
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Settings, migrate
from llmring_server.database import opened
from llmring_server.maintenance import maintain
from llmring_server.migrations import FILES, pending, steps

PROCESSES, ROUNDS = 8, 20

MIGRATE = """
import asyncio, sys
from llmring_server import Settings, migrate
from llmring_server.database import opened

async def main():
    settings = Settings(database_url=sys.argv[1], database_pool_size=1, database_pool_overflow=0)
    for schema in sys.stdin:
        chosen = settings.model_copy(update={"database_schema": schema.strip()})
        async with opened(chosen) as db:
            print(len(await migrate(db)), flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def fresh(owner_settings: Settings) -> AsyncIterator[AsyncDatabaseManager]:
    """A schema that is not there yet."""
    schema = f"fresh_{uuid4().hex[:8]}"
    async with opened(owner_settings.model_copy(update={"database_schema": schema})) as db:
        yield db
        await db.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


async def test_migrate_says_what_it_did_and_does_it_once(fresh: AsyncDatabaseManager) -> None:
    files = sorted(file.name for file in FILES.glob("*.sql"))
    assert await pending(fresh) == files
    assert await migrate(fresh) == files
    assert await migrate(fresh) == await pending(fresh) == []
    assert all(step.applied_at and step.applied_at.tzinfo for step in await steps(fresh))


async def test_a_file_that_fails_leaves_nothing_behind(
    fresh: AsyncDatabaseManager,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("sql")
    (folder / "001_good.sql").write_text("CREATE TABLE <<tables.good>> ()")
    (folder / "002_bad.sql").write_text("CREATE TABLE nonsense")
    monkeypatch.setattr("llmring_server.migrations.FILES", folder)
    with pytest.raises(Exception, match="002_bad"):
        await migrate(fresh)
    assert await fresh.fetch_value("SELECT to_regnamespace($1)", fresh.schema) is None


async def test_migrate_is_applied_once_by_many_processes_at_once(
    url: str, owner_settings: Settings
) -> None:
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", MIGRATE, url,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]  # fmt: skip
    async with opened(owner_settings) as db:
        for _ in range(ROUNDS):
            schema = f"race_{uuid4().hex[:8]}"
            assert sorted(await raced(workers, schema)) == [0] * (PROCESSES - 1) + [
                len(list(FILES.iterdir()))
            ]
            await db.execute(f"DROP SCHEMA {schema} CASCADE")
    for worker in workers:
        await worker.communicate(b"")
        assert worker.returncode == 0


async def raced(workers: list[asyncio.subprocess.Process], schema: str) -> list[int]:
    """Let all workers migrate `schema` at the same moment; return how many files each applied."""
    for worker in workers:
        assert worker.stdin
        worker.stdin.write(f"{schema}\n".encode())
    return [int(await worker.stdout.readline()) for worker in workers if worker.stdout]


async def test_partitions_take_back_what_the_default_one_caught(
    fresh: AsyncDatabaseManager,
) -> None:
    await migrate(fresh)
    this_month = await fresh.fetch_value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
    await fresh.execute(f"DROP TABLE {{{{tables.usage_logs_{this_month}}}}}")
    await fresh.execute(
        "INSERT INTO {{tables.usage_logs}} VALUES (gen_random_uuid(), now(), gen_random_uuid(),"
        " 1, 1, 0, NULL, 1, 'client', 'ok', 'p', 'm', 'default', NULL, NULL, NULL, '{}')"
    )
    assert (await maintain(fresh)).made == [f"usage_logs_{this_month}"]
    count = "SELECT count(*) FROM {{tables.usage_logs_%s}}"
    assert await fresh.fetch_value(count % this_month) == 1
    assert await fresh.fetch_value(count % "default") == 0
