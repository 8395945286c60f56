"""Slices: work that would keep the event loop for long is done in slices, with other work between.

slices = Slices()
for item in items:
    do(item)
    await slices.pause()
"""

import asyncio
import time
from weakref import WeakKeyDictionary

SLICE_SECONDS = 0.001

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def let_others_run() -> None:
    """Let everything that is ready run.

    Tasks that call this continue one at a time. If each of them did a slice in every round of the
    loop, a request would wait for as many slices as there are such tasks.
    """
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        await asyncio.sleep(0)


class Slices:
    """Slices of one piece of work."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def pause(self) -> None:
        """If the present slice has lasted long enough, let others run and begin the next one."""
        if time.perf_counter() - self._began > SLICE_SECONDS:
            await let_others_run()
            self._began = time.perf_counter()
