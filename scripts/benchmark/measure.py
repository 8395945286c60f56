"""One load on one server: what it achieved, what it cost, and whether everything is there."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from scripts.benchmark.contenders import ROOT, Contender, Maker
from scripts.benchmark.figures import Sample
from scripts.benchmark.load import Plan
from scripts.benchmark.postgres import query
from scripts.benchmark.processes import cpu_seconds

# What the slowest answer may take: the peer adds up millions of rows.
SLOWEST = 300
MICRO = 1_000_000

STORED = (
    "SELECT count(DISTINCT id_at_origin) AS calls, count(*) AS rows FROM usage_logs"
    " WHERE origin = $1 AND id_at_origin <> ALL ($2::text[])"
)

_loads = count(1)


def progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Bench:
    """Where everyone is measured, and how thoroughly."""

    server: str
    postmaster: int | None
    seconds: float
    rounds: int
    rivals: Sequence[Maker]
    calls: int = 0

    def measure(self, contender: Contender, plan: Plan) -> Sample:
        origin = f"bench-{next(_loads):06}"
        before = self._cpu(contender)
        done = _load(contender, plan, origin)
        after = self._cpu(contender)
        calls = done["answered"] * plan.batch
        figures = {
            "per_second": calls / done["seconds"] if calls else None,
            "p50_ms": done["p50_ms"],
            "p99_ms": done["p99_ms"],
            "server_us": _share(before[0], after[0], calls),
            "database_us": _share(before[1], after[1], calls),
            "client_us": _share(0, done["client_seconds"], calls),
        }
        lapses = {} if plan.path else _lapses(contender, plan, origin, done)
        return Sample(calls, figures, Counter(done["failures"]), lapses)

    def _cpu(self, contender: Contender) -> tuple[float | None, float | None]:
        postmaster = self.postmaster if contender.database else None
        return cpu_seconds(contender.pid), cpu_seconds(postmaster)


def _load(contender: Contender, plan: Plan, origin: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmark.load"],
        cwd=ROOT,
        input=json.dumps({"port": contender.port, "origin": origin, "plan": asdict(plan)}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
        timeout=plan.seconds + SLOWEST,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _share(before: float | None, after: float | None, calls: int) -> float | None:
    if before is None or after is None or not calls:
        return None
    return (after - before) / calls * MICRO


def _lapses(contender: Contender, plan: Plan, origin: str, done: dict[str, Any]) -> dict[str, int]:
    """Look for the calls that were acknowledged."""
    if contender.database is None or not done["answered"]:
        return {}
    refused = [
        f"{request * plan.batch + place:012}"
        for request in done["refused"]
        for place in range(plan.batch)
    ]
    [(calls, rows)] = query(contender.database, STORED, origin, refused)
    return {"missing": done["answered"] * plan.batch - calls, "doubled": rows - calls}
