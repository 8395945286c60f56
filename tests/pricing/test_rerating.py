"""Re-rating: the first cost of a call stays, and the difference is stored as an adjustment."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
import uuid_utils
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import Conflict
from llmring_server.pricing.rerating import CostChange, RerateFilter
from tests.pricing.test_pricing import call, override

NOW = datetime.now(UTC)


@pytest.fixture
def model() -> str:
    return f"m-{uuid4().hex}"


async def rerate(ring: Ring, model: str, *, dry_run: bool = False) -> list[CostChange]:
    now = datetime.now(UTC)
    calls = RerateFilter(now - timedelta(days=400), now + timedelta(minutes=10), model)
    found: list[CostChange] = []
    if dry_run:
        async for page in ring.rerating.preview(calls):
            found += page
    else:
        assert await ring.rerating.run(calls, actor=LIBRARY, progress=found.extend) == len(found)
    return found


async def costs(ring: Ring, project_id: ProjectId) -> Any:
    """Return what the calls cost, and what statistics say of cost, adjustment and unpriced."""
    summary = (await ring.usage.stats(project_id)).summary
    logs = await ring.usage.logs(project_id)
    assert sum(log.cost for log in logs) == summary.total_cost
    assert sum(log.adjustment for log in logs) == summary.total_adjustment
    found = [log.cost for log in logs]
    return found, summary.total_cost, summary.total_adjustment, summary.unpriced_requests


async def test_calls_without_a_price_get_one_when_it_is_known(
    ring: Ring, project_id: ProjectId, model: str
) -> None:
    await ring.usage.log(project_id, call(model, cost=9))
    logged = await ring.usage.log(project_id, call(model))
    assert await costs(ring, project_id) == ([0, 9], 9, 0, 1)
    await ring.pricing.override(override(model, 2), actor=LIBRARY)
    assert len(await rerate(ring, model, dry_run=True)) == 1
    assert await costs(ring, project_id) == ([0, 9], 9, 0, 1)
    change: Any
    [change] = await rerate(ring, model)
    assert (change.before, change.quote.cost) == (None, 2)
    assert await costs(ring, project_id) == ([2, 9], 11, 2, 0)
    assert await rerate(ring, model) == []
    found: Any = await ring.pricing.explain(project_id, logged.log_id)
    assert (found.cost, found.cost_source, found.lines[0].amount) == (2, "override", 2)
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)


async def test_every_rating_of_a_call_is_stored(
    ring: Ring, project_id: ProjectId, model: str
) -> None:
    await ring.pricing.override(override(model, 2), actor=LIBRARY)
    logged = await ring.usage.log(project_id, call(model, id_at_origin="x"), "key")
    for usd in (3, 1):
        await ring.pricing.override(override(model, usd), actor=LIBRARY)
        await rerate(ring, model)
    assert await costs(ring, project_id) == ([1], 1, -1, 0)
    found: Any = await ring.pricing.explain(project_id, logged.log_id)
    amounts: Any = [
        (Decimal(adjustment["amount"]), Decimal(adjustment["cost"]))
        for adjustment in found.adjustments
    ]
    assert (amounts, found.adjustment) == ([(1, 3), (-2, 1)], -1)
    again: Any = await ring.usage.log(project_id, call(model, id_at_origin="x"), "key")
    assert (again.replayed, again.cost) == (True, 2)  # the cost of the first response
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)
    assert await rerate(ring, model) == []
    assert await costs(ring, project_id) == ([1], 1, -1, 0)


async def test_all_batches_of_calls_are_rated(
    ring: Ring, project_id: ProjectId, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.pricing.rerating.BATCH_SIZE", 3)
    old = [call(model, logged_at=NOW - timedelta(days=40 * n)) for n in range(10)]
    await ring.usage.log_many(project_id, old)
    await ring.pricing.override(override(model, 1), actor=LIBRARY)
    assert len(await rerate(ring, model)) == 10
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)


async def test_one_rerating_at_a_time(ring: Ring, project_id: ProjectId, model: str) -> None:
    await ring.usage.log(project_id, call(model))
    async with ring.db.acquire() as connection, connection.transaction():
        inside = ring.within(connection)
        await inside.rerating.with_database(inside._database)._fetch_one("lock_rerating")
        with pytest.raises(Conflict):
            await rerate(ring, model)


async def test_the_last_rating_counts_even_if_the_clock_goes_back(
    ring: Ring, project_id: ProjectId, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ring.usage.log(project_id, call(model))
    for usd, clock in ((2, 10**18), (3, 10**17)):
        made = UUID(int=uuid_utils.uuid7(nanoseconds=clock).int)
        monkeypatch.setattr("llmring_server.pricing.rerating.new_id", lambda made=made: made)
        await ring.pricing.override(override(model, usd), actor=LIBRARY)
        await rerate(ring, model)
    assert await costs(ring, project_id) == ([3], 3, 3, 0)
    assert await rerate(ring, model) == []
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)


async def test_prices_are_stored_again_after_a_rollback(
    ring: Ring, project_id: ProjectId, model: str
) -> None:
    await ring.pricing.override(override(model, 2), actor=LIBRARY)
    [history] = (await ring.pricing.book()).histories("acme", model, None)
    price: Any = history.at(NOW)
    with suppress(Conflict):
        async with ring._database.transaction() as inside:
            await ring.pricing.with_database(inside).insert_prices([price])
            raise Conflict
    logged = await ring.usage.log(project_id, call(model))
    assert (await ring.pricing.explain(project_id, logged.log_id)).price
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)


async def test_price_changes_are_audited(ring: Ring, model: str) -> None:
    await ring.pricing.override(override(model, 2), actor=LIBRARY)
    await rerate(ring, model)
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)
    done = [event.action for event in await ring.audit.events(NOW) if model in event.target]
    assert done == ["price.withdraw", "price.rerate", "price.override"]


# Of calls that an earlier version imported without looking at their details.
BAD_DETAILS = [
    '{"audio_input_tokens": "many"}',
    '{"audio_input_tokens": {}}',
    '{"audio_input_tokens": [1]}',
    '{"audio_input_tokens": null}',
    '{"reasoning_output_tokens": -1}',
    '{"cache_creation_input_tokens": "1"}',
    '{"images": 1e400}',
    '{"images": 100000000000000000000000000000000000000}',
    '{"characters": 1.5}',
    '{"web_searches": true}',
    '{"audio_seconds": "x"}',
    '{"audio_seconds": true}',
    '{"video_seconds": 1e300}',
    '{"cache_tokens_included": "no"}',
    '{"audio_input_tokens": 20}',
    "[1]",
    '"x"',
    "5",
]


@pytest.mark.parametrize("details", BAD_DETAILS)
async def test_a_call_with_bad_details_keeps_its_cost_and_does_not_stop_re_rating(
    ring: Ring, owner: AsyncDatabaseManager, project_id: ProjectId, model: str, details: str
) -> None:
    await ring.pricing.override(override(model, 2), actor=LIBRARY)
    bad = await ring.usage.log(project_id, call(model))
    good = await ring.usage.log(project_id, call(model))
    await owner.execute(
        "UPDATE {{tables.usage_logs}} SET details = $1 WHERE project_id = $2 AND id = $3",
        details,
        project_id,
        bad.log_id,
    )
    await ring.pricing.override(override(model, 3), actor=LIBRARY)
    assert [change.id for change in await rerate(ring, model)] == [good.log_id]
    explanation = await ring.pricing.explain(project_id, bad.log_id)
    assert explanation.cost == 2
    assert explanation.lines == []
    assert (await ring.pricing.explain(project_id, good.log_id)).cost == 3
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)
