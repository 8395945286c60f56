"""Try again what may come right by itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Outcome = TypeVar("Outcome")


async def patiently(
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
