"""Memory for bodies: what bodies that arrive in several parts may occupy, in all and by owner.

Each body has a limit, but there may be many of them, and their clients may be slow. A project has
its own share, so that it cannot refuse the bodies of another. While the caller is unknown, its
network has one, and all networks together have no more than a small part of the whole.
"""

from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

from llmring_server.core.identity import ProjectId
from llmring_server.errors import Overloaded
from llmring_server.settings import Settings

MIB = 1024**2

MAX_BYTES = 96 * MIB
# Of these, by callers that are not known yet. Public routes take bodies of at most 256 KiB.
MAX_UNKNOWN_BYTES = 16 * MIB

TOO_MUCH_IN_ALL = "The server is receiving as much as it can take; retry later."
TOO_MUCH_UNKNOWN = "The server is receiving as much as it can take without a key; retry later."
TOO_MUCH_OF_NETWORK = (
    "Your network is sending as much as it may at a time before its callers are known;"
    " send one request after another, or retry later."
)
TOO_MUCH_OF_PROJECT = (
    "Your project is sending as much as it may at a time; send large requests one after another,"
    " or retry later."
)


class Share(NamedTuple):
    """How much all bodies of an owner may occupy together, and the error beyond that."""

    owner: Hashable
    max_bytes: int
    message: str


_ALL = Share("all", MAX_BYTES, TOO_MUCH_IN_ALL)
_UNKNOWN = Share("unknown", MAX_UNKNOWN_BYTES, TOO_MUCH_UNKNOWN)


class Reservation:
    """What one body occupies, in each share that it belongs to."""

    def __init__(self, used: Counter[Hashable], shares: tuple[Share, ...]) -> None:
        self._used = used
        self._shares = shares
        self._bytes = 0

    def add(self, size: int) -> None:
        """Occupy more; raise Overloaded, and occupy nothing more, if that exceeds a share."""
        for share in self._shares:
            if self._used[share.owner] + size > share.max_bytes:
                raise Overloaded(share.message)
        for share in self._shares:
            self._used[share.owner] += size
        self._bytes += size

    def release(self) -> None:
        """Occupy nothing any more."""
        for share in self._shares:
            self._used[share.owner] -= self._bytes
            if not self._used[share.owner]:
                del self._used[share.owner]
        self._bytes = 0


class BodyMemory:
    """The memory for bodies of one app. `used` is what each owner occupies."""

    def __init__(self, settings: Settings) -> None:
        self.used: Counter[Hashable] = Counter()
        self._max_unknown = settings.max_unauthenticated_body_bytes
        # The largest body must fit, even if it is larger than a share was meant to be.
        self._max_project = max(settings.max_project_body_bytes, settings.max_messages_bytes)
        self._max_claimed = max(MAX_BYTES // 2, settings.max_messages_bytes)

    def of_project(self, project_id: ProjectId) -> Reservation:
        """Return a reservation for a body of a known caller."""
        return Reservation(self.used, (self._project(project_id), _ALL))

    def of_network(self, network: str) -> Reservation:
        """Return a reservation for a body of an unknown caller."""
        share = Share(network, self._max_unknown, TOO_MUCH_OF_NETWORK)
        return Reservation(self.used, (share, _UNKNOWN, _ALL))

    def of_claimed_project(self, project_id: ProjectId, network: str) -> Reservation:
        """Return a reservation for a body whose signature will tell if the caller is known.

        All callers of a proxy may share its network, so that has more than other networks have, but
        not all: whoever else can send such requests cannot refuse those of the proxy.
        """
        share = Share(network, self._max_claimed, TOO_MUCH_OF_NETWORK)
        return Reservation(self.used, (self._project(project_id), share, _ALL))

    def _project(self, project_id: ProjectId) -> Share:
        return Share(project_id, self._max_project, TOO_MUCH_OF_PROJECT)
