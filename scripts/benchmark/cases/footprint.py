"""How much disk space and memory calls take."""

from typing import Any

from scripts.benchmark.http_requests import KEYS
from scripts.benchmark.load_generator import Load
from scripts.benchmark.postgres import SCHEMA, fetch_value
from scripts.benchmark.processes import resident_mib
from scripts.benchmark.runner import Settings, measure
from scripts.benchmark.seed import seed, settle
from scripts.benchmark.servers import ServerUnderTest, prod, start
from scripts.benchmark.statistics import round_figures

# A slow server stores fewer calls than it is asked to.
MAX_SECONDS = 600.0

SCHEMA_SIZE = (
    "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class"
    " WHERE relnamespace = $1::text::regnamespace AND relkind IN ('r', 'm')"
)


def size(settings: Settings) -> dict[str, Any]:
    """Store calls with 100 bytes of metadata; measure the schema with its indexes."""
    with start(settings.cluster_url, prod, *settings.against, *settings.peer) as servers:
        return {server.name: _size(server, settings.calls) for server in servers}


def _size(server: ServerUnderTest, calls: int) -> dict[str, Any]:
    assert server.database  # noqa: S101, for the type checker
    seed(server, KEYS[0], calls)
    settle(server)
    size = fetch_value(server.database, SCHEMA_SIZE, SCHEMA)
    return {"calls": calls, "bytes_per_call": round_figures(size / calls)}


def memory(settings: Settings) -> dict[str, Any]:
    """Log many calls; measure the server process before and after. The peer takes too long."""
    with start(settings.cluster_url, prod, *settings.against) as servers:
        return {server.name: _memory(settings, server) for server in servers}


def _memory(settings: Settings, server: ServerUnderTest) -> dict[str, Any]:
    measure(settings, server, Load(64, 1))
    before = resident_mib(server.pid)
    sample = measure(settings, server, Load(64, MAX_SECONDS, limit=settings.calls))
    return {
        "calls": sample.calls,
        "before_mib": before,
        "after_mib": resident_mib(server.pid),
        **sample.storage_errors,
    }
