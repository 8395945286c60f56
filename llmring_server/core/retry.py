"""Retry: repeat an operation until it succeeds or its time is up."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from llmring_server.errors import Unavailable

# For how long, and how often, an operation is repeated while the database cannot be reached.
RETRY_SECONDS = 5.0
RETRY_PAUSE_SECONDS = 0.05

Outcome = TypeVar("Outcome")


async def retry_for(
    work: Callable[[], Awaitable[Outcome]],
    transient: type[Exception] | tuple[type[Exception], ...],
    seconds: float,
    pause: float,
) -> Outcome:
    """Repeat `work` while it raises `transient` errors, for at most `seconds`.

    The last error is raised when the time is up; any other error is raised at once.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await work()
        except transient:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(pause)


def retry_while_disconnected(
    work: Callable[[], Awaitable[Outcome]], seconds: float = RETRY_SECONDS
) -> Awaitable[Outcome]:
    """Repeat `work` while the connection is lost.

    A lost connection does not tell whether the work was committed, so doing it twice must be
    harmless.
    """
    return retry_for(work, Unavailable, seconds, RETRY_PAUSE_SECONDS)
