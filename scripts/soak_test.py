"""Soak test: a mixed load of all routes for a long time, with a fault each minute.

It starts a PostgreSQL and a server of its own. It fails if an acknowledged call is not stored
exactly once, if a route never succeeds, or if the memory, files or connections of the server grow.
The figures go to stdout as JSON.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from secrets import token_bytes
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import orjson

from llmring_server.access.key_format import key_id
from llmring_server.core.identity import PROJECT_SCOPES
from llmring_server.db.embedded_postgres import EmbeddedPostgres
from llmring_server.routes import API, META
from llmring_server.web.router import Route
from scripts.benchmark.postgres import fetch, postmaster_pid
from scripts.benchmark.processes import PROC, free_port, resident_mib, run_server, wait_for_exit
from scripts.benchmark.servers import COMMAND

CLIENTS = 16
REQUESTS_PER_SECOND = 100
DISCONNECTS = 0.005
# Half of the requests are those that must not be lost.
LOGGED = 0.5
RETRY_SECONDS = 60
FAULT_SECONDS = 3
SAMPLE_SECONDS = 10
# The first minutes fill caches and pools.
WARM_UP = 1 / 3
# A shorter run says nothing about growth.
MIN_GROWTH_SECONDS = 600
MAX_MIB_PER_10_MINUTES = 1
# Files and connections vary with the requests that are in progress.
MAX_MORE_FILES = 20

SERVER_ERROR = 500
RETRIED = {409, 429, 500, 503}
PROJECTS = ("quiet", "busy", "other")

Json = dict[str, Any]


def call() -> Json:
    return {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "input_tokens": 1200,
        "output_tokens": 340,
        "alias": "fast",
        "origin": "soak",
        "id_at_origin": str(uuid4()),
        "metadata": {"note": "x" * 200},
    }


def exchange() -> Json:
    return {
        "messages": [{"role": "user", "content": "Hello " * 50}],
        "response": {"content": "Hello", "model": "gpt-4o", "finish_reason": "stop"},
        "metadata": {
            "provider": "openai",
            "model": "gpt-4o",
            "input_tokens": 9,
            "output_tokens": 3,
        },
    }


def server() -> Json:
    return {"name": f"server {uuid4()}", "url": "http://localhost:1/mcp", "transport_type": "http"}


def template() -> Json:
    return {"name": f"t{uuid4().hex[:8]}", "created_by": "soak", "system_prompt": "Hi {{ who }}"}


OFFERS: Json = {
    "tools": [{"name": "add", "inputSchema": {"type": "object"}}, {"name": "sub"}],
    "resources": [{"uri": "file:///README", "name": "readme", "content": "Read me"}],
    "prompts": [{"name": "greet", "content": "Hi {{ who }}", "arguments": [{"name": "who"}]}],
}
BINDING: Json = {"alias": "fast", "model": "openai:gpt-4o-mini"}

# The body of each route that takes one. "$kind" stands for the id of such a thing.
BODIES: Mapping[str, Callable[[], Any]] = {
    "POST /api/v1/log": call,
    "POST /api/v1/logs/batch": lambda: [call() for _ in range(50)],
    "POST /api/v1/conversations": lambda: {"title": "soak"},
    "PATCH /api/v1/conversations/{id}": lambda: {"title": "soaked"},
    "POST /api/v1/conversations/log": exchange,
    "POST /api/v1/conversations/{id}/messages": lambda: {"role": "user", "content": "Hi " * 99},
    "POST /api/v1/conversations/{id}/messages/batch": lambda: {
        "messages": [{"role": "user", "content": "Hi"}] * 10
    },
    "POST /api/v1/keys": dict,
    "POST /api/v1/keys/{id}/rotate": dict,
    "POST /api/v1/cli/register": dict,
    "POST /api/v1/templates": template,
    "PUT /api/v1/templates/{id}": template,
    "PATCH /api/v1/templates/{id}": lambda: {"description": "soaked"},
    "POST /api/v1/templates/{id}/render": lambda: {"variables": {"who": "you"}},
    "POST /api/v1/aliases/bind": lambda: BINDING,
    "POST /api/v1/aliases/bulk_upsert": lambda: [BINDING],
    "PUT /api/v1/aliases/{alias:path}": lambda: {"model": "openai:gpt-4o"},
    "POST /api/v1/receipts": lambda: {"receipt": {}},
    "POST /api/v1/receipts/verify": lambda: {"receipt": {}},
    "POST /api/v1/receipts/generate": lambda: {"log_ids": ["$logs"]},
    "POST /api/v1/receipts/preview": lambda: {"log_ids": ["$logs"]},
    "POST /api/v1/receipts/issue": lambda: {"log_id": "$logs"},
    "POST /api/v1/mcp/servers": server,
    "PUT /api/v1/mcp/servers/{id}": server,
    "PATCH /api/v1/mcp/servers/{id}": lambda: {"name": f"server {uuid4()}"},
    "POST /api/v1/mcp/servers/{id}/refresh": lambda: OFFERS,
    "POST /api/v1/mcp/tools": lambda: {"server_id": "$servers", "name": f"tool {uuid4()}"},
    "POST /api/v1/mcp/tools/{id}/acknowledge": lambda: {"definition_sha256": "0" * 64},
    "POST /api/v1/mcp/tools/{id}/execute": lambda: {"input": {"a": 1}, "result": {"b": 2}},
    "PUT /api/v1/mcp/resources/{id}/content": lambda: {"content": "Read me " * 500},
    "PUT /api/v1/mcp/prompts/{id}/content": lambda: {"content": "Hi {{ who }}"},
    "POST /api/v1/mcp/prompts/{id}/render": lambda: {"who": "you"},
}
QUERIES = {
    "GET /api/v1/prices": "?provider=openai&model=gpt-4o",
    "GET /api/v1/aliases/resolve": "?alias=fast",
    "GET /api/v1/logs": "?limit=100",
    "GET /api/v1/logs/export": "?log_id=$logs&format=jsonl",
}
# These hardly ever succeed here: there is no such receipt, version, scope, change or proof.
NEVER_SUCCEED = {
    "GET /api/v1/receipts/{id}/proof/{log_id}",
    "POST /api/v1/receipts",
    "POST /api/v1/receipts/verify",
    "POST /api/v1/cli/register",
    "GET /registry/v/{id}/registry.json",
    "GET /registry/{provider}/v/{version}/models.json",
    "GET /api/v1/mcp/servers/{id}/secret",
    "POST /api/v1/mcp/tools/{id}/acknowledge",
}


def kind_of(path: str) -> str:
    """Return the kind of thing that a path is about: `tools` for `/api/v1/mcp/tools/{id}`."""
    return (path.removeprefix("/api/v1").removeprefix("/mcp") + "/").split("/")[1]


@dataclass
class Project:
    """A project: its key, and the latest ids of its things by kind."""

    key: str
    ids: dict[str, deque[str]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=50))
    )

    def fill(self, text: str, random: Random) -> str:
        """Replace each `$kind` by the id of such a thing; make one up if there is none."""
        for kind in ("logs", "servers"):
            while f"${kind}" in text:
                text = text.replace(f"${kind}", self.any(kind, random), 1)
        return text

    def any(self, kind: str, random: Random) -> str:
        known = self.ids[kind]
        return random.choice(known) if known else str(uuid4())

    def remember(self, path: str, response: Any) -> None:
        """Keep the ids in a successful response."""
        kind = kind_of(path)
        items = response if isinstance(response, list) else [response]
        for item in (item.get("receipt", item) for item in items if isinstance(item, dict)):
            for name in ("id", "log_id", "receipt_id"):
                # A client that revokes its own key is locked out.
                if name in item and item[name] != key_id(self.key):
                    self.ids["logs" if name == "log_id" else kind].append(str(item[name]))


@dataclass
class Results:
    """What the clients saw."""

    # The id of the call by its `id_at_origin`, once acknowledged.
    acknowledged: dict[str, str] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    succeeded: Counter[str] = field(default_factory=Counter)
    server_errors: Counter[str] = field(default_factory=Counter)
    lost_connections: Counter[str] = field(default_factory=Counter)
    disconnects: int = 0
    # Calls that were not logged: refused, or not acknowledged in time.
    refused: Counter[str] = field(default_factory=Counter)
    given_up: int = 0


class Traffic:
    """Clients that send all kinds of requests until they are stopped."""

    def __init__(self, port: int, keys: list[str], seed: int) -> None:
        self.random = Random(seed)  # noqa: S311, nothing to guess
        self.projects = [Project(key) for key in keys]
        self.results = Results()
        self._routes = [*API, *META]
        self._url = f"http://127.0.0.1:{port}"

    async def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._run_client(deadline))

    async def _run_client(self, deadline: float) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=30) as client:
            while time.monotonic() < deadline:
                if self.random.random() < DISCONNECTS:
                    await self._disconnect()
                else:
                    await self._request_any(client)
                await asyncio.sleep(self.random.expovariate(REQUESTS_PER_SECOND / CLIENTS))

    async def _disconnect(self) -> None:
        """Begin a request and leave before the response."""
        self.results.disconnects += 1
        # Not the usual client: one whose requests are cancelled may run out of connections.
        async with httpx.AsyncClient(base_url=self._url) as client:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._request_any(client), self.random.uniform(0, 0.02))

    async def _request_any(self, client: httpx.AsyncClient) -> None:
        project = self.random.choice(self.projects)
        if self.random.random() < LOGGED:
            await self._log(client, project)
        else:
            await self._request(client, project, self.random.choice(self._routes))

    async def _log(self, client: httpx.AsyncClient, project: Project) -> None:
        """Log one or several calls; repeat the request until it is acknowledged."""
        calls = [call() for _ in range(self.random.choice((1, 1, 1, 1, 20)))]
        path, body = "/api/v1/log", orjson.dumps(calls[0])
        if len(calls) > 1:
            path, body = "/api/v1/logs/batch", orjson.dumps(calls)
            path += self.random.choice(("", "?partial=true"))
        key = {"Idempotency-Key": str(uuid4())}
        deadline = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < deadline:
            response = await self._send(client, project, f"POST {path}", path, body, key)
            if response is not None and response.is_success:
                answer = response.json()
                logged = answer.get("logged", [answer | {"index": 0}])
                for each in logged:
                    sent = calls[each["index"]]["id_at_origin"]
                    self.results.acknowledged[sent] = each["log_id"]
                if not answer.get("rejected"):
                    return
            elif response is not None and response.status_code not in RETRIED:
                self.results.refused[f"{response.status_code} {response.json()['detail']}"] += 1
                return
            await asyncio.sleep(0.2)
        self.results.given_up += 1

    async def _request(self, client: httpx.AsyncClient, project: Project, route: Route) -> None:
        name = f"{route.method} {route.path}"
        path = route.path.replace("{version}", "1").replace("{alias:path}", "fast")
        path = path.replace("{provider}", "openai").replace("{log_id}", "$logs")
        path = path.replace("{id}", project.any(kind_of(route.path), self.random))
        path = project.fill(path + QUERIES.get(name, ""), self.random)
        body = None
        if name in BODIES:
            text = orjson.dumps(BODIES[name]()).decode()
            body = project.fill(text, self.random).encode()
        response = await self._send(client, project, name, path, body)
        if response is not None and response.is_success:
            if "json" in response.headers.get("Content-Type", "") and "/export" not in path:
                project.remember(route.path, response.json())
            if route.method == "DELETE":
                project.ids[kind_of(route.path)].clear()

    async def _send(  # noqa: PLR0913, PLR0917, a request has so many parts
        self,
        client: httpx.AsyncClient,
        project: Project,
        name: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response | None:
        method = name.partition(" ")[0]
        sent = {"X-API-Key": project.key, "Content-Type": "application/json", **(headers or {})}
        try:
            response = await client.request(method, path, content=body, headers=sent)
        except httpx.TransportError as exc:
            self.results.lost_connections[type(exc).__name__] += 1
            return None
        self.results.statuses[str(response.status_code)] += 1
        if response.is_success or response.is_redirect:
            self.results.succeeded[name] += 1
        elif response.status_code >= SERVER_ERROR:
            self.results.server_errors[f"{name} {response.status_code}"] += 1
        return response


# Faults.


async def end_connections(url: str, _: int) -> None:
    """End all of the server's connections to the database."""
    sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    await asyncio.to_thread(fetch, url, f"{sql} AND backend_type = 'client backend'")


async def kill_postgres(url: str, _: int) -> None:
    """Kill PostgreSQL, which its supervisor starts again."""
    if postmaster := await asyncio.to_thread(postmaster_pid, url):
        os.kill(postmaster, signal.SIGKILL)


async def freeze_connections(url: str, _: int) -> None:
    """Stop the processes of the server's connections for some seconds."""
    sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
    sql += " AND pid <> pg_backend_pid()"
    pids = [row["pid"] for row in await asyncio.to_thread(fetch, url, sql)]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(FAULT_SECONDS)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def lock_calls(url: str, _: int) -> None:
    """Lock the table of calls for some seconds."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE llmring.usage_logs IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(FAULT_SECONDS)
    finally:
        await connection.close()


async def send_half_requests(_url: str, port: int) -> None:
    """Open many connections, send the beginning of a request on each, and leave."""
    head = b"POST /api/v1/log HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\nContent-Length: 5000\r\n\r\n{"
    writers = []
    for _ in range(200):
        with suppress(OSError):
            writers.append((await asyncio.open_connection("127.0.0.1", port))[1])
            writers[-1].write(head)
    await asyncio.sleep(FAULT_SECONDS)
    for writer in writers:
        writer.close()


async def send_garbage(_url: str, port: int) -> None:
    """Send what is no HTTP on many connections."""
    for _ in range(200):
        with suppress(OSError):
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(token_bytes(500))
            writer.close()


FAULTS = (
    end_connections,
    send_half_requests,
    lock_calls,
    kill_postgres,
    send_garbage,
    freeze_connections,
)


async def inject_faults(url: str, port: int, interval: float, injected: Counter[str]) -> None:
    while True:
        for fault in FAULTS:
            await asyncio.sleep(interval)
            injected[fault.__name__] += 1
            # PostgreSQL may still be recovering from the fault before.
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await fault(url, port)


# Figures.


@dataclass(frozen=True)
class Sample:
    """What the server occupies, `at` seconds after the start."""

    at: float
    mib: float
    files: int
    connections: int | None


async def take_samples(url: str, pid: int, samples: list[Sample]) -> None:
    began = time.monotonic()
    sql = "SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend'"
    while True:
        connections = None
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connections = (await asyncio.to_thread(fetch, url, sql))[0][0] - 1
        files = len(list((PROC / str(pid) / "fd").iterdir()))
        sample = Sample(time.monotonic() - began, resident_mib(pid) or 0, files, connections)
        samples.append(sample)
        sys.stderr.write(f"{sample.at:6.0f} s {sample.mib:7.1f} MiB {files} files\n")
        await asyncio.sleep(SAMPLE_SECONDS)


def slope(samples: list[Sample]) -> float:
    """Return the growth of memory in MiB per ten minutes, by least squares."""
    n = len(samples)
    mean_at = sum(sample.at for sample in samples) / n
    mean_mib = sum(sample.mib for sample in samples) / n
    covariance = sum((sample.at - mean_at) * (sample.mib - mean_mib) for sample in samples)
    variance = sum((sample.at - mean_at) ** 2 for sample in samples)
    return covariance / variance * 600 if variance else 0.0


def first_and_last(values: list[int | None]) -> list[float]:
    """Return the medians of the first and of the last quarter of the values that are known."""
    known = [value for value in values if value is not None]
    quarter = max(1, len(known) // 4)
    return [median(known[:quarter]), median(known[-quarter:])] if known else [0, 0]


def report(url: str, results: Results, samples: list[Sample], faults: Counter[str]) -> Json:
    rows = fetch(url, "SELECT id::text, id_at_origin FROM usage_logs WHERE origin = 'soak'")
    stored = {(row["id_at_origin"], row["id"]) for row in rows}
    warm = [sample for sample in samples if sample.at >= samples[-1].at * WARM_UP]
    routes = {f"{route.method} {route.path}" for route in [*API, *META]}
    return {
        "seconds": round(samples[-1].at),
        "requests": results.statuses.total(),
        "statuses": dict(sorted(results.statuses.items())),
        "server_errors": dict(results.server_errors.most_common()),
        "lost_connections": dict(results.lost_connections),
        "disconnects": results.disconnects,
        "faults": dict(faults),
        "routes_without_success": sorted(routes - NEVER_SUCCEED - set(results.succeeded)),
        "acknowledged": len(results.acknowledged),
        "lost": len(results.acknowledged.items() - stored),
        "doubled": len(rows) - len({key for key, _ in stored}),
        "refused": dict(results.refused.most_common(10)),
        "given_up": results.given_up,
        "mib": [round(warm[0].mib, 1), round(warm[-1].mib, 1)],
        "mib_per_10_minutes": round(slope(warm), 2),
        "files": first_and_last([sample.files for sample in warm]),
        "database_connections": first_and_last([sample.connections for sample in warm]),
    }


def failures(figures: Json) -> list[str]:
    """Name the figures that are not as they should be."""
    failed = [
        name
        for name in ("routes_without_success", "lost", "doubled", "refused", "given_up")
        if figures[name]
    ]
    if any(not error.endswith(" 503") for error in figures["server_errors"]):
        failed.append("server_errors")
    if figures["seconds"] >= MIN_GROWTH_SECONDS:
        if figures["mib_per_10_minutes"] > MAX_MIB_PER_10_MINUTES:
            failed.append("mib_per_10_minutes")
        for name in ("files", "database_connections"):
            first, last = figures[name]
            if last > first + MAX_MORE_FILES:
                failed.append(name)
    return failed


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL that its supervisor starts again if it is killed."""
    with TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as directory:
        path = Path(directory)
        path.chmod(0o711)
        with EmbeddedPostgres(path / "postgres") as server:
            url = server.url()
            yield url
            pid = postmaster_pid(url)
        wait_for_exit(pid)


def issue_key(project: str, environment: Mapping[str, str]) -> str:
    scopes = [argument for scope in PROJECT_SCOPES for argument in ("--scope", scope)]
    command = [str(COMMAND), "keys", "issue", "--project", project, *scopes]
    done = subprocess.run(  # noqa: S603, the command is ours
        command, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()[-1]


async def soak(url: str, port: int, pid: int, keys: list[str], options: argparse.Namespace) -> Json:
    traffic = Traffic(port, keys, options.seed)
    samples: list[Sample] = []
    faults: Counter[str] = Counter()
    side_tasks = [
        asyncio.create_task(inject_faults(url, port, options.fault_interval, faults)),
        asyncio.create_task(take_samples(url, pid, samples)),
    ]
    await traffic.run(options.minutes * 60)
    for task in side_tasks:
        task.cancel()
    await asyncio.gather(*side_tasks, return_exceptions=True)
    return await asyncio.to_thread(report, url, traffic.results, samples, faults)


def main() -> None:
    names = ", ".join(fault.__name__ for fault in FAULTS)
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=30, help="how long, in minutes [%(default)s]"
    )
    parser.add_argument(
        "--fault-interval",
        type=float,
        default=60,
        help=f"seconds between two faults [%(default)s]; in turn: {names}",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the random order of requests [%(default)s]"
    )
    options = parser.parse_args()
    port = free_port()
    with postgres() as url:
        environment = {
            "PATH": os.defpath,
            "LLMRING_AUTH": "keys",
            "LLMRING_CONVERSATION_CONTENT": "full",
            "LLMRING_DATABASE_URL": url,
            "LLMRING_RECEIPTS_PRIVATE_KEY_B64": urlsafe_b64encode(token_bytes(32))
            .decode()
            .rstrip("="),
        }
        command = [str(COMMAND), "serve", "--env", "prod", "--port", str(port)]
        with run_server(command, port, environment) as process:
            keys = [issue_key(project, environment) for project in PROJECTS]
            figures = asyncio.run(soak(url, port, process.pid, keys, options))
    figures["failed"] = failures(figures)
    sys.stdout.write(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.exit(1 if figures["failed"] else 0)


if __name__ == "__main__":
    main()
