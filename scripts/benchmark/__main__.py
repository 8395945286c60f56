"""Measure this server: progress on stderr, the figures as JSON on stdout."""

import argparse
import json
import os
import platform
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.benchmark import auditing, certifying, chats, footprint, reading, tools, writing
from scripts.benchmark.contenders import ALONE, WITH_PEER
from scripts.benchmark.measure import Bench, progress
from scripts.benchmark.postgres import cluster, postmaster, value

Case = Callable[[Bench], dict[str, Any]]

CASES: dict[str, Case] = {
    "log": writing.log,
    "log-1000-tenants": writing.log_1000_tenants,
    "batch": writing.batch,
    "priced": writing.priced,
    "guard": writing.guard,
    "stats": reading.stats,
    "logs": reading.logs,
    "conversations": chats.conversations,
    "executions": tools.executions,
    "size": footprint.size,
    "memory": footprint.memory,
    "receipts": certifying.receipts,
    "verify": auditing.verify,
}
QUICK = ("log", "stats", "logs")
QUICK_CALLS = 200_000
FULL_CALLS = {
    "stats": 5_000_000,
    "logs": 5_000_000,
    "size": 1_000_000,
    "memory": 1_000_000,
    "receipts": 100_000,
    "verify": 1_000_000,
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    add = parser.add_argument
    add("--full", action="store_true", help="all cases, on millions of calls, not the quick three")
    add("--only", choices=CASES, metavar="NAME", help=f"one case: {', '.join(CASES)}")
    add(
        "--peer", action="store_true", help="also the server that this one replaces, and the ratios"
    )
    add("--seconds", type=float, default=3, help="how long each load lasts (%(default)s)")
    add("--rounds", type=int, default=3, help="how often each is measured (%(default)s)")
    add(
        "--calls",
        type=int,
        help=f"how many stats, logs, size, memory, receipts and verify take ({QUICK_CALLS})",
    )
    add("--database", metavar="URL", help="a superuser's URL; by default a PostgreSQL is started")
    return parser.parse_args()


def machine(url: str) -> dict[str, Any]:
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "postgres": value(url, "SHOW server_version"),
    }


def chosen(given: argparse.Namespace) -> dict[str, int]:
    """Return the names of the cases, and how many calls each of them takes."""
    names = [given.only] if given.only else CASES if given.full else QUICK
    usual = FULL_CALLS if given.full else {}
    return {name: given.calls or usual.get(name, QUICK_CALLS) for name in names}


def write(report: dict[str, Any]) -> None:
    """Write JSON, each figure on a line of its own; fail if it tells of lapses."""
    text = json.dumps(report, indent=2)
    text = re.sub(r"\{[^{}]*\}", lambda leaf: " ".join(leaf[0].split()), text)
    sys.stdout.write(f"{text}\n")
    if re.search(r'"(missing|doubled)": [^0]', text):
        sys.exit("Acknowledged calls are not stored, or not once.")


def main() -> None:
    given = options()
    for request in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(request, lambda *_: sys.exit(1))
    # Not the URL, which may hold a password.
    told = {name: each for name, each in vars(given).items() if name != "database"}
    report: dict[str, Any] = {"machine": {}, "options": told, "cases": {}}
    with cluster(given.database, extensions=given.peer) as url:
        rivals = WITH_PEER if given.peer else ALONE
        bench = Bench(url, postmaster(url), given.seconds, given.rounds, rivals)
        report["machine"] = machine(url)
        try:
            for name, calls in chosen(given).items():
                progress(name)
                report["cases"][name] = CASES[name](replace(bench, calls=calls))
        finally:
            write(report)


if __name__ == "__main__":
    main()
