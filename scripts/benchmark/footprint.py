"""What calls take: of the disk, and of the server's memory."""

from typing import Any

from scripts.benchmark.contenders import Contender, ours, running
from scripts.benchmark.figures import rounded
from scripts.benchmark.load import Plan
from scripts.benchmark.measure import Bench
from scripts.benchmark.payload import KEYS
from scripts.benchmark.postgres import SCHEMA, value
from scripts.benchmark.processes import resident_mib
from scripts.benchmark.seed import seed, settle

# Nobody waits longer for a slow server to store all that was asked for.
LONGEST = 600.0

SIZE = (
    "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class"
    " WHERE relnamespace = $1::text::regnamespace AND relkind IN ('r', 'm')"
)


def size(bench: Bench) -> dict[str, Any]:
    """Store calls with 100 bytes of metadata, and weigh the schema with its indexes."""
    with running(bench.server, *bench.rivals) as contenders:
        return {each.name: _size(each, bench.calls) for each in contenders}


def _size(contender: Contender, calls: int) -> dict[str, Any]:
    assert contender.database  # noqa: S101, for the type checker
    seed(contender, KEYS[0], calls)
    settle(contender)
    taken = value(contender.database, SIZE, SCHEMA)
    return {"calls": calls, "bytes_per_call": rounded(taken / calls)}


def memory(bench: Bench) -> dict[str, Any]:
    """Log many calls, and weigh our process before and after; the other would need too long."""
    with running(bench.server, ours) as [contender]:
        return {contender.name: _memory(bench, contender)}


def _memory(bench: Bench, contender: Contender) -> dict[str, Any]:
    bench.measure(contender, Plan(64, 1))
    before = resident_mib(contender.pid)
    sample = bench.measure(contender, Plan(64, LONGEST, calls=bench.calls))
    return {
        "calls": sample.calls,
        "before_mib": before,
        "after_mib": resident_mib(contender.pid),
        **sample.lapses,
    }
