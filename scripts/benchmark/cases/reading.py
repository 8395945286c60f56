"""How fast statistics and lists of calls are read."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from scripts.benchmark.http_requests import KEYS
from scripts.benchmark.load_generator import Load
from scripts.benchmark.runner import Comparison, Settings, by_connections, on_every_server
from scripts.benchmark.seed import DAYS, seed, settle
from scripts.benchmark.servers import ServerUnderTest, prod, start

# The keys of a project with few calls and of one with many.
SMALL, LARGE = KEYS[:2]
FEW_CALLS = 10_000
MAX_DEPTH = 100_000
PAGE_SIZE, MAX_PAGE_SIZE = 50, 500

_NEXT = re.compile(r'<(\?[^>]+)>; rel="next"')


def stats(settings: Settings) -> dict[str, Any]:
    """Read the statistics of a project with few calls, and of one with many."""
    now = datetime.now(UTC)
    path = _path("stats", now)
    loads = by_connections(
        f"{FEW_CALLS:,} calls, ",
        lambda connections: Load(connections, settings.seconds, [SMALL], path),
    )
    many = Load(1, settings.seconds, [LARGE], path)
    loads[f"{settings.calls:,} calls, c=1"] = on_every_server(many)
    with start(settings.cluster_url, prod, *settings.against, *settings.peer) as servers:
        _seed(servers, {SMALL: FEW_CALLS, LARGE: settings.calls}, now)
        return Comparison(settings, servers, loads).report()


def logs(settings: Settings) -> dict[str, Any]:
    """List calls: the newest page, and a page far behind it."""
    now = datetime.now(UTC)
    depth = min(MAX_DEPTH, settings.calls // 2) // MAX_PAGE_SIZE * MAX_PAGE_SIZE
    first, deep = "first page, ", f"page at {depth:,}, c=1"
    first_path = _path("logs", now, limit=PAGE_SIZE)
    loads = by_connections(
        first, lambda connections: Load(connections, settings.seconds, [LARGE], first_path)
    )
    with start(settings.cluster_url, prod, *settings.against, *settings.peer) as servers:
        _seed(servers, {LARGE: settings.calls}, now)
        deep_paths = {server.name: _path_of_page_at(server, now, depth) for server in servers}
        loads[deep] = lambda server: Load(1, settings.seconds, [LARGE], deep_paths[server.name])
        comparison = Comparison(settings, servers, loads)
        growth = {server.name: comparison.growth(server, f"{first}c=1", deep) for server in servers}
        return comparison.report() | {f"{deep} / {first}c=1": growth}


def _path(route: str, now: datetime, **more: Any) -> str:
    since = f"{now - timedelta(DAYS):%Y-%m-%dT%H:%M:%SZ}"
    return f"/api/v1/{route}?{urlencode({'start_date': since, **more})}"


def _seed(servers: Sequence[ServerUnderTest], calls: dict[str, int], now: datetime) -> None:
    """Give every server the same calls by key, and check that its statistics count them."""
    for server in servers:
        for key, number in calls.items():
            seed(server, key, number, now)
        settle(server)
        for key, number in calls.items():
            _, response = server.get(_path("stats", now), key)
            counted = response["summary"]["total_requests"]
            if counted != number:
                raise ValueError(f"{server.name} has {number} calls, but counts {counted}")


def _path_of_page_at(server: ServerUnderTest, now: datetime, depth: int) -> str:
    """Return the path of the page behind `depth` calls: by cursor, or by the peer's offset."""
    if server.name == "peer":
        return _path("logs", now, limit=PAGE_SIZE, offset=depth)
    path = _path("logs", now, limit=MAX_PAGE_SIZE)
    path = follow_pages(server, LARGE, path, depth // MAX_PAGE_SIZE)
    return path.replace(f"limit={MAX_PAGE_SIZE}", f"limit={PAGE_SIZE}")


def follow_pages(server: ServerUnderTest, key: str, path: str, pages: int) -> str:
    """Follow the link to the next page this many times; return the path of the last page."""
    for _ in range(pages):
        headers, _ = server.get(path, key)
        [query] = _NEXT.findall(headers["Link"])
        path = path.partition("?")[0] + query
    return path
