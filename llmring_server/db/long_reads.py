"""Long reads: places for reads that may hold a connection for seconds, so that writes find one."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from pgdbm import AsyncDatabaseManager

from llmring_server.core.identity import ProjectId
from llmring_server.errors import Overloaded, RateLimited
from llmring_server.settings import Settings

RETRY_SECONDS = 5


class Places:
    """A number of places for reads. Projects that wait for one take turns.

    A project has at most `per_project` places, and never the last one of several.
    """

    def __init__(self, places: int, per_project: int, wait_seconds: float, reads: str) -> None:
        self.places = places
        self.per_project = min(per_project, max(1, places - 1))
        self._wait_seconds = wait_seconds
        self._reads = reads
        self._taken: Counter[ProjectId] = Counter()
        # The reads that wait: of a project in the order of their arrival, the project whose turn it
        # is first.
        self._waiting: dict[ProjectId, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def place(self, project_id: ProjectId) -> AsyncIterator[None]:
        """Wait for a place, and occupy it; raise RateLimited or Overloaded after `wait_seconds`."""
        if self._may_take(project_id):
            self._taken[project_id] += 1
        else:
            await self._wait(project_id)
        try:
            yield
        finally:
            self._release(project_id)

    def _may_take(self, project_id: ProjectId) -> bool:
        # A read that could take this place does not wait: it was given one when one became free.
        return self._taken.total() < self.places and self._taken[project_id] < self.per_project

    async def _wait(self, project_id: ProjectId) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project_id, deque()).append(turn)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():
                # The place was given in the moment in which the wait ended.
                self._release(project_id)
            else:
                self._stop_waiting(project_id, turn)
            if isinstance(exc, TimeoutError):
                raise self._refusal(project_id) from None
            raise

    def _stop_waiting(self, project_id: ProjectId, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(project_id, deque())
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(project_id, None)

    def _refusal(self, project_id: ProjectId) -> RateLimited | Overloaded:
        if self._taken[project_id] < self.per_project:
            return Overloaded()
        return RateLimited(
            f"Your project already has {self.per_project} {self._reads} in progress; retry later.",
            self.per_project,
            RETRY_SECONDS,
        )

    def _release(self, project_id: ProjectId) -> None:
        self._taken[project_id] -= 1
        if not self._taken[project_id]:
            del self._taken[project_id]
        while (next_project := next(filter(self._may_take, self._waiting), None)) is not None:
            turns = self._waiting.pop(next_project)
            turn = turns.popleft()
            if not turn.done():
                turn.set_result(None)
                self._taken[next_project] += 1
            if turns:
                # Its next turn comes after that of the other projects.
                self._waiting[next_project] = turns


class _Options(NamedTuple):
    """The settings of places. A statement waits for its place as long as another one may take."""

    share: float
    per_project: int
    statement_timeout: float
    acquire_timeout: float


class _PoolPlaces:
    """The places of one pool, which is kept alive, so that its id identifies it.

    `statements` end by themselves, after their timeout at the latest. `transactions` may last as
    long as a client reads, so they have places of their own, unless there is only one.
    """

    def __init__(self, pool: Any, options: _Options) -> None:
        self._pool = pool
        places = max(1, int(pool.get_max_size() * options.share))
        self.statements = Places(
            places - places // 2,
            options.per_project,
            options.statement_timeout,
            "statistics or searches",
        )
        self.transactions = self.statements
        if places > 1:
            self.transactions = Places(
                places // 2, options.per_project, options.acquire_timeout, "exports or receipts"
            )


# Several managers may share a pool, such as those of two schemas: with the same settings, they
# share its places, too.
_places_of_pools: WeakValueDictionary[tuple[int, _Options], _PoolPlaces] = WeakValueDictionary()


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
        self._places: _PoolPlaces | None = None

    def statement(self, project_id: ProjectId) -> AbstractAsyncContextManager[None]:
        """Occupy a place for a statement that may take seconds."""
        return self._pool_places().statements.place(project_id)

    def transaction(self, project_id: ProjectId) -> AbstractAsyncContextManager[None]:
        """Occupy a place for a transaction that may take as long as its results are read."""
        return self._pool_places().transactions.place(project_id)

    def _pool_places(self) -> _PoolPlaces:
        # Not before the first use: a manager may be connected later.
        if self._places is None:
            pool = self._manager._pool
            key = id(pool), self._options
            places = _places_of_pools.get(key)
            if places is None:
                places = _places_of_pools[key] = _PoolPlaces(pool, self._options)
            self._places = places
        return self._places
