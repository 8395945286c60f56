"""Fair queues: limit how many items each project may queue, and serve projects round-robin.

A project with many requests delays its own; those of another project wait for one of them.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, NamedTuple, TypeVar

from llmring_server.core.server_stats import SlotStats
from llmring_server.errors import Overloaded, RingError

Item = TypeVar("Item")

PROJECT_QUEUE_FULL = (
    "Too many requests of your project are waiting: retry later, with fewer at a time."
)


class QueueLimits(NamedTuple):
    """How much may wait, and which part of it may be of one project."""

    max_pending: int = 5000
    project_share: float = 0.25


class _ProjectQueue(deque[tuple[Item, int]]):
    """The queued items of one project, with their sizes, oldest first, and their total size."""

    __slots__ = ("size",)

    size: int


class FairQueue(Generic[Item]):
    """Items that wait. They leave in turns: one of each project, round after round."""

    def __init__(self, limits: QueueLimits) -> None:
        self._max_size = limits.max_pending
        self._max_size_of_project = max(1, int(limits.max_pending * limits.project_share))
        self._size = 0
        # By project, the one whose turn is next first. None of them is empty.
        self._projects: dict[Hashable, _ProjectQueue[Item]] = {}

    def __bool__(self) -> bool:
        return bool(self._projects)

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._projects.values())

    @property
    def max_size_of_project(self) -> int:
        return self._max_size_of_project

    def put(self, project_id: Hashable, item: Item, size: int = 1) -> None:
        """Add an item; raise Overloaded if the queue, or the project's share of it, is full.

        The item itself is not counted: one of any size is accepted if little waits.
        """
        queue = self._projects.get(project_id)
        if queue is None:
            queue = _ProjectQueue()
            queue.size = 0
        if queue.size >= self._max_size_of_project or self._size >= self._max_size:
            self._require_room(queue)
        self._projects[project_id] = queue
        queue.append((item, size))
        queue.size += size
        self._size += size

    def _require_room(self, queue: _ProjectQueue[Item]) -> None:
        if queue.size >= self._max_size_of_project:
            raise Overloaded(PROJECT_QUEUE_FULL)
        # What others have in a full queue is no reason to refuse a project that has little: each
        # may still have what it could have if all had the same.
        projects = len(self._projects) + (not queue)
        if queue.size >= self._max_size // projects:
            raise Overloaded

    def take(self, max_items: int) -> list[Item]:
        """Remove and return the next items, `max_items` at most."""
        taken: list[Item] = []
        projects = self._projects
        while projects and len(taken) < max_items:
            project_id = next(iter(projects))
            queue = projects.pop(project_id)
            if not projects and len(queue) <= max_items - len(taken):
                # No other project waits for its turn.
                taken += [item for item, _ in queue]
                self._size -= queue.size
                break
            item, size = queue.popleft()
            taken.append(item)
            queue.size -= size
            self._size -= size
            if queue:
                projects[project_id] = queue
        return taken

    def take_next(self, may_leave: Callable[[Hashable], bool]) -> tuple[Hashable, Item] | None:
        """Remove and return the next item of a project whose items may leave, and the project."""
        for project_id, queue in self._projects.items():
            if may_leave(project_id):
                item, size = queue.popleft()
                queue.size -= size
                self._size -= size
                del self._projects[project_id]
                if queue:
                    self._projects[project_id] = queue
                return project_id, item
        return None

    def remove(self, project_id: Hashable, item: Item, size: int) -> None:
        """Remove an item that need not wait any longer, unless it has been taken."""
        queue = self._projects.get(project_id)
        if queue is None or (item, size) not in queue:
            return
        queue.remove((item, size))
        queue.size -= size
        self._size -= size
        if not queue:
            del self._projects[project_id]


class SlotLimits(NamedTuple):
    """How many slots there are, and how many of them one project may occupy."""

    slots: int
    slots_of_project: int


class FairSlots:
    """Slots for work that occupies a connection or much memory. Projects that wait take turns.

    After `timeout` seconds of waiting, the error is that of `too_many` if the slots of the project
    are occupied, otherwise Overloaded.
    """

    def __init__(
        self,
        limits: Callable[[], SlotLimits],
        queue_limits: QueueLimits,
        timeout: float,
        too_many: Callable[[], RingError] = Overloaded,
    ) -> None:
        self._limits = limits
        self._timeout = timeout
        self._too_many = too_many
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue(queue_limits)
        # How many slots each project occupies.
        self._occupied: Counter[Hashable] = Counter()

    @asynccontextmanager
    async def slot(self, project_id: Hashable, size: int = 1) -> AsyncIterator[None]:
        """Occupy a slot; see `acquire`."""
        await self.acquire(project_id, size)
        try:
            yield
        finally:
            self.release(project_id)

    async def acquire(self, project_id: Hashable, size: int = 1) -> None:
        """Wait for a slot and occupy it, until `release`.

        Overloaded if too much waits already; see the class for other errors. `size` is that of the
        work, for the limits of what waits.
        """
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(project_id, granted, size)
        self._grant()
        try:
            async with asyncio.timeout(self._timeout):
                await granted
        except BaseException as exc:
            # A caller that left, or whose time was up, may have been granted a slot before that.
            if granted.cancelled():
                self._waiting.remove(project_id, granted, size)
            else:
                self.release(project_id)
            if not isinstance(exc, TimeoutError):
                raise
            has_room = self._occupied[project_id] < self._limits().slots_of_project
            raise Overloaded if has_room else self._too_many() from exc

    def release(self, project_id: Hashable) -> None:
        """Release a slot that `acquire` occupied."""
        self._occupied[project_id] -= 1
        if not self._occupied[project_id]:
            del self._occupied[project_id]
        self._grant()

    def stats(self) -> SlotStats:
        """Return how many slots there are, and how many are occupied and waited for."""
        limits = self._limits()
        return {
            "slots": limits.slots,
            "slots_of_project": limits.slots_of_project,
            "in_use": self._occupied.total(),
            "waiting": len(self._waiting),
        }

    def _grant(self) -> None:
        """Grant the free slots to those whose turn it is."""
        limits = self._limits()

        def may_have_slot(project_id: Hashable) -> bool:
            return self._occupied[project_id] < limits.slots_of_project

        while self._occupied.total() < limits.slots:
            if not (turn := self._waiting.take_next(may_have_slot)):
                return
            project_id, granted = turn
            if not granted.cancelled():
                self._occupied[project_id] += 1
                granted.set_result(None)
