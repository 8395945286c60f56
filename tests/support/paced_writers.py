"""Paced writers: clients that log so many calls per second, each until it is acknowledged.

They follow HTTP: after `Connection: close`, they open another connection.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from uuid import uuid4

import orjson

from tests.support.crash_writers import API_KEY, LOG, WriterRecord, call, post

CONNECTIONS = 50
RETRIED = {b"409", b"429", b"503"}
# A response may take as long as the server tries to reach its database.
TIMEOUT_SECONDS = 15.0
PAUSE_SECONDS = 0.05

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PacedWriters:
    """What the writers have sent and what was acknowledged, with the time of each."""

    def __init__(self, port: int, per_second: int) -> None:
        self._port = port
        self._interval = CONNECTIONS / per_second
        self._is_stopped = False
        self.acknowledged: dict[str, str] = {}
        # When each acknowledged call was sent for the first time, and when it was acknowledged.
        self.times: list[tuple[float, float]] = []
        # Responses that should not happen, how many asked to try again, and how many connections
        # ended without a response.
        self.failures: list[bytes] = []
        self.rejected = 0
        self.dropped = 0

    @property
    def record(self) -> WriterRecord:
        return WriterRecord(self.acknowledged, mismatches=0, failures=len(self.failures))

    def rate(self, seconds: float) -> float:
        """Return how many calls per second were acknowledged in the last `seconds`."""
        since = time.monotonic() - seconds
        return sum(at > since for _, at in self.times) / seconds

    async def acknowledged_since(self, moment: float) -> float:
        """Wait for the first call that is sent after `moment` and acknowledged; return when."""
        while True:
            if times := [at for sent, at in self.times if sent > moment]:
                return min(times)
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write until the end of the block; then wait until all calls are acknowledged."""
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(self._write(number * self._interval / CONNECTIONS))
            try:
                yield
            finally:
                self._is_stopped = True

    async def _write(self, delay: float) -> None:
        next_at = time.monotonic() + delay
        streams: Streams | None = None
        while not self._is_stopped:
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
            # What could not be sent in time is not made up for.
            next_at = max(next_at + self._interval, time.monotonic())
            key, sent = uuid4().hex, time.monotonic()
            request = post(LOG, call(key), API_KEY, key)
            while key not in self.acknowledged:
                streams = await self._attempt(key, request, streams)
            self.times.append((sent, time.monotonic()))
        if streams:
            streams[1].close()

    async def _attempt(self, key: str, request: bytes, streams: Streams | None) -> Streams | None:
        """Send a request once; return the connection if it may be used again."""
        try:
            reader, writer = streams or await asyncio.open_connection("127.0.0.1", self._port)
        except ConnectionRefusedError:
            await asyncio.sleep(PAUSE_SECONDS)
            return None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_content_length(head))
        except (OSError, asyncio.IncompleteReadError):
            self.dropped += 1
            with closing(writer):
                return None
        status = head.split()[1]
        if status == b"200":
            self.acknowledged[key] = orjson.loads(body)["log_id"]
        elif status in RETRIED:
            self.rejected += 1
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            self.failures.append(head + body)
        if b"connection: close" in head.lower():
            writer.close()
            return None
        return reader, writer


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return 0
