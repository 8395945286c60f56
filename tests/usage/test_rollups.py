"""Sums move from where they are written fast to where they are read fast: all, and once."""

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
def sums(ring: Ring) -> Rollups:
    return Rollups(ring._database)


async def count(ring: Ring, project_id: ProjectId) -> int:
    return (await ring.usage.stats(project_id)).summary.total_requests


async def test_logging_moves_them_now_and_then(ring: Ring, project_id: ProjectId) -> None:
    sums = ring.rollups
    await ring.usage.log(project_id, OLD)
    assert await ring.db.fetch_value(RECENT, project_id) == 1
    sums._due = 0
    await ring.usage.log_many(project_id, [OLD])
    assert sums._folding
    await sums._folding
    await Rollups(ring._database).fold()
    assert await ring.db.fetch_value(RECENT, project_id) == 0
    folding = sums._folding
    await ring.usage.log(project_id, OLD)
    assert sums._folding is folding, "not again at once"
    assert await count(ring, project_id) == 3


async def test_a_move_that_takes_long_has_no_other_beside_it(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums, over = ring.rollups, asyncio.Event()
    monkeypatch.setattr(sums, "fold", over.wait)
    sums._due = 0
    await ring.usage.log(project_id, OLD)
    first = sums._folding
    assert first
    sums._due = 0
    await ring.usage.log(project_id, OLD)
    assert sums._folding is first
    over.set()
    await first


async def test_a_move_that_fails_is_told_and_harms_nobody(
    ring: Ring,
    project_id: ProjectId,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise Unavailable

    monkeypatch.setattr(ring.rollups, "fold", fail)
    monkeypatch.setattr(ring.rollups, "_due", 0)
    await ring.usage.log(project_id, OLD)
    await asyncio.sleep(0)
    assert "sums stay where they are for now" in caplog.text
    assert await count(ring, project_id) == 1


async def test_moves_beside_each_other_and_beside_calls_lose_nothing(
    ring: Ring, project_id: ProjectId, sums: Rollups
) -> None:
    entries = [OLD.model_copy(update={"origin": f"o{n % 7}"}) for n in range(300)]
    seen = []

    async def move_and_look() -> None:
        await asyncio.gather(sums.fold(), sums.fold())
        seen.append(await count(ring, project_id))

    work = [asyncio.create_task(ring.usage.log(project_id, entry)) for entry in entries]
    for _ in range(20):
        await move_and_look()
    await asyncio.gather(*work)
    await move_and_look()
    assert seen == sorted(seen)
    assert seen[-1] == 300
    stats = await ring.usage.stats(project_id)
    assert {origin: each.requests for origin, each in stats.by_origin.items()} == {
        f"o{n}": len(entries[n::7]) for n in range(7)
    }
    assert stats.by_alias["a"].requests == 300


async def test_no_label_and_an_empty_one_are_two(
    ring: Ring, project_id: ProjectId, sums: Rollups
) -> None:
    for alias in ("", None, "a"):
        await ring.usage.log(project_id, OLD.model_copy(update={"alias": alias}))
    before = await ring.usage.stats(project_id)
    assert {alias: each.requests for alias, each in before.by_alias.items()} == {"": 1, "a": 1}
    await sums.fold()
    assert await ring.usage.stats(project_id) == before


async def test_labels_may_be_longer_than_a_key_of_an_index(
    ring: Ring, project_id: ProjectId
) -> None:
    long = {"model": "模" * 255, "alias": "型" * 128, "origin": "源" * 255, "profile": "名" * 64}
    for _ in range(2):
        await ring.usage.log(project_id, OLD.model_copy(update=long))
    assert (await ring.usage.stats(project_id)).by_model[long["model"]].requests == 2
