"""Run loads on servers in turn, round after round, and compare the servers."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

from scripts.benchmark.load_generator import Load, LoadResult
from scripts.benchmark.postgres import fetch
from scripts.benchmark.processes import cpu_seconds
from scripts.benchmark.servers import RESPONSE_TIMEOUT_SECONDS, ROOT, ServerUnderTest, StartServer
from scripts.benchmark.statistics import Sample, ratio, ratios, spread, summarize

WARM_UP_SECONDS = 1.0
CONNECTIONS = (1, 16, 64)
MICROSECONDS = 1_000_000

COUNT_STORED = (
    "SELECT count(DISTINCT id_at_origin) AS calls, count(*) AS rows FROM usage_logs"
    " WHERE origin = $1 AND id_at_origin <> ALL ($2::text[])"
)

_load_numbers = count(1)

# A load for a server: not every server has the same routes.
LoadFor = Callable[[ServerUnderTest], Load]


@dataclass(frozen=True)
class Settings:
    """Where to measure and how thoroughly."""

    cluster_url: str
    postmaster_pid: int | None
    seconds: float
    rounds: int
    # Another checkout of this project, if there is one, and the release that it replaces.
    against: Sequence[StartServer] = ()
    against_watched: Sequence[StartServer] = ()
    peer: Sequence[StartServer] = ()
    calls: int = 0


def progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def on_every_server(load: Load) -> LoadFor:
    return lambda _: load


def by_connections(label: str, load: Callable[[int], Load]) -> dict[str, LoadFor]:
    """Name a load for each number of connections, the same for every server."""
    return {
        f"{label}c={connections}": on_every_server(load(connections)) for connections in CONNECTIONS
    }


class Comparison:
    """Every load on every server; `samples` are by load and server."""

    def __init__(
        self,
        settings: Settings,
        servers: Sequence[ServerUnderTest],
        loads: Mapping[str, LoadFor],
    ) -> None:
        self._settings = settings
        self._servers = servers
        self._loads = loads
        self.samples: dict[tuple[str, str], list[Sample]] = {}
        turns = [turn for turn in self._turns() if self._warm_up(*turn)]
        for number in range(1, settings.rounds + 1):
            for label, server in turns:
                sample = measure(settings, server, loads[label](server))
                self.samples[label, server.name].append(sample)
                progress(f"  {label}, {server.name}, round {number}: {sample}")
            # A B, then B A: neither server always comes first.
            turns.reverse()

    def report(self) -> dict[str, Any]:
        return {label: self._report(label) for label in self._loads}

    def growth(self, server: ServerUnderTest, before: str, after: str) -> dict[str, float] | None:
        """Return the ratio of the median latencies of two loads, round by round."""
        pairs = zip(
            self.samples[before, server.name], self.samples[after, server.name], strict=False
        )
        return spread(ratio(two.metrics["p50_ms"], one.metrics["p50_ms"]) for one, two in pairs)

    def _turns(self) -> Iterator[tuple[str, ServerUnderTest]]:
        for label in self._loads:
            for server in self._servers:
                yield label, server

    def _warm_up(self, label: str, server: ServerUnderTest) -> bool:
        """Send the load briefly; return whether the server is able to respond to it at all."""
        load = self._loads[label](server)
        sample = measure(self._settings, server, replace(load, seconds=WARM_UP_SECONDS))
        able = sample.metrics["per_second"] is not None
        self.samples[label, server.name] = [] if able else [sample]
        return able

    def _report(self, label: str) -> dict[str, Any]:
        first, *others = [
            (server.name, self.samples[label, server.name]) for server in self._servers
        ]
        figures = {name: summarize(samples) for name, samples in (first, *others)}
        return figures | {f"{first[0]}/{name}": ratios(first[1], other) for name, other in others}


def measure(settings: Settings, server: ServerUnderTest, load: Load) -> Sample:
    """Send one load to one server, and check that every acknowledged call is stored once."""
    origin = f"bench-{next(_load_numbers):06}"
    before = _cpu_seconds(settings, server)
    result = _generate(server, load, origin)
    after = _cpu_seconds(settings, server)
    calls = result.successes * load.batch_size
    metrics = {
        "per_second": calls / result.seconds if calls else None,
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
        "server_us": _per_call(before[0], after[0], calls),
        "database_us": _per_call(before[1], after[1], calls),
        "client_us": _per_call(0, result.client_cpu_seconds, calls),
    }
    errors = {} if load.path else _storage_errors(server, load, origin, result)
    return Sample(calls, metrics, Counter(result.failures), errors)


def _cpu_seconds(settings: Settings, server: ServerUnderTest) -> tuple[float | None, float | None]:
    """Return the CPU time of the server and of the PostgreSQL cluster so far."""
    postmaster_pid = settings.postmaster_pid if server.database else None
    return cpu_seconds(server.pid), cpu_seconds(postmaster_pid)


def _generate(server: ServerUnderTest, load: Load, origin: str) -> LoadResult:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmark.load_generator"],
        cwd=ROOT,
        input=json.dumps({"port": server.port, "origin": origin, "load": asdict(load)}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
        timeout=load.seconds + RESPONSE_TIMEOUT_SECONDS,
    )
    return LoadResult(**json.loads(done.stdout))


def _per_call(before: float | None, after: float | None, calls: int) -> float | None:
    if before is None or after is None or not calls:
        return None
    return (after - before) / calls * MICROSECONDS


def _storage_errors(
    server: ServerUnderTest, load: Load, origin: str, result: LoadResult
) -> dict[str, int]:
    """Count acknowledged calls that are not stored, or stored more than once."""
    if server.database is None or not result.successes:
        return {}
    # Whether a request without a response has been stored is unknown.
    unknown = [
        f"{request * load.batch_size + index:012}"
        for request in result.failed_requests
        for index in range(load.batch_size)
    ]
    [(calls, rows)] = fetch(server.database, COUNT_STORED, origin, unknown)
    return {"missing": result.successes * load.batch_size - calls, "duplicated": rows - calls}
