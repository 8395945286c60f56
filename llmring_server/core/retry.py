"""Try again what may come right by itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from llmring_server.errors import Unavailable

RETRY_SECONDS, RETRY_PAUSE = 5.0, 0.05

Outcome = TypeVar("Outcome")


async def retry_for(
    work: Callable[[], Awaitable[Outcome]],
    passing: type[Exception] | tuple[type[Exception], ...],
    seconds: float,
    pause: float,
) -> Outcome:
    """Do `work` until it raises nothing `passing`, or until `seconds` have gone by."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await work()
        except passing:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(pause)


async def retry_while_disconnected(
    work: Callable[[], Awaitable[Outcome]], seconds: float = RETRY_SECONDS
) -> Outcome:
    """Do `work`, again and again while the connection is lost: twice must be harmless."""
    return await retry_for(work, Unavailable, seconds, RETRY_PAUSE)
