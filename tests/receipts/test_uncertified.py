"""What no receipt has certified yet: all of it in the end, and no day is read in vain."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.errors import BadRequest, InvalidRequest
from llmring_verify.canonical_json import MAX_SAFE_INTEGER
from tests.receipts.test_exchange_receipts import REST
from tests.receipts.test_generate import ring
from tests.support.signing import called

__all__ = ["ring"]

LARGEST = {"input_tokens": MAX_SAFE_INTEGER, "output_tokens": 0}
UNCOUNTABLE = {"input_tokens": MAX_SAFE_INTEGER, "output_tokens": 1}


TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def ago(days: int, second: int = 0) -> dict[str, str]:
    return {"logged_at": (TODAY - timedelta(days=days, seconds=-second)).isoformat()}


async def open_days(ring: Ring, project_id: ProjectId) -> int:
    return len(await ring.receipts._selection._fetch_all("open_days", project_id=project_id))


async def test_the_rest_is_taken_oldest_first_until_nothing_is_left(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.receipts.service.MAX_UNCERTIFIED_CALLS", 4)
    monkeypatch.setattr("llmring_server.receipts.selection.BATCH_SIZE", 2)
    ids = await called(
        ring, project_id, *[ago(day, n) for n, day in enumerate((3, 2, 2, 2, 2, 2, 1, 0))]
    )
    told = [await ring.receipts.generate(project_id, REST) for _ in range(3)]
    counts = [(each["certified_count"], each["has_more"]) for each in told]
    assert counts == [(4, True), (2, True), (2, False)]
    assert told[0]["receipt"]["batch_summary"]
    assert told[0]["receipt"]["batch_summary"]["log_ids"] == sorted(ids)[:4]
    with pytest.raises(BadRequest):
        await ring.receipts.generate(project_id, REST)
    assert await open_days(ring, project_id) == 0


async def test_a_late_call_of_an_old_day_is_found(ring: Ring, project_id: ProjectId) -> None:
    await called(ring, project_id, ago(300), ago(300), ago(0))
    await ring.receipts.generate(project_id, REST)
    assert (await ring.receipts.uncertified(project_id))["total"] == 0
    await called(ring, project_id, ago(300))
    assert (await ring.receipts.uncertified(project_id))["total"] == 1
    assert (await ring.receipts.generate(project_id, REST))["certified_count"] == 1


async def test_days_whose_calls_have_receipts_of_their_own_are_read_once(
    ring: Ring, project_id: ProjectId
) -> None:
    [id] = await called(ring, project_id, {})
    await ring.receipts.issue(project_id, UUID(id))
    assert await open_days(ring, project_id) == 1
    with pytest.raises(BadRequest):
        await ring.receipts.generate(project_id, REST)
    assert await open_days(ring, project_id) == 0


async def test_calls_that_json_cannot_count_do_not_stop_the_rest(
    ring: Ring, project_id: ProjectId
) -> None:
    await called(ring, project_id, UNCOUNTABLE)
    with pytest.raises(InvalidRequest):
        await ring.receipts.generate(project_id, REST)
    await called(ring, project_id, {}, {})
    told = await ring.receipts.generate(project_id, REST)
    assert (told["certified_count"], told["skipped_count"]) == (2, 1)
    assert (await ring.receipts.uncertified(project_id))["total"] == 1


async def test_the_rest_stops_before_its_sums_are_too_large(
    ring: Ring, project_id: ProjectId
) -> None:
    await called(ring, project_id, LARGEST, LARGEST | ago(1), LARGEST | ago(1))
    told = [await ring.receipts.generate(project_id, REST) for _ in range(3)]
    assert [each["certified_count"] for each in told] == [1, 1, 1]
    assert [each["has_more"] for each in told] == [True, True, False]


async def test_calls_that_are_stored_meanwhile_are_certified_once(
    ring: Ring, project_id: ProjectId, db: AsyncDatabaseManager
) -> None:
    async def write() -> None:
        for _ in range(10):
            await called(ring, project_id, {}, ago(5))

    async def make() -> None:
        for _ in range(10):
            try:
                await ring.receipts.generate(project_id, REST)
            except BadRequest:
                await asyncio.sleep(0)

    await asyncio.gather(write(), make(), write(), make())
    await make()
    each = "SELECT log_id FROM {{tables.receipt_calls}} WHERE project_id = $1"
    certified = [row["log_id"] for row in await db.fetch_all(each, project_id)]
    assert (len(certified), len(set(certified))) == (40, 40)
