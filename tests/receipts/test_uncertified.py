"""Receipts of uncertified calls: each call is certified once, and closed days are not read."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.errors import BadRequest, InvalidRequest
from llmring_server.receipts import OffsetPage
from llmring_verify.canonical_json import MAX_SAFE_INTEGER
from tests.support.receipts import UNCERTIFIED, log_calls

LARGEST_COUNTABLE = {"input_tokens": MAX_SAFE_INTEGER, "output_tokens": 0}
UNCOUNTABLE = {"input_tokens": MAX_SAFE_INTEGER, "output_tokens": 1}
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def days_ago(days: int, second: int = 0) -> dict[str, str]:
    return {"logged_at": (TODAY - timedelta(days=days, seconds=-second)).isoformat()}


async def number_of_open_days(ring: Ring, project_id: ProjectId) -> int:
    query = "SELECT count(*) FROM {{tables.receipt_open_days}} WHERE project_id = $1"
    count: int = await ring.db.fetch_value(query, project_id)
    return count


async def test_uncertified_calls_are_certified_oldest_first_until_none_is_left(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.receipts.service.MAX_UNCERTIFIED_CALLS", 4)
    monkeypatch.setattr("llmring_server.receipts.selection.BATCH_SIZE", 2)
    calls = [days_ago(days, second) for second, days in enumerate((3, 2, 2, 2, 2, 2, 1, 0))]
    ids = await log_calls(ring, project_id, *calls)
    results = [await ring.receipts.generate(project_id, UNCERTIFIED) for _ in range(3)]
    counts = [(result["certified_count"], result["has_more"]) for result in results]
    assert counts == [(4, True), (2, True), (2, False)]
    summary = results[0]["receipt"]["batch_summary"]
    assert summary
    assert summary["log_ids"] == sorted(ids)[:4]
    with pytest.raises(BadRequest):
        await ring.receipts.generate(project_id, UNCERTIFIED)
    assert await number_of_open_days(ring, project_id) == 0


async def test_a_late_call_of_an_old_day_is_found(ring: Ring, project_id: ProjectId) -> None:
    await log_calls(ring, project_id, days_ago(300), days_ago(300), days_ago(0))
    await ring.receipts.generate(project_id, UNCERTIFIED)
    assert (await ring.receipts.uncertified(project_id))["total"] == 0
    await log_calls(ring, project_id, days_ago(300))
    assert (await ring.receipts.uncertified(project_id))["total"] == 1
    assert (await ring.receipts.generate(project_id, UNCERTIFIED))["certified_count"] == 1


async def test_a_day_with_single_receipts_only_is_read_once(
    ring: Ring, project_id: ProjectId
) -> None:
    [id] = await log_calls(ring, project_id, {})
    await ring.receipts.issue(project_id, UUID(id))
    assert await number_of_open_days(ring, project_id) == 1
    with pytest.raises(BadRequest):
        await ring.receipts.generate(project_id, UNCERTIFIED)
    assert await number_of_open_days(ring, project_id) == 0


async def test_calls_that_json_cannot_count_are_skipped(ring: Ring, project_id: ProjectId) -> None:
    await log_calls(ring, project_id, UNCOUNTABLE)
    with pytest.raises(InvalidRequest):
        await ring.receipts.generate(project_id, UNCERTIFIED)
    await log_calls(ring, project_id, {}, {})
    result = await ring.receipts.generate(project_id, UNCERTIFIED)
    assert (result["certified_count"], result["skipped_count"]) == (2, 1)
    assert (await ring.receipts.uncertified(project_id))["total"] == 1


async def test_a_receipt_ends_before_its_totals_are_too_large(
    ring: Ring, project_id: ProjectId
) -> None:
    await log_calls(
        ring,
        project_id,
        LARGEST_COUNTABLE,
        LARGEST_COUNTABLE | days_ago(1),
        LARGEST_COUNTABLE | days_ago(1),
    )
    results = [await ring.receipts.generate(project_id, UNCERTIFIED) for _ in range(3)]
    assert [result["certified_count"] for result in results] == [1, 1, 1]
    assert [result["has_more"] for result in results] == [True, True, False]


async def test_nothing_is_lost_after_a_receipt_that_ended_early(
    ring: Ring, project_id: ProjectId
) -> None:
    """A receipt ends at its limit of tokens, and small and uncountable calls follow."""
    await log_calls(
        ring,
        project_id,
        LARGEST_COUNTABLE | days_ago(3),
        LARGEST_COUNTABLE | days_ago(2),
        UNCOUNTABLE | days_ago(2, 1),
        {"input_tokens": 0, "output_tokens": 0} | days_ago(1),
    )
    results = [await ring.receipts.generate(project_id, UNCERTIFIED) for _ in range(2)]
    assert [result["certified_count"] for result in results] == [1, 2]
    assert [result["has_more"] for result in results] == [True, False]
    # The uncountable call is after the end of the first receipt.
    assert [result["skipped_count"] for result in results] == [0, 1]
    assert await number_of_open_days(ring, project_id) == 1
    assert (await ring.receipts.uncertified(project_id, OffsetPage()))["total"] == 1


async def test_calls_that_are_stored_meanwhile_are_certified_once(
    ring: Ring, project_id: ProjectId, db: AsyncDatabaseManager
) -> None:
    async def write() -> None:
        for _ in range(10):
            await log_calls(ring, project_id, {}, days_ago(5))

    async def certify() -> None:
        for _ in range(10):
            try:
                await ring.receipts.generate(project_id, UNCERTIFIED)
            except BadRequest:
                await asyncio.sleep(0)

    await asyncio.gather(write(), certify(), write(), certify())
    await certify()
    query = "SELECT log_id FROM {{tables.receipt_calls}} WHERE project_id = $1"
    certified = [row["log_id"] for row in await db.fetch_all(query, project_id)]
    assert (len(certified), len(set(certified))) == (40, 40)
