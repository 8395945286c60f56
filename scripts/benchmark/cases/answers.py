"""How long the largest responses block the event loop, and how much memory they take."""

import json
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from llmring_server.core.identity import project_of_key
from scripts.benchmark.http_requests import KEYS
from scripts.benchmark.large_items import EXPORTS, LISTS, seed_script
from scripts.benchmark.postgres import execute
from scripts.benchmark.processes import MIB
from scripts.benchmark.runner import Settings, progress
from scripts.benchmark.servers import RESPONSE_TIMEOUT_SECONDS, ServerUnderTest, start, watched

KEY = KEYS[0]
# The targets of one request.
MAX_STALL_MS, MAX_MEMORY_MIB = 50, 64
AT_ONCE = 16
READ_BYTES = 256 * 1024
OK = 200


def answers(settings: Settings) -> dict[str, Any]:
    """Read each list and each export of a project with the largest items."""
    loads = {name: (path, 1) for name, path in {**LISTS, **EXPORTS}.items()}
    loads[f"logs, {AT_ONCE} at once"] = LISTS["logs"], AT_ONCE
    with start(settings.cluster_url, watched, *settings.against_watched) as servers:
        for server in servers:
            assert server.database  # noqa: S101, for the type checker
            execute(server.database, seed_script(project_of_key(KEY), "mcp_client"))
        figures = {
            name: {server.name: _measure(settings, server, *load) for server in servers}
            for name, load in loads.items()
        }
    return {"targets": {"stall_ms": MAX_STALL_MS, "memory_mib": MAX_MEMORY_MIB}} | figures


def _measure(settings: Settings, server: ServerUnderTest, path: str, times: int) -> dict[str, Any]:
    """Return the medians of several rounds, and how many requests failed, by status."""
    rounds = [_round(server, path, times) for _ in range(settings.rounds)]
    figures: dict[str, Any] = {
        name: round(statistics.median(figures[name] for figures, _ in rounds), 1)
        for name in rounds[0][0]
    }
    failed = Counter(status for _, statuses in rounds for status in statuses if status != OK)
    if failed:
        figures["failed"] = dict(failed)
    progress(f"  {path}, {server.name}: {figures}")
    return figures


def _round(
    server: ServerUnderTest, path: str, times: int
) -> tuple[dict[str, float], Sequence[int]]:
    before = seen_by(server)
    started = time.monotonic()
    with ThreadPoolExecutor(times) as threads:
        answers = list(threads.map(lambda _: _read(server, path), range(times)))
    seconds = time.monotonic() - started
    seen = seen_by(server)
    figures = {
        "answer_mib": max(size for _, size in answers) / MIB,
        "seconds": seconds,
        "stall_ms": seen["stall_ms"],
        "stall_cpu_ms": seen["cpu_ms"],
        "memory_mib": seen["peak_mib"] - before["resident_mib"],
    }
    return figures, [status for status, _ in answers]


def _read(server: ServerUnderTest, path: str) -> tuple[int, int]:
    """Send a request; return the status of the response, and how many bytes its body has."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=RESPONSE_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers={"X-API-Key": KEY})
        response = connection.getresponse()
        return response.status, sum(map(len, _parts(response)))
    finally:
        connection.close()


def _parts(response: Any) -> Iterator[bytes]:
    while part := response.read(READ_BYTES):
        yield part


def seen_by(server: ServerUnderTest) -> dict[str, float]:
    """Return what the server has seen since the last time; see `apps/watched.py`."""
    file = Path(server.environment["WATCH_FILE"])
    file.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR1)
    deadline = time.monotonic() + RESPONSE_TIMEOUT_SECONDS
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    seen: dict[str, float] = json.loads(file.read_text())
    return seen
