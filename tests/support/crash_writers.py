"""Crash writers: eight clients that log until they are stopped, and the check of what is stored."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, NamedTuple, Self
from uuid import uuid4

import httpx
import orjson

from llmring_server import Ring
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.usage.stats import LabelTotals, StatsQuery

API_KEY, LOG = "kill-writers", "/api/v1/log"
WRITERS = 8
MAX_PAUSE_SECONDS = 0.05
TIMEOUT_SECONDS = 5.0
RETRIED = {409, 500, 503}

CALLS = """
SELECT id::text, id_at_origin, provider, model, alias, profile, status, cost,
       input_tokens, output_tokens, cached_input_tokens
FROM {{tables.usage_logs}} WHERE project_id = $1"""
LABELS = ("provider", "model", "alias", "profile")
COUNTS = ("cost", "input_tokens", "output_tokens", "cached_input_tokens")


class WriterRecord(NamedTuple):
    """The writers' record: the id of each acknowledged key, and errors that should not happen."""

    acknowledged: dict[str, str]
    mismatches: int
    failures: int

    @classmethod
    def of(cls, ledger: Path) -> Self:
        lines = [orjson.loads(line) for line in ledger.read_bytes().splitlines()]
        return cls(
            {line["key"]: line["log_id"] for line in lines if "log_id" in line},
            sum("mismatch" in line for line in lines),
            sum("failure" in line for line in lines),
        )


class CrashReport(NamedTuple):
    """Whether the acknowledged calls are stored, once and with right totals."""

    acknowledged: int
    lost: int = 0
    doubled: int = 0
    mismatches: int = 0
    failures: int = 0
    wrong_totals: int = 0


async def check(ring: Ring, record: WriterRecord) -> CrashReport:
    rows = await ring.db.fetch_all(CALLS, project_of_key(API_KEY))
    stored = {(row["id_at_origin"], row["id"]) for row in rows}
    return CrashReport(
        acknowledged=len(record.acknowledged),
        lost=len(record.acknowledged.items() - stored),
        doubled=len(rows) - len({key for key, _ in stored}),
        mismatches=record.mismatches,
        failures=record.failures,
        wrong_totals=await wrong_totals(ring, project_of_key(API_KEY)),
    )


async def wrong_totals(ring: Ring, project_id: ProjectId) -> int:
    """Count reports that differ from the sums of the calls, from daily and quarter-hour totals."""
    rows, wrong = await ring.db.fetch_all(CALLS, project_id), 0
    for grain in ("day", "hour"):
        # The window ends at midnight: everything reported comes from totals, nothing from calls.
        window = StatsQuery(end_date=datetime.now(UTC).date() + timedelta(days=1), group_by=grain)
        report = await ring.usage.stats(project_id, window)
        assert report.summary.total_requests == len(rows)
        wrong += sum(getattr(report, f"by_{label}") != sums(rows, label) for label in LABELS)
    return wrong


def sums(rows: list[dict[str, Any]], label: str) -> dict[str, LabelTotals]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[label], []).append(row)
    return {value: totals(group) for value, group in groups.items()}


def totals(rows: list[dict[str, Any]]) -> LabelTotals:
    errors = sum(row["status"] != "ok" for row in rows)
    added = {name: sum(row[name] for row in rows) for name in COUNTS}
    return LabelTotals(requests=len(rows), errors=errors, unknown_usage_requests=0, **added)


def writers(url: str, ledger: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Start the writers; they stop at SIGTERM, or after `seconds`."""
    command = (sys.executable, "-m", "tests.support.crash_writers", url, ledger, str(seconds))
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def call(key: str) -> dict[str, Any]:
    """Return the call that `key` stands for, always the same one."""
    n = int(key[:4], 16)
    labels = {"provider": "openai", "model": f"gpt-{n % 3}", "alias": f"{n % 5}"}
    counts = {"input_tokens": n, "output_tokens": n % 7, "cost": n / 1024}
    return {"id_at_origin": key, **labels, **counts}


def post(path: str, body: Any, api_key: str, key: str = "") -> bytes:
    """Return the bytes of a request: an HTTP client would take longer than the server."""
    data = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nX-API-Key: {api_key}\r\n"
    head += f"Idempotency-Key: {key}\r\n" if key else ""
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def request_json(
    request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Any:
    """Send a request until its key is not in use elsewhere; return the response's JSON."""
    status = b"409"
    while status == b"409":
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        status = head.split()[1]
    assert status == b"200", body
    return orjson.loads(body)


class Writer:
    """A client that sends each call until it is acknowledged, and records that on disk."""

    def __init__(self, client: httpx.AsyncClient, ledger: BinaryIO, stopped: asyncio.Event) -> None:
        self.client, self.ledger, self.stopped = client, ledger, stopped
        self.acknowledged: list[tuple[str, str]] = []
        self.chance = Random()  # noqa: S311, not a secret

    async def write(self) -> None:
        while not self.stopped.is_set():
            key = uuid4().hex
            if log_id := await self.send(key):
                self.keep(key=key, log_id=log_id)
                self.acknowledged.append((key, log_id))
            if self.acknowledged and self.chance.random() < 0.1:
                await self.repeat(*self.chance.choice(self.acknowledged))

    async def repeat(self, key: str, log_id: str) -> None:
        if (again := await self.send(key)) not in (log_id, None):
            self.keep(mismatch=again, key=key)

    async def send(self, key: str) -> str | None:
        """Send a call until it is acknowledged; None if the writers are stopped before."""
        while not self.stopped.is_set():
            if log_id := await self.attempt(key):
                return log_id
            await asyncio.sleep(MAX_PAUSE_SECONDS * self.chance.random())
        return None

    async def attempt(self, key: str) -> str | None:
        headers = {"Idempotency-Key": key}
        try:
            response = await self.client.post(LOG, json=call(key), headers=headers)
        except httpx.TransportError:
            return None
        if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            self.keep(failure=response.text, key=key)
        if response.status_code in RETRIED:
            return None
        return str(response.raise_for_status().json()["log_id"])

    def keep(self, **line: str) -> None:
        self.ledger.write(orjson.dumps(line) + b"\n")
        self.ledger.flush()
        os.fsync(self.ledger.fileno())


async def main(url: str, ledger: str, seconds: str) -> None:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.call_later(float(seconds), stopped.set)
    headers = {"X-API-Key": API_KEY}
    with Path(ledger).open("ab") as file:  # noqa: ASYNC230, nothing counts before it is on disk
        async with (
            httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(WRITERS):
                group.create_task(Writer(client, file, stopped).write())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
