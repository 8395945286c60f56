"""Memory limits of request bodies that arrive in several parts, in total and per owner.

Each body has a limit, but there may be many of them, and their clients may be slow. Each
project has a limit of its own, so that it cannot exclude the bodies of another. While the caller
is unauthenticated, its network has one, and all networks together have a small part of the total.
"""

from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

from llmring_server.core.fair_queue import FairSlots, QueueLimits, SlotLimits
from llmring_server.core.identity import ProjectId
from llmring_server.core.server_stats import BodyMemoryStats
from llmring_server.errors import Overloaded
from llmring_server.settings import Settings

MIB = 1024**2

MAX_BYTES = 96 * MIB
# How long a large body waits for those before it. Serving one takes a second or two, and at most as
# long as a statement may take.
TURN_TIMEOUT_SECONDS = 20.0
# Of these, by unauthenticated callers. Public routes take bodies of at most 256 KiB.
MAX_UNAUTHENTICATED_BYTES = 16 * MIB

TOO_MANY = "The server has too many large request bodies in progress: retry later."
TOO_MANY_UNAUTHENTICATED = (
    "The server has too many unauthenticated request bodies in progress: retry later."
)
TOO_MANY_OF_NETWORK = (
    "Your network has too many unauthenticated request bodies in progress: send them one at a time,"
    " or retry later."
)
TOO_MANY_OF_PROJECT = (
    "Your project has too many large request bodies in progress: send them one at a time, or retry"
    " later."
)


def large_body_slots() -> FairSlots:
    """Return the slot of the one large body that may be parsed, which takes much more memory."""
    return FairSlots(
        lambda: SlotLimits(1, 1), QueueLimits(), TURN_TIMEOUT_SECONDS, lambda: Overloaded(TOO_MANY)
    )


class MemoryLimit(NamedTuple):
    """How much all bodies of an owner may occupy together, and the error beyond that."""

    owner: Hashable
    max_bytes: int
    message: str


_ALL = MemoryLimit("all", MAX_BYTES, TOO_MANY)
_UNAUTHENTICATED = MemoryLimit(
    "unauthenticated", MAX_UNAUTHENTICATED_BYTES, TOO_MANY_UNAUTHENTICATED
)


class Reservation:
    """The memory that one body occupies; it counts for each of its limits."""

    def __init__(self, used: Counter[Hashable], limits: tuple[MemoryLimit, ...]) -> None:
        self._used = used
        self._limits = limits
        self._bytes = 0

    def add(self, size: int) -> None:
        """Occupy more; raise Overloaded, and occupy nothing more, if that exceeds a limit."""
        for limit in self._limits:
            if self._used[limit.owner] + size > limit.max_bytes:
                raise Overloaded(limit.message)
        for limit in self._limits:
            self._used[limit.owner] += size
        self._bytes += size

    def release(self) -> None:
        """Release all memory."""
        for limit in self._limits:
            self._used[limit.owner] -= self._bytes
            if not self._used[limit.owner]:
                del self._used[limit.owner]
        self._bytes = 0


class BodyMemory:
    """The memory for bodies of one app. `used` has the bytes that each owner occupies."""

    def __init__(self, settings: Settings) -> None:
        self.used: Counter[Hashable] = Counter()
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take over the limits of reservations to come."""
        self._max_network = settings.max_unauthenticated_body_bytes
        self._max_project = settings.max_project_body_bytes
        # One body of the largest size must fit.
        self._max_claimed = max(MAX_BYTES // 2, settings.max_messages_bytes)

    def stats(self) -> BodyMemoryStats:
        """Return how much is occupied, and the limits."""
        return {
            "bytes": self.used[_ALL.owner],
            "unauthenticated_bytes": self.used[_UNAUTHENTICATED.owner],
            "max_bytes": MAX_BYTES,
            "max_unauthenticated_bytes": MAX_UNAUTHENTICATED_BYTES,
        }

    def of_project(self, project_id: ProjectId) -> Reservation:
        """Return a reservation for a body of an authenticated caller."""
        return Reservation(self.used, (self._project(project_id), _ALL))

    def of_network(self, network: str) -> Reservation:
        """Return a reservation for a body of an unauthenticated caller."""
        limit = MemoryLimit(network, self._max_network, TOO_MANY_OF_NETWORK)
        return Reservation(self.used, (limit, _UNAUTHENTICATED, _ALL))

    def of_claimed_project(self, project_id: ProjectId, network: str) -> Reservation:
        """Return a reservation for a body that the caller's signature covers.

        All callers of a proxy may share its network, so that has more than other networks have, but
        not all: whoever else can send such requests cannot refuse those of the proxy.
        """
        limit = MemoryLimit(network, self._max_claimed, TOO_MANY_OF_NETWORK)
        return Reservation(self.used, (self._project(project_id), limit, _ALL))

    def _project(self, project_id: ProjectId) -> MemoryLimit:
        return MemoryLimit(project_id, self._max_project, TOO_MANY_OF_PROJECT)
