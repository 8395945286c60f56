"""Benchmark this server. Progress goes to stderr, the figures go to stdout as JSON."""

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

from scripts.benchmark.cases import CASES
from scripts.benchmark.postgres import fetch_value, postmaster_pid, running_cluster
from scripts.benchmark.runner import Settings, progress
from scripts.benchmark.servers import (
    ROOT,
    checked_checkout,
    commit,
    other_checkout,
    other_checkout_watched,
    peer,
)

QUICK = ("log", "stats", "logs")
AGAINST = ("log", "batch", "stats", "logs", "conversations")
QUICK_CALLS = 200_000
FULL_CALLS = {
    "stats": 5_000_000,
    "logs": 5_000_000,
    "executions": 100_000,
    "import": 1_000_000,
    "size": 1_000_000,
    "memory": 1_000_000,
    "receipts": 100_000,
    "verify": 1_000_000,
}


def _summary(case: Callable[[Settings], dict[str, Any]]) -> str:
    return " ".join((case.__doc__ or "").split())


def parse_options() -> argparse.Namespace:
    cases = "".join(f"\n  {name}: {_summary(case)}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog=f"cases:{cases}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--full",
        action="store_true",
        help=f"run all cases, on millions of calls; default: only {', '.join(QUICK)},"
        f" with --against {', '.join(AGAINST)}",
    )
    add(
        "--only",
        choices=CASES,
        action="append",
        metavar="CASE",
        help="run this case; repeatable. The cases are listed below.",
    )
    add(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="also run the server of another checkout, with the .venv in it, in alternating"
        " rounds; report the ratios",
    )
    add(
        "--peer",
        action="store_true",
        help="also run the release that this project replaces (installed from PyPI on first use);"
        " report the ratios",
    )
    add("--seconds", type=float, default=3, help="duration of each load (default: %(default)s)")
    add("--rounds", type=int, default=3, help="rounds of each load (default: %(default)s)")
    add(
        "--calls",
        type=int,
        help=f"number of calls for {', '.join(FULL_CALLS)}"
        f" (default: {QUICK_CALLS}; with --full: up to {max(FULL_CALLS.values())})",
    )
    add(
        "--database",
        metavar="URL",
        help="a superuser's URL of a PostgreSQL cluster (default: start one)",
    )
    return parser.parse_args()


def describe_machine(cluster_url: str) -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "postgres": fetch_value(cluster_url, "SHOW server_version"),
    }


def calls_by_case(options: argparse.Namespace) -> dict[str, int]:
    """Return the selected cases, and the number of calls for each of them."""
    default = AGAINST if options.against else QUICK
    names = options.only or (CASES if options.full else default)
    numbers = FULL_CALLS if options.full else {}
    return {name: options.calls or numbers.get(name, QUICK_CALLS) for name in names}


def write(report: dict[str, Any]) -> None:
    """Write the report as JSON, one line for each metric; exit with an error if calls were lost."""
    text = json.dumps(report, indent=2)
    text = re.sub(r"\{[^{}]*\}", lambda leaf: " ".join(leaf[0].split()), text)
    sys.stdout.write(f"{text}\n")
    if re.search(r'"(missing|duplicated)": [^0]', text):
        sys.exit("Acknowledged calls are missing or duplicated.")


def main() -> None:
    options = parse_options()
    against = checked_checkout(options.against) if options.against else None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    report: dict[str, Any] = {
        "machine": {},
        "commits": {"this": commit(ROOT)} | ({"against": commit(against)} if against else {}),
        # Without the URL, which may contain a password, and the path, which is local.
        "options": {
            name: value
            for name, value in vars(options).items()
            if name not in {"database", "against"}
        },
        "cases": {},
    }
    with running_cluster(options.database, with_extensions=options.peer) as cluster_url:
        report["machine"] = describe_machine(cluster_url)
        settings = Settings(
            cluster_url,
            postmaster_pid(cluster_url),
            options.seconds,
            options.rounds,
            against=[other_checkout(against)] if against else [],
            against_watched=[other_checkout_watched(against)] if against else [],
            peer=[peer] if options.peer else [],
        )
        try:
            for name, calls in calls_by_case(options).items():
                progress(name)
                report["cases"][name] = CASES[name](replace(settings, calls=calls))
        finally:
            write(report)


if __name__ == "__main__":
    main()
