"""How fast calls are logged."""

from dataclasses import replace
from typing import Any

from scripts.benchmark.http_requests import KEYS
from scripts.benchmark.load_generator import Load
from scripts.benchmark.runner import Comparison, Settings, by_connections, on_every_server
from scripts.benchmark.servers import (
    ServerUnderTest,
    bare,
    dev,
    prod,
    start,
    without_request_limits,
)

BATCH_SIZE = 100


def log(settings: Settings) -> dict[str, Any]:
    """Log single calls of one project.

    For comparison: the server with its line of log per request, and a route without a database.
    """
    starters = [prod, *settings.against, dev, *settings.peer, bare]
    with start(settings.cluster_url, *starters) as servers:
        loads = by_connections("", lambda connections: Load(connections, settings.seconds))
        return Comparison(settings, servers, loads).report()


def log_1000_projects(settings: Settings) -> dict[str, Any]:
    """Log single calls of a thousand projects in random order."""
    load = Load(64, settings.seconds, KEYS)
    with start(settings.cluster_url, prod, *settings.against, *settings.peer) as servers:
        return Comparison(settings, servers, {"c=64": on_every_server(load)}).report()


def batch(settings: Settings) -> dict[str, Any]:
    """Log calls in batches; the peer, which has no such route, logs them one by one."""

    def load(server: ServerUnderTest) -> Load:
        batch_size = 1 if server.name == "peer" else BATCH_SIZE
        return Load(4, settings.seconds, batch_size=batch_size)

    with start(settings.cluster_url, prod, *settings.against, *settings.peer) as servers:
        return Comparison(settings, servers, {"c=4": load}).report()


def pricing(settings: Settings) -> dict[str, Any]:
    """Log calls with a cost, and calls whose cost the server computes."""
    with_cost = {
        "single, c=64": Load(64, settings.seconds),
        f"batches of {BATCH_SIZE}, c=4": Load(4, settings.seconds, batch_size=BATCH_SIZE),
    }
    loads = {name: on_every_server(load) for name, load in with_cost.items()}
    loads |= {
        f"{name}, priced by the server": on_every_server(replace(load, with_cost=False))
        for name, load in with_cost.items()
    }
    with start(settings.cluster_url, prod, *settings.against) as servers:
        return Comparison(settings, servers, loads).report()


def request_limits(settings: Settings) -> dict[str, Any]:
    """Compare the server with itself without limits on requests."""
    loads = {
        "health, c=16": on_every_server(Load(16, settings.seconds, path="/health/live")),
        "log, c=64": on_every_server(Load(64, settings.seconds)),
    }
    with start(settings.cluster_url, prod, without_request_limits) as servers:
        return Comparison(settings, servers, loads).report()
