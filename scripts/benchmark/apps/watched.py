"""`llmring-server` with a watch on its event loop and its memory.

At SIGUSR1 it writes what it has seen since the last signal to the file that WATCH_FILE names, and
returns unused memory to the system, so that its peak says what the next request needs.
"""

import asyncio
import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

TICK_SECONDS = 0.001


class Watch:
    """The longest block of the event loop.

    It is measured by the clock; by the CPU of the loop's thread; and by that of all threads, which
    includes the time for which the worker thread kept the loop waiting.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._stall_seconds = self._cpu_seconds = self._process_cpu_seconds = 0.0

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._write)
        last, last_cpu, last_process = _clocks()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now, cpu, process_cpu = _clocks()
            self._stall_seconds = max(self._stall_seconds, now - last - TICK_SECONDS)
            self._cpu_seconds = max(self._cpu_seconds, cpu - last_cpu)
            self._process_cpu_seconds = max(self._process_cpu_seconds, process_cpu - last_process)
            last, last_cpu, last_process = now, cpu, process_cpu

    def _write(self) -> None:
        seen = {
            "stall_ms": self._stall_seconds * 1000,
            "cpu_ms": self._cpu_seconds * 1000,
            "process_cpu_ms": self._process_cpu_seconds * 1000,
            "peak_mib": memory_mib("VmHWM"),
        }
        ctypes.CDLL(None).malloc_trim(0)
        # Resets the peak.
        Path("/proc/self/clear_refs").write_text("5")
        file = Path(os.environ["WATCH_FILE"])
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(seen | {"resident_mib": memory_mib("VmRSS")}))
        partial.rename(file)
        self._reset()


def _clocks() -> tuple[float, float, float]:
    return time.perf_counter(), time.thread_time(), time.process_time()


def memory_mib(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def watched(startup: Callable[..., Any]) -> Callable[..., Any]:
    async def start_and_watch(server: Any, *arguments: Any, **options: Any) -> None:
        await startup(server, *arguments, **options)
        server.watch = asyncio.create_task(Watch().run())

    return start_and_watch


if __name__ == "__main__":
    from llmring_server.cli import main

    # The watch needs the event loop, which the server creates before this method runs.
    uvicorn.Server.startup = watched(uvicorn.Server.startup)  # type: ignore[method-assign]
    main()
