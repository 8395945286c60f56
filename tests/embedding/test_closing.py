"""Closing a ring: background tasks end, and connections return to the pool."""

import asyncio
from decimal import Decimal

import pytest

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.core.retry import retry_while_disconnected
from llmring_server.errors import (
    DecryptionFailed,
    NotMigrated,
    Overloaded,
    RegistryStale,
    RingError,
    Unavailable,
)
from llmring_server.receipts.signing_keys import SigningKeyError
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.faults.test_kills import until
from tests.support.fake_registry import FakeRegistry

ENTRY = NewCall(**CALL, cost=Decimal(1))


async def test_closing_a_ring_ends_its_background_tasks(
    settings: Settings, project_id: ProjectId, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every write starts a move of sums to the rollups.
    monkeypatch.setattr("llmring_server.usage.rollups.MOVE_INTERVAL_SECONDS", -1)
    before = asyncio.all_tasks()
    async with Ring.open(settings.model_copy(update={"registry_url": fake.url})) as ring:
        await ring.registry.snapshot()
        waiting = asyncio.create_task(ring.usage.log(project_id, ENTRY))
        await asyncio.sleep(0)
        during = asyncio.all_tasks() - before
    assert len(during) > 1
    assert asyncio.all_tasks() - before <= {waiting}
    assert (await waiting).log_id


async def test_ring_on_a_callers_database_is_usable_after_aclose(
    ring: Ring, project_id: ProjectId
) -> None:
    for count in (1, 2):
        waiting = asyncio.create_task(ring.usage.log(project_id, ENTRY))
        await asyncio.sleep(0)
        await ring.aclose()
        assert len(await ring.usage.logs(project_id)) == count
        await waiting


async def test_aclose_returns_all_connections_to_the_pool(settings: Settings) -> None:
    async with Ring.open(settings) as ring:
        pool = ring.db._pool
        assert pool
        # The connection that migrated may still be on its way back.
        await until(lambda: pool.get_idle_size() == pool.get_size())
        await asyncio.gather(ring.ping(), ring.ping())
        await ring.aclose()
        assert pool.get_idle_size() == pool.get_size()


@pytest.mark.parametrize(
    "error",
    [SigningKeyError, NotMigrated, Overloaded, DecryptionFailed, RegistryStale, Unavailable],
)
async def test_only_lost_connections_are_retried(error: type[RingError]) -> None:
    tries = 0

    async def work() -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error
        return tries

    if error is Unavailable:
        assert await retry_while_disconnected(work) == 2
        return
    assert error().status == 503
    with pytest.raises(error):
        await retry_while_disconnected(work)
    assert tries == 1
