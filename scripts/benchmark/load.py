"""The load: keep-alive connections, each asking again as soon as it is answered.

It is a process of its own, and cheap, because it shares the machine with what it measures.
A plan comes on stdin, what came of it leaves on stdout.
"""

import asyncio
import gc
import json
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvloop

from scripts.benchmark import payload

_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_SUCCESS = ord("2")


@dataclass(frozen=True)
class Plan:
    """How many clients do what, for how long: GET `path`, or POST `body` there, or log calls."""

    clients: int
    seconds: float
    keys: Sequence[str] = (payload.KEYS[0],)
    path: str = ""
    body: str = ""
    batch: int = 1
    # Leave the cost of calls to the server.
    priced: bool = False
    # Stop after so many calls; 0: as many as fit into the time.
    calls: int = 0

    def requests(self, origin: str) -> Iterator[bytes]:
        if self.body:
            return payload.posts(self.path, self.keys[0], self.body)
        if self.path:
            return payload.gets(self.path, self.keys[0])
        if self.batch > 1:
            return payload.batches(origin, self.keys[0], self.batch, priced=self.priced)
        return payload.singles(origin, self.keys, priced=self.priced)


class Run:
    """What the connections of a load have in common."""

    def __init__(self, plan: Plan, origin: str) -> None:
        self.requests = plan.requests(origin)
        self.limit = plan.calls // plan.batch or sys.maxsize
        self.seconds = plan.seconds
        self.deadline = 0.0
        self.sent = 0
        self.latencies = array("d")
        self.refused: list[int] = []
        self.failures: Counter[str] = Counter()

    async def against(self, port: int, clients: int) -> dict[str, Any]:
        connections = [await self._connected(port) for _ in range(clients)]
        cpu, started = time.process_time(), time.perf_counter()
        self.deadline = started + self.seconds
        for each in connections:
            each.ask(started)
        for each in connections:
            await each.over
        took, cpu = time.perf_counter() - started, time.process_time() - cpu
        return {
            "seconds": took,
            "client_seconds": cpu,
            "answered": len(self.latencies),
            "refused": self.refused,
            "failures": self.failures,
            **percentiles(self.latencies),
        }

    async def _connected(self, port: int) -> "Connection":
        connecting = asyncio.get_running_loop().create_connection
        return (await connecting(partial(Connection, self), "127.0.0.1", port))[1]


class Connection(asyncio.Protocol):
    """One client. It reads of an answer only what it needs: the status and where it ends."""

    transport: asyncio.Transport

    def __init__(self, run: Run) -> None:
        self.run = run
        self.over = asyncio.get_running_loop().create_future()
        self.head = b""
        self.rest = 0
        self.asked = 0.0
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one by its methods only.
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, now: float) -> None:
        run = self.run
        if now >= run.deadline or run.sent >= run.limit:
            self.over.set_result(None)
            return
        self.number = run.sent
        run.sent += 1
        self.asked = now
        self.transport.write(next(run.requests))

    def data_received(self, data: bytes) -> None:
        if self.rest:
            self.rest -= len(data)
        else:
            self.head = head = self.head + data
            end = head.find(_END)
            if end < 0:
                return
            at = head.index(_LENGTH, 0, end) + len(_LENGTH)
            self.rest = end + len(_END) + int(head[at : head.index(b"\r", at)]) - len(head)
        if not self.rest:
            self.answered()

    def answered(self) -> None:
        head, self.head = self.head, b""
        now = time.perf_counter()
        if head[9] == _SUCCESS:
            self.run.latencies.append(now - self.asked)
        else:
            self.failed(head[9:12].decode())
        self.ask(now)

    def failed(self, why: str) -> None:
        self.run.refused.append(self.number)
        self.run.failures[why] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.failed(type(exc).__name__ if exc else "closed")
            self.over.set_result(None)


def percentiles(latencies: Sequence[float]) -> dict[str, float | None]:
    ranked = sorted(latencies)
    if not ranked:
        return {"p50_ms": None, "p99_ms": None}
    return {f"p{p}_ms": ranked[len(ranked) * p // 100] * 1000 for p in (50, 99)}


def main() -> None:
    order = json.load(sys.stdin)
    plan = Plan(**order["plan"])
    # Nothing here makes cycles, and a collection would show as latency of the server.
    gc.disable()
    run = Run(plan, order["origin"])
    done = uvloop.run(run.against(order["port"], plan.clients))
    json.dump(done, sys.stdout)


if __name__ == "__main__":
    main()
