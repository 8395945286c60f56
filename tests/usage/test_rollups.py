"""Rollups: every sum is moved once, and statistics are the same before, during and after."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.errors import Unavailable
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
