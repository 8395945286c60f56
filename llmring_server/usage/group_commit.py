"""Group commit: many callers share one commit.

While a batch is written, later callers wait; the next batch then writes all of them at once. One
connection and one commit thus serve any number of concurrent callers.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar, cast

from asyncpg import IntegrityConstraintViolationError

from llmring_server.core.fair_queue import FairQueue, QueueLimits
from llmring_server.core.retry import retry_while_disconnected
from llmring_server.core.server_stats import CommitQueueStats
from llmring_server.db.errors import refuses_a_row
from llmring_server.errors import RingError, traceback_without_values

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

# Returns an outcome or a RingError for each item, with all outcomes committed, or raises.
Write: TypeAlias = Callable[[Sequence[Item]], Awaitable[list[Outcome | RingError]]]

_logger = logging.getLogger(__name__)

# Waiting for the running batch and sharing the next one costs less than two batches side by side,
# unless a batch takes longer than this. A commit usually takes about a hundredth of it.
SLOW_COMMIT_SECONDS = 0.05


class GroupCommitLimits(NamedTuple):
    """How many items a batch holds, how many batches run at once, and how many items may wait.

    `project_share` is the fraction of `max_pending` that one project may use.
    """

    batch_size: int = 500
    concurrent_commits: int = 2
    max_pending: int = 5000
    project_share: float = 0.25

    @property
    def queue(self) -> QueueLimits:
        return QueueLimits(self.max_pending, self.project_share)


class GroupCommit(Generic[Item, Outcome]):
    """Turns a `write` of many items into a call for one.

    An error that blames an item, or a row that the database refuses, is raised for that item only.
    A batch has items of all projects that wait, in turns.
    """

    # An item:
    #
    #     waiting ──────────────► in a batch ──────────────► its future has an outcome or an error
    #              _take_batch                  _flush
    #
    # A flush is a task that writes batches until it has no more to do:
    #
    #                       ┌───────────────────┐
    #                       │  more items wait  │
    #                       ▼                   │
    #     _start_flush ──► writing a batch ─────┴──────► _flush_done ──► _start_flush
    #                                   nothing waits, or
    #                                   another flush is quick
    #
    # `_start_flush` is called when an item arrives, when a flush ends, and when a batch has taken
    # longer than SLOW_COMMIT_SECONDS. It starts a flush if items wait, fewer than
    # `concurrent_commits` flushes run, and all of them are slow: usually there is one. A flush goes
    # on to its next batch only while all others are slow, so that after a slow moment there is one
    # again. Whatever fails, one of these three events follows for every item that waits.

    def __init__(
        self,
        write: Write[Item, Outcome],
        limits: GroupCommitLimits,
    ) -> None:
        self._write = write
        self._limits = limits
        self._waiting: FairQueue[tuple[Item, asyncio.Future[Outcome]]] = FairQueue(limits.queue)
        # Each running flush, and when it began its present batch.
        self._flushes: dict[asyncio.Task[None], float] = {}
        # How many items are in batches that are being written.
        self._in_flight = 0

    async def __call__(self, project_id: Hashable, item: Item) -> Outcome:
        """Write `item` together with others; cancelling the caller cancels nothing else.

        Overloaded if the queue, or the project's share of it, is full.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.put(project_id, (item, future))
        self._start_flush()
        return await future

    def stats(self) -> CommitQueueStats:
        """Return how much waits and is being written, and the limits."""
        return {
            "pending": len(self._waiting),
            "in_flight": self._in_flight,
            "commits": len(self._flushes),
            "max_pending": self._limits.max_pending,
            "max_pending_of_project": self._waiting.max_size_of_project,
            "max_commits": self._limits.concurrent_commits,
            "batch_size": self._limits.batch_size,
        }

    async def drain(self) -> None:
        """Wait until everything that waits is written or has failed."""
        while self._flushes:
            await asyncio.wait(self._flushes)

    def _start_flush(self) -> None:
        may_start = len(self._flushes) < self._limits.concurrent_commits
        if self._waiting and may_start and self._others_are_slow():
            # A separate task, so that cancelling a caller does not cancel the commit of others.
            flush = asyncio.create_task(self._flush_loop())
            self._flushes[flush] = time.monotonic()
            flush.add_done_callback(self._flush_done)

    def _others_are_slow(self, flush: asyncio.Task[None] | None = None) -> bool:
        """Tell if no flush other than `flush` is writing a batch that may soon be committed."""
        latest = time.monotonic() - SLOW_COMMIT_SECONDS
        return all(began < latest for other, began in self._flushes.items() if other is not flush)

    async def _flush_loop(self) -> None:
        # The first batch is its own to write: `_start_flush` has seen that items wait, and from
        # then on every other flush takes this one for quick.
        flush = cast("asyncio.Task[None]", asyncio.current_task())
        loop = asyncio.get_running_loop()
        while True:
            self._flushes[flush] = time.monotonic()
            # If this batch is slow, items that wait by then need another flush, even if no further
            # item arrives.
            timer = loop.call_later(SLOW_COMMIT_SECONDS * 1.1, self._start_flush)
            # A batch is empty if all of its callers have left; others may wait behind them.
            if batch := self._take_batch():
                await self._flush(batch)
            timer.cancel()
            if not self._waiting or not self._others_are_slow(flush):
                return

    def _flush_done(self, flush: asyncio.Task[None]) -> None:
        del self._flushes[flush]
        if flush.cancelled():
            return
        if exc := flush.exception():
            _logger.error("writing a batch failed: %s", traceback_without_values(exc))
        self._start_flush()

    def _take_batch(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        batch = self._waiting.take(self._limits.batch_size)
        return [(item, future) for item, future in batch if not future.cancelled()]

    async def _flush(self, batch: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        outcomes: list[Outcome | Exception] = []
        size = len(batch)
        self._in_flight += size
        try:
            outcomes = await write_each(self._write_or_retry, [item for item, _ in batch])
        finally:
            self._in_flight -= size
            # Also after an unforeseen error: no caller may wait forever.
            outcomes = outcomes or [RingError()] * len(batch)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                _resolve(future, outcome)

    async def _write_or_retry(self, items: Sequence[Item]) -> list[Outcome | RingError]:
        return await retry_while_disconnected(lambda: self._write(items))


async def write_each(
    write: Write[Item, Outcome], items: Sequence[Item]
) -> list[Outcome | Exception]:
    """Write `items` at once; if one of them cannot be stored, halve them until it is alone."""
    try:
        return [*await write(items)]
    except (RingError, IntegrityConstraintViolationError) as exc:
        if not refuses_a_row(exc) or len(items) == 1:
            return [exc] * len(items)
    middle = len(items) // 2
    first = await write_each(write, items[:middle])
    return first + await write_each(write, items[middle:])


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    """Give one caller its outcome, unless the caller has left."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
