"""Rate limits: requests per key, failed authentications per network.

The counts are in the memory of this process: each worker has its own limits.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Hashable

from llmring_server.errors import RateLimited
from llmring_server.settings import Settings

MAX_BUCKETS = 10_000

TOO_MANY_REQUESTS = "This key has sent too many requests; retry later."
TOO_MANY_FAILURES = "Too many failed authentications from your network; retry later."


class TokenBuckets:
    """One token bucket per key, refilled at `rate` tokens per second up to `burst`."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        # The tokens of each bucket, and when they were counted; least recently used first.
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, message: str) -> None:
        """Take a token from a bucket; raise RateLimited if it is empty."""
        now = time.monotonic()
        tokens = self._tokens(key, now)
        self._buckets.pop(key, None)
        self._buckets[key] = (tokens - 1 if tokens >= 1 else tokens), now
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        self._require_token(tokens, message)

    def check(self, key: Hashable, message: str) -> None:
        """Raise RateLimited if a bucket has no token; take none."""
        self._require_token(self._tokens(key, time.monotonic()), message)

    def _tokens(self, key: Hashable, now: float) -> float:
        tokens, counted_at = self._buckets.get(key, (self.burst, now))
        return min(self.burst, tokens + (now - counted_at) * self.rate)

    def _require_token(self, tokens: float, message: str) -> None:
        if tokens < 1:
            raise RateLimited(message, self.burst, math.ceil((1 - tokens) / self.rate))


def _buckets(current: TokenBuckets | None, rate: float | None, burst: int) -> TokenBuckets | None:
    if current and (current.rate, current.burst) == (rate, burst):
        return current
    return TokenBuckets(rate, burst) if rate else None


class RateLimits:
    """The rate limits of one app."""

    def __init__(self, settings: Settings) -> None:
        self._requests: TokenBuckets | None = None
        self._failures: TokenBuckets | None = None
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take over limits; what has been counted for a limit that stays is kept."""
        self._requests = _buckets(self._requests, settings.rate_limit, settings.rate_burst)
        failures = settings.failed_auth_limit
        self._failures = _buckets(self._failures, failures / 60, failures)

    def count_request(self, key: Hashable) -> None:
        """Count a request of an authenticated caller; raise RateLimited if it has sent too many."""
        if self._requests:
            self._requests.take(key, TOO_MANY_REQUESTS)

    def count_auth_failure(self, network: str) -> None:
        """Count a failed authentication; raise RateLimited if there were too many."""
        if self._failures:
            self._failures.take(network, TOO_MANY_FAILURES)

    def check_auth_failures(self, network: str) -> None:
        """Raise RateLimited for a network with too many failed authentications.

        This comes before a key is looked up, so that guessing costs the database nothing.
        """
        if self._failures:
            self._failures.check(network, TOO_MANY_FAILURES)
