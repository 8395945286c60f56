"""Rate limits: how often a key may call, and how often an address may fail to say who it is.

Token buckets in this process: each worker counts for itself.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from llmring_server.core.identity import ProjectId
from llmring_server.errors import RateLimited
from llmring_server.settings import Settings

MAX_BUCKETS = 10_000
MAX_LONG_RUNNING = 2
GUESSED = "Too many wrong credentials; try again later."
LONG = "Exports or receipts of this project are being made; try again later."


class TokenBuckets:
    """A bucket for each caller, which fills at `rate` a second up to `burst`."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._filled: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, who: Hashable, refusal: str) -> None:
        """Take a token of `who`, or raise TooMany until there is one."""
        now = time.monotonic()
        tokens = self._tokens(who, now)
        self._filled.pop(who, None)
        self._filled[who] = (tokens - 1 if tokens >= 1 else tokens), now
        if len(self._filled) > MAX_BUCKETS:
            self._filled.popitem(last=False)
        self._refuse(tokens, refusal)

    def check(self, who: Hashable, refusal: str) -> None:
        """Raise TooMany if `who` has no token; take none."""
        self._refuse(self._tokens(who, time.monotonic()), refusal)

    def _tokens(self, who: Hashable, now: float) -> float:
        tokens, then = self._filled.get(who, (self.burst, now))
        return min(self.burst, tokens + (now - then) * self.rate)

    def _refuse(self, tokens: float, refusal: str) -> None:
        if tokens < 1:
            raise RateLimited(refusal, self.burst, math.ceil((1 - tokens) / self.rate))


class RateLimits:
    """The limits of one app."""

    def __init__(self, settings: Settings) -> None:
        rate, failures = settings.rate_limit, settings.failed_auth_limit
        self._holding: Counter[ProjectId] = Counter()
        self._calls = TokenBuckets(rate, settings.rate_burst) if rate else None
        self._failures = TokenBuckets(failures / 60, failures) if failures else None

    def call(self, who: Hashable) -> None:
        if self._calls:
            self._calls.take(who, "This key has called too often; try again later.")

    @contextmanager
    def holding(self, project_id: ProjectId) -> Iterator[None]:
        """Hold a place of a project's for what may take a connection for long."""
        if self._holding[project_id] >= MAX_LONG_RUNNING:
            raise RateLimited(LONG, MAX_LONG_RUNNING, 5)
        self._holding[project_id] += 1
        try:
            yield
        finally:
            self._holding[project_id] -= 1
            if not self._holding[project_id]:
                del self._holding[project_id]

    def failure(self, address: str) -> None:
        """Count a failed authentication."""
        if self._failures:
            self._failures.take(address, GUESSED)

    def guess(self, address: str) -> None:
        """Refuse an address that has failed too often, before it costs a look-up."""
        if self._failures:
            self._failures.check(address, GUESSED)
