"""Long reads: slots for reads that may hold a connection for seconds, so that writes find one."""

from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from pgdbm import AsyncDatabaseManager

from llmring_server.core.fair_queue import FairSlots, QueueLimits, SlotLimits
from llmring_server.core.identity import ProjectId
from llmring_server.core.server_stats import LongReadStats
from llmring_server.errors import RateLimited
from llmring_server.settings import Settings

RETRY_SECONDS = 5
# How many reads may wait, of which a quarter may be of one project.
QUEUE_LIMITS = QueueLimits(max_pending=1000)


class _Options(NamedTuple):
    """The settings of slots. A statement waits for its slot as long as another one may take."""

    share: float
    per_project: int
    statement_timeout: float
    acquire_timeout: float


def read_slots(slots: int, per_project: int, timeout: float, kinds: str) -> FairSlots:
    """Return slots for `kinds` of long reads; a project never takes the last one of several."""
    per_project = min(per_project, max(1, slots - 1))
    limits = SlotLimits(slots, per_project)
    reads = f"long read{'s' if per_project > 1 else ''} ({kinds})"

    def too_many() -> RateLimited:
        return RateLimited(
            f"Your project already has {per_project} {reads} in progress: run fewer at a time, or"
            f" retry in {RETRY_SECONDS} s.",
            per_project,
            RETRY_SECONDS,
        )

    return FairSlots(lambda: limits, QUEUE_LIMITS, timeout, too_many)


class _PoolSlots:
    """The slots of one pool, which is kept alive, so that its id identifies it.

    `statements` end by themselves, after their timeout at the latest. `transactions` may last as
    long as a client reads, so they have slots of their own, unless there is only one.
    """

    def __init__(self, pool: Any, options: _Options) -> None:
        self._pool = pool
        slots = max(1, int(pool.get_max_size() * options.share))
        self.statements = read_slots(
            slots - slots // 2,
            options.per_project,
            options.statement_timeout,
            "statistics, searches, filtered lists",
        )
        self.transactions = self.statements
        if slots > 1:
            self.transactions = read_slots(
                slots // 2,
                options.per_project,
                options.acquire_timeout,
                "exports, receipts",
            )


# Several managers may share a pool, such as those of two schemas: with the same settings, they
# share its slots, too.
_slots_of_pools: WeakValueDictionary[tuple[int, _Options], _PoolSlots] = WeakValueDictionary()


class LongReads:
    """The long reads on the pool of a manager: all together occupy only a share of it."""

    def __init__(self, manager: AsyncDatabaseManager, settings: Settings) -> None:
        self._manager = manager
        self._options = _Options(
            settings.long_reads_share,
            settings.long_reads_per_project,
            settings.statement_timeout,
            settings.acquire_timeout,
        )
        self._slots: _PoolSlots | None = None

    def statement(self, project_id: ProjectId) -> AbstractAsyncContextManager[None]:
        """Occupy a slot for a statement that may take seconds."""
        return self._pool_slots().statements.slot(project_id)

    def transaction(self, project_id: ProjectId) -> AbstractAsyncContextManager[None]:
        """Occupy a slot for a transaction that may take as long as its results are read."""
        return self._pool_slots().transactions.slot(project_id)

    def stats(self) -> LongReadStats:
        """Return how many slots there are, and how many are occupied and waited for."""
        slots = self._pool_slots()
        return {
            "statements": slots.statements.stats(),
            "transactions": slots.transactions.stats(),
        }

    def _pool_slots(self) -> _PoolSlots:
        # Not before the first use: a manager may be connected later.
        if self._slots is None:
            pool = self._manager._pool
            key = id(pool), self._options
            slots = _slots_of_pools.get(key)
            if slots is None:
                slots = _slots_of_pools[key] = _PoolSlots(pool, self._options)
            self._slots = slots
        return self._slots
