"""Rollups: every sum is moved once, and statistics are the same before, during and after."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.db.database import Database
from llmring_server.errors import Unavailable
from llmring_server.maintenance import maintain
from llmring_server.usage.models import NewCall
from llmring_server.usage.rollups import Rollups
from tests.conftest import CALL

HOURS_AGO = datetime.now(UTC) - timedelta(hours=3)
OLD = NewCall(**CALL | {"logged_at": HOURS_AGO, "alias": "a", "origin": None})
RECENT = "SELECT coalesce(sum(requests), 0) FROM {{tables.usage_recent}} WHERE project_id = $1"


@pytest.fixture
def rollups(ring: Ring) -> Rollups:
    return Rollups(ring._database)


async def count(ring: Ring, project_id: ProjectId) -> int:
    return (await ring.usage.stats(project_id)).summary.total_requests


async def test_logging_starts_a_move_once_in_a_while(ring: Ring, project_id: ProjectId) -> None:
    rollups = ring.rollups
    await ring.usage.log(project_id, OLD)
    assert await ring.db.fetch_value(RECENT, project_id) == 1
    rollups._next_move = 0
    await ring.usage.log_many(project_id, [OLD])
    assert rollups._moving
    await rollups._moving
    await Rollups(ring._database).move_to_rollups()
    assert await ring.db.fetch_value(RECENT, project_id) == 0
    moving = rollups._moving
    await ring.usage.log(project_id, OLD)
    assert rollups._moving is moving, "not again at once"
    assert await count(ring, project_id) == 3


async def test_a_slow_move_has_no_other_beside_it(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollups, finished = ring.rollups, asyncio.Event()
    monkeypatch.setattr(rollups, "move_to_rollups", finished.wait)
    rollups._next_move = 0
    await ring.usage.log(project_id, OLD)
    first = rollups._moving
    assert first
    rollups._next_move = 0
    await ring.usage.log(project_id, OLD)
    assert rollups._moving is first
    finished.set()
    await first


async def test_a_move_that_fails_is_logged_and_loses_nothing(
    ring: Ring,
    project_id: ProjectId,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise Unavailable

    monkeypatch.setattr(ring.rollups, "move_to_rollups", fail)
    monkeypatch.setattr(ring.rollups, "_next_move", 0)
    await ring.usage.log(project_id, OLD)
    await asyncio.sleep(0)
    assert "moving sums to rollups failed" in caplog.text
    assert await count(ring, project_id) == 1


async def test_concurrent_moves_and_calls_lose_nothing(
    ring: Ring, project_id: ProjectId, rollups: Rollups
) -> None:
    calls = [OLD.model_copy(update={"origin": f"o{n % 7}"}) for n in range(300)]
    counts = []

    async def move_and_count() -> None:
        await asyncio.gather(rollups.move_to_rollups(), rollups.move_to_rollups())
        counts.append(await count(ring, project_id))

    work = [asyncio.create_task(ring.usage.log(project_id, call)) for call in calls]
    for _ in range(20):
        await move_and_count()
    await asyncio.gather(*work)
    await move_and_count()
    assert counts == sorted(counts)
    assert counts[-1] == 300
    stats = await ring.usage.stats(project_id)
    assert {origin: each.requests for origin, each in stats.by_origin.items()} == {
        f"o{n}": len(calls[n::7]) for n in range(7)
    }
    assert stats.by_alias["a"].requests == 300


async def test_a_missing_label_and_an_empty_one_are_two(
    ring: Ring, project_id: ProjectId, rollups: Rollups
) -> None:
    for alias in ("", None, "a"):
        await ring.usage.log(project_id, OLD.model_copy(update={"alias": alias}))
    before = await ring.usage.stats(project_id)
    assert {alias: each.requests for alias, each in before.by_alias.items()} == {"": 1, "a": 1}
    await rollups.move_to_rollups()
    assert await ring.usage.stats(project_id) == before


async def test_labels_may_be_longer_than_an_index_key(ring: Ring, project_id: ProjectId) -> None:
    long = {"model": "模" * 255, "alias": "型" * 128, "origin": "源" * 255, "profile": "名" * 64}
    for _ in range(2):
        await ring.usage.log(project_id, OLD.model_copy(update=long))
    assert (await ring.usage.stats(project_id)).by_model[long["model"]].requests == 2


FILL = """
INSERT INTO {{tables.usage_recent}} (
    project_id, bucket, labels_digest, caller_xid, provider, model, profile, origin,
    requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
)
SELECT
    $1, date_bin('15 minutes', now() - interval '2 hours', 'epoch'), sha256(n::text::bytea), 0,
    'p', 'm', 'default', 'o', 1, 0, 0, 1, 10, 10, 0
FROM generate_series(1, 100000) AS n
"""


async def test_statistics_of_the_table_do_not_matter_to_a_move(
    alone: Ring, project_id: ProjectId
) -> None:
    # The statistics are those of an empty table of many pages: any plan looks free of charge.
    await alone.db.execute("ALTER TABLE {{tables.usage_recent}} SET (autovacuum_enabled = false)")
    await alone.db.execute(FILL, project_id)
    await alone.db.execute("DELETE FROM {{tables.usage_recent}}")
    await alone.db.execute("VACUUM (TRUNCATE off, ANALYZE) {{tables.usage_recent}}")
    await alone.db.execute(FILL, project_id)
    # A plan that reads the table for every row takes many times as long for a single batch.
    rollups = Rollups(Database(alone.db, Settings(statement_timeout=0.5)))
    await rollups.move_to_rollups()
    assert await alone.db.fetch_value(RECENT, project_id) == 0
    assert await count(alone, project_id) == 100_000


async def test_maintenance_moves_sums_without_the_time_limit_of_requests(
    alone: Ring, project_id: ProjectId
) -> None:
    await alone.db.execute("""
        CREATE FUNCTION refuse_time_limits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            ASSERT current_setting('statement_timeout') = '0';
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse_time_limits BEFORE INSERT ON {{tables.usage_rollups}}
        FOR EACH ROW EXECUTE FUNCTION refuse_time_limits();
    """)
    await alone.usage.log(project_id, OLD)
    await maintain(alone.db, actor=LIBRARY)
    assert await alone.db.fetch_value(RECENT, project_id) == 0
