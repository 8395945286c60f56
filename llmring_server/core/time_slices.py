"""Time slices: long work on the event loop lets other tasks run at short intervals."""

import asyncio
import time

# Short, because as many requests as there are connections may each use up a slice in turn.
SLICE_SECONDS = 0.002


class TimeSlices:
    """Divides the work of one task: call `pause` between its steps."""

    def __init__(self) -> None:
        self._end = time.monotonic() + SLICE_SECONDS

    async def pause(self) -> None:
        """Let all other tasks run, if the slice is over."""
        if time.monotonic() >= self._end:
            await asyncio.sleep(0)
            self._end = time.monotonic() + SLICE_SECONDS
