"""How fast calls are logged."""

from dataclasses import replace
from typing import Any

from scripts.benchmark.contenders import Contender, bare, ours, running, unguarded
from scripts.benchmark.load import Plan
from scripts.benchmark.measure import Bench
from scripts.benchmark.payload import KEYS
from scripts.benchmark.race import Race, by_clients, same

BATCH = 100


def log(bench: Bench) -> dict[str, Any]:
    """Log single calls of one tenant; beside it a route that only answers."""
    with running(bench.server, *bench.rivals, bare) as contenders:
        loads = by_clients("", lambda clients: Plan(clients, bench.seconds))
        return Race(bench, contenders, loads).report()


def log_1000_tenants(bench: Bench) -> dict[str, Any]:
    """Log single calls of a thousand tenants at random."""
    with running(bench.server, *bench.rivals) as contenders:
        plan = Plan(64, bench.seconds, KEYS)
        return Race(bench, contenders, {"c=64": same(plan)}).report()


def priced(bench: Bench) -> dict[str, Any]:
    """Log calls that bring their cost, and calls that the price book prices."""
    plans = {
        "single, c=64": Plan(64, bench.seconds),
        "by the hundred, c=4": Plan(4, bench.seconds, batch=BATCH),
    }
    loads = {name: same(plan) for name, plan in plans.items()}
    loads |= {f"{name}, priced": same(replace(plan, priced=True)) for name, plan in plans.items()}
    with running(bench.server, ours) as contenders:
        return Race(bench, contenders, loads).report()


def guard(bench: Bench) -> dict[str, Any]:
    """Ask, and log single calls; beside it the same server without its guard."""
    loads = {
        "live, c=16": same(Plan(16, bench.seconds, path="/health/live")),
        "log, c=64": same(Plan(64, bench.seconds)),
    }
    with running(bench.server, ours, unguarded) as contenders:
        return Race(bench, contenders, loads).report()


def batch(bench: Bench) -> dict[str, Any]:
    """Log calls by the hundred; the peer, which has no such route, one by one."""

    def plan(contender: Contender) -> Plan:
        return Plan(4, bench.seconds, batch=1 if contender.name == "peer" else BATCH)

    with running(bench.server, *bench.rivals) as contenders:
        return Race(bench, contenders, {"c=4": plan}).report()
