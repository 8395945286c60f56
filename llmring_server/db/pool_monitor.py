"""Pool monitor: who waits for a connection, and a warning if a pool is in use for long.

There is no timer. What is in use can only grow when a connection is acquired, and become less when
one is released, so these are the moments to look.
"""

import logging
import time
from typing import Any
from weakref import WeakValueDictionary

from llmring_server.core.server_stats import PoolStats

_logger = logging.getLogger(__name__)

BUSY_SHARE = 0.8
WARN_AFTER_SECONDS = 10.0
# To look costs microseconds, which acquiring a connection should not take each time.
LOOK_INTERVAL_SECONDS = 0.1
# Nothing is seen of a parent's pool while this server does not use it. After a longer gap, it is
# unknown whether the pool has been in use all the time.
MAX_GAP_SECONDS = 10.0


class PoolMonitor:
    """The use of one pool, which is kept alive, so that its id identifies it."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        # When each of the waiting requests began to wait, the first one first.
        self._waiting: dict[object, float] = {}
        # Since when more than BUSY_SHARE of the pool has been in use, as far as was seen.
        self.busy_since: float | None = None
        self._has_warned = False
        self._looked_at = 0.0

    def is_of(self, pool: Any) -> bool:
        return self._pool is pool

    def begin_waiting(self, kept: int) -> object:
        """Note that a request waits for a connection; return what `end_waiting` takes."""
        ticket, now = object(), time.monotonic()
        self._waiting[ticket] = now
        if now - self._looked_at >= LOOK_INTERVAL_SECONDS:
            self.look(kept)
        return ticket

    def end_waiting(self, ticket: object) -> None:
        del self._waiting[ticket]

    def look(self, kept: int) -> None:
        """Look how much is in use, without the `kept` connections that nobody uses."""
        now = time.monotonic()
        last, self._looked_at = self._looked_at, now
        used = self._in_use(kept) + len(self._waiting)
        max_size = self._pool.get_max_size()
        if used <= BUSY_SHARE * max_size:
            self.busy_since, self._has_warned = None, False
        elif self.busy_since is None or now - last > MAX_GAP_SECONDS:
            self.busy_since = now
        elif now - self.busy_since >= WARN_AFTER_SECONDS and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "More than %d %% of the %d database connections have been in use for %d s, and %d"
                " requests wait for one: find out what holds them (GET /health?verbose=true), or"
                " make the pool larger (LLMRING_DATABASE_POOL_SIZE, LLMRING_DATABASE_POOL_OVERFLOW,"
                " or the parent application's).",
                BUSY_SHARE * 100,
                max_size,
                now - self.busy_since,
                max(0, used - max_size),
            )

    def stats(self, kept: int) -> PoolStats:
        """Return the state of the pool, of whose connections in use `kept` are unused."""
        pool = self._pool
        oldest = next(iter(self._waiting.values()), None)
        return {
            "min_size": pool.get_min_size(),
            "max_size": pool.get_max_size(),
            "size": pool.get_size(),
            "in_use": self._in_use(kept),
            "kept": kept,
            "idle": pool.get_idle_size(),
            "waiting": len(self._waiting),
            "oldest_wait_seconds": 0.0 if oldest is None else time.monotonic() - oldest,
        }

    def _in_use(self, kept: int) -> int:
        in_use: int = self._pool.get_size() - self._pool.get_idle_size() - kept
        return in_use


# Several managers may share a pool, such as those of two schemas.
_monitors: WeakValueDictionary[int, PoolMonitor] = WeakValueDictionary()


def monitor_of(pool: Any) -> PoolMonitor:
    """Return the monitor of a pool, one for all who use it."""
    monitor = _monitors.get(id(pool))
    if monitor is None:
        monitor = _monitors[id(pool)] = PoolMonitor(pool)
    return monitor
