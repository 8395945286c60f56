"""Many callers, one commit: the first to wait leads, and writes for all who wait by then."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar, cast

from asyncpg import IntegrityConstraintViolationError

from llmring_server.core.retry import retry_while_disconnected
from llmring_server.db.errors import refuses_a_row
from llmring_server.errors import Overloaded, RingError, traceback_without_values

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_logger = logging.getLogger(__name__)

# To wait for a batch under way is to share the next one, which costs all of them less than two side
# by side. This is for how many seconds it is worth it: a commit takes a hundredth of that.
SLOW_COMMIT_SECONDS = 0.05


class GroupCommitLimits(NamedTuple):
    """How much is written at once, by how many if it takes long, and how much may wait."""

    batch: int = 500
    flights: int = 2
    pending: int = 5000


class GroupCommit(Generic[Item, Outcome]):
    """Turns `write` of many into a call for one.

    `write` gives an outcome (or a RingError) for each item, all of them committed, or raises.
    An error that blames an item, or a row that the database refuses, is given to that item alone.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[list[Outcome | RingError]]],
        bounds: GroupCommitLimits,
    ) -> None:
        self._write = write
        self._bounds = bounds
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        # When each of them last set out.
        self._flights: dict[asyncio.Task[None], float] = {}

    async def __call__(self, item: Item) -> Outcome:
        """Write `item` with its neighbours; cancelling the caller cancels nothing else."""
        if len(self._waiting) >= self._bounds.pending:
            raise Overloaded
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._set_out()
        return await future

    async def drain(self) -> None:
        """Wait until everything that waits is written, or has failed."""
        while self._flights:
            await asyncio.wait(self._flights)

    def _set_out(self) -> None:
        if self._waiting and len(self._flights) < self._bounds.flights and self._is_alone():
            # A task of its own, so that a client who leaves takes nobody's commit away.
            flight = asyncio.create_task(self._fly())
            self._flights[flight] = time.monotonic()
            flight.add_done_callback(self._landed)

    def _is_alone(self, flight: asyncio.Task[None] | None = None) -> bool:
        """Tell if a flight has no others beside it, or only such as take long."""
        late = time.monotonic() - SLOW_COMMIT_SECONDS
        return all(since < late for other, since in self._flights.items() if other is not flight)

    async def _fly(self) -> None:
        flight = cast("asyncio.Task[None]", asyncio.current_task())
        while self._waiting and self._is_alone(flight):
            self._flights[flight] = time.monotonic()
            # Whoever waits for it by then goes beside it, also if nobody comes after them.
            watch = asyncio.get_running_loop().call_later(SLOW_COMMIT_SECONDS * 1.1, self._set_out)
            # All of them may have left; behind them others wait.
            if batch := self._take():
                await self._land(batch)
            watch.cancel()

    def _landed(self, flight: asyncio.Task[None]) -> None:
        del self._flights[flight]
        if flight.cancelled():
            return
        if exc := flight.exception():
            _logger.error("writing a batch failed: %s", traceback_without_values(exc))
        self._set_out()

    def _take(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        size = min(len(self._waiting), self._bounds.batch)
        taken = [self._waiting.popleft() for _ in range(size)]
        return [each for each in taken if not each[1].cancelled()]

    async def _land(self, batch: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        outcomes: Sequence[Outcome | Exception] = [RingError()] * len(batch)
        try:
            outcomes = await self._outcomes([item for item, _ in batch])
        finally:
            # Also when something unforeseen happened: nobody is left waiting.
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                settle(future, outcome)

    async def _outcomes(self, items: Sequence[Item]) -> list[Outcome | Exception]:
        try:
            return [*await retry_while_disconnected(lambda: self._write(items))]
        except (RingError, IntegrityConstraintViolationError) as exc:
            if not refuses_a_row(exc) or len(items) == 1:
                return [exc] * len(items)
        # One of them cannot be stored: halve until it stands alone.
        middle = len(items) // 2
        return await self._outcomes(items[:middle]) + await self._outcomes(items[middle:])


def settle(future: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    """Tell one waiter; one who has left hears nothing."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
