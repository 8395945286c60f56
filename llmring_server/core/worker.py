"""Worker: a thread for work that would block the event loop.

Python lets another thread run every 5 ms, so the loop goes on meanwhile. There is one such thread
in a process: the loop would have to wait for each of several.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

# Work on more than so much is done in the worker: on less, it takes a few milliseconds.
LARGE_BYTES = 32 * 1024

_thread = ThreadPoolExecutor(1, "llmring-worker")


async def in_worker(function: Callable[[], Result]) -> Result:
    """Return the result of a function that the worker thread calls."""
    return await asyncio.get_running_loop().run_in_executor(_thread, function)


async def run(function: Callable[[], Result], *, is_large: bool) -> Result:
    """Return the result of a function, called by the worker if its work is large."""
    return await in_worker(function) if is_large else function()


def are_large(values: Any) -> bool:
    """Tell whether JSON values are so large that the worker should do the work on them."""
    size = 0
    pending = [values]
    while pending:
        value = pending.pop()
        size += 8
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
        if size > LARGE_BYTES:
            return True
    return False
