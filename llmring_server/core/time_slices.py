"""Time slices: long work on the event loop lets other tasks run at short intervals.

slices = TimeSlices()
for item in items:
    work_on(item)
    await slices.pause()
"""

import asyncio
import time
from weakref import WeakKeyDictionary

# Short, since a request waits for one slice of each step that it takes on the loop.
SLICE_SECONDS = 0.001

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def let_others_run() -> None:
    """Let everything that is ready run.

    Tasks that call this continue one at a time. If each of them did a slice in every round of the
    loop, a request would wait for as many slices as there are such tasks.
    """
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        await asyncio.sleep(0)


class TimeSlices:
    """Divides the work of one task: call `pause` between its steps."""

    def __init__(self) -> None:
        self._end = time.monotonic() + SLICE_SECONDS

    async def pause(self) -> None:
        """Let all other tasks run, if the slice is over."""
        if time.monotonic() >= self._end:
            await let_others_run()
            self._end = time.monotonic() + SLICE_SECONDS
