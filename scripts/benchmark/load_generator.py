"""The load generator: keep-alive connections that send a request as soon as they have a response.

It runs as a separate process and uses little CPU, because it shares the machine with the server
under test. It reads a load as JSON on stdin and writes its result as JSON to stdout.
"""

import asyncio
import gc
import json
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import cast

import uvloop

from scripts.benchmark import http_requests

_END_OF_HEAD = b"\r\n\r\n"
_CONTENT_LENGTH = b"content-length: "
_SUCCESS = ord("2")


@dataclass(frozen=True)
class Load:
    """What to send: GET `path`, or POST `body` to `path`; without a path, calls to log."""

    connections: int
    seconds: float
    keys: Sequence[str] = (http_requests.KEYS[0],)
    path: str = ""
    body: str = ""
    # Calls a request; 1: to the route for single calls.
    batch_size: int = 1
    # Whether valid calls of a batch are stored even if others are rejected.
    partial: bool = False
    # Without a cost, the server computes it.
    with_cost: bool = True
    # Stop after this many calls or requests; 0: when the time is over.
    limit: int = 0

    def requests(self, origin: str) -> Iterator[bytes]:
        if self.body:
            return http_requests.post_requests(self.path, self.keys[0], self.body)
        if self.path:
            return http_requests.get_requests(self.path, self.keys[0])
        if self.batch_size > 1:
            return http_requests.batch_requests(
                origin,
                self.keys[0],
                self.batch_size,
                with_cost=self.with_cost,
                partial=self.partial,
            )
        return http_requests.log_requests(origin, self.keys, with_cost=self.with_cost)


@dataclass(frozen=True)
class LoadResult:
    """What a load achieved; requests are numbered from 0 in the order of sending."""

    seconds: float
    client_cpu_seconds: float
    successes: int
    failed_requests: list[int]
    # By status, or by the name of the exception that ended a connection.
    failures: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None


class LoadGenerator:
    """Sends one load; holds what its connections share."""

    def __init__(self, load: Load, origin: str) -> None:
        self._load = load
        self.requests = load.requests(origin)
        self.request_limit = load.limit // load.batch_size or sys.maxsize
        self.deadline = 0.0
        self.sent = 0
        self.latencies = array("d")
        self.failed_requests: list[int] = []
        self.failures: Counter[str] = Counter()

    async def run(self, port: int) -> LoadResult:
        connections = [await self._connect(port) for _ in range(self._load.connections)]
        cpu, started = time.process_time(), time.perf_counter()
        self.deadline = started + self._load.seconds
        for connection in connections:
            connection.send(started)
        for connection in connections:
            await connection.finished
        return LoadResult(
            seconds=time.perf_counter() - started,
            client_cpu_seconds=time.process_time() - cpu,
            successes=len(self.latencies),
            failed_requests=self.failed_requests,
            # As a dict: `asdict` would count the items of a Counter.
            failures=dict(self.failures),
            p50_ms=_percentile_ms(self.latencies, 50),
            p99_ms=_percentile_ms(self.latencies, 99),
        )

    async def _connect(self, port: int) -> "Connection":
        connect = asyncio.get_running_loop().create_connection
        return (await connect(partial(Connection, self), "127.0.0.1", port))[1]


class Connection(asyncio.Protocol):
    """One client; of a response it reads only the status and where it ends."""

    transport: asyncio.Transport

    def __init__(self, generator: LoadGenerator) -> None:
        self.generator = generator
        self.finished = asyncio.get_running_loop().create_future()
        self.head = b""
        self.remaining_bytes = 0
        self.sent_at = 0.0
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport does not inherit from asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def send(self, now: float) -> None:
        generator = self.generator
        if now >= generator.deadline or generator.sent >= generator.request_limit:
            self.finished.set_result(None)
            return
        self.number = generator.sent
        generator.sent += 1
        self.sent_at = now
        self.transport.write(next(generator.requests))

    def data_received(self, data: bytes) -> None:
        if self.remaining_bytes:
            self.remaining_bytes -= len(data)
        else:
            self.head = head = self.head + data
            end = head.find(_END_OF_HEAD)
            if end < 0:
                return
            start = head.index(_CONTENT_LENGTH, 0, end) + len(_CONTENT_LENGTH)
            length = int(head[start : head.index(b"\r", start)])
            self.remaining_bytes = end + len(_END_OF_HEAD) + length - len(head)
        if not self.remaining_bytes:
            self._response_received()

    def _response_received(self) -> None:
        head, self.head = self.head, b""
        now = time.perf_counter()
        if head[9] == _SUCCESS:
            self.generator.latencies.append(now - self.sent_at)
        else:
            self._record_failure(head[9:12].decode())
        self.send(now)

    def _record_failure(self, reason: str) -> None:
        self.generator.failed_requests.append(self.number)
        self.generator.failures[reason] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self._record_failure(type(exc).__name__ if exc else "closed")
            self.finished.set_result(None)


def _percentile_ms(latencies: Sequence[float], percent: int) -> float | None:
    ranked = sorted(latencies)
    return ranked[len(ranked) * percent // 100] * 1000 if ranked else None


def main() -> None:
    order = json.load(sys.stdin)
    # The generator creates no reference cycles, and a collection would look like server latency.
    gc.disable()
    generator = LoadGenerator(Load(**order["load"]), order["origin"])
    result = uvloop.run(generator.run(order["port"]))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
