"""How fast calls are found again, in sum and one by one."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from scripts.benchmark.contenders import Contender, running
from scripts.benchmark.figures import quotient, spread
from scripts.benchmark.load import Plan
from scripts.benchmark.measure import Bench
from scripts.benchmark.payload import KEYS
from scripts.benchmark.race import Race, by_clients, same
from scripts.benchmark.seed import DAYS, seed, settle

SMALL, LARGE = KEYS[:2]
FEW_CALLS = 10_000
DEPTH = 100_000
PAGE, LARGEST_PAGE = 50, 500

_NEXT = re.compile(r'<(\?[^>]+)>; rel="next"')


def stats(bench: Bench) -> dict[str, Any]:
    """Ask for the statistics of a tenant with few calls, and of one with many."""
    now = datetime.now(UTC)
    path = _path("stats", now)
    loads = by_clients(
        f"{FEW_CALLS:,} calls, ", lambda clients: Plan(clients, bench.seconds, [SMALL], path)
    )
    many = Plan(1, bench.seconds, [LARGE], path)
    loads[f"{bench.calls:,} calls, c=1"] = same(many)
    with running(bench.server, *bench.rivals) as contenders:
        _seed(contenders, {SMALL: FEW_CALLS, LARGE: bench.calls}, now)
        return Race(bench, contenders, loads).report()


def logs(bench: Bench) -> dict[str, Any]:
    """List calls: the newest, and those a long way behind them."""
    now = datetime.now(UTC)
    first = _path("logs", now, limit=PAGE)
    depth = min(DEPTH, bench.calls // 2) // LARGEST_PAGE * LARGEST_PAGE
    newest, deeper = "first page, ", f"page at {depth:,}, c=1"
    loads = by_clients(newest, lambda clients: Plan(clients, bench.seconds, [LARGE], first))
    with running(bench.server, *bench.rivals) as contenders:
        _seed(contenders, {LARGE: bench.calls}, now)
        deep = {each.name: _deep(each, now, depth) for each in contenders}
        loads[deeper] = lambda contender: Plan(1, bench.seconds, [LARGE], deep[contender.name])
        race = Race(bench, contenders, loads)
        grown = {each.name: growth(race, each, newest + "c=1", deeper) for each in contenders}
        return race.report() | {f"{deeper} / {newest}c=1": grown}


def _path(route: str, now: datetime, **more: Any) -> str:
    since = f"{now - timedelta(DAYS):%Y-%m-%dT%H:%M:%SZ}"
    return f"/api/v1/{route}?{urlencode({'start_date': since, **more})}"


def _seed(contenders: Sequence[Contender], calls: dict[str, int], now: datetime) -> None:
    """Give every server the same calls, and see that its statistics know them."""
    for contender in contenders:
        for key, size in calls.items():
            seed(contender, key, size, now)
        settle(contender)
        for key, size in calls.items():
            _, told = contender.get(_path("stats", now), key)
            if told["summary"]["total_requests"] != size:
                raise ValueError(
                    f"{contender.name} has {size} calls, and tells of {told['summary']}"
                )


def _deep(contender: Contender, now: datetime, depth: int) -> str:
    """Return the path of a page behind `depth` calls: by cursor, or by offset at the peer."""
    if contender.name == "peer":
        return _path("logs", now, limit=PAGE, offset=depth)
    path = _path("logs", now, limit=LARGEST_PAGE)
    path = behind(contender, LARGE, path, depth // LARGEST_PAGE)
    return path.replace(f"limit={LARGEST_PAGE}", f"limit={PAGE}")


def behind(contender: Contender, key: str, path: str, pages: int) -> str:
    """Follow the links from page to page, so many times; return the path of the last."""
    for _ in range(pages):
        headers, _ = contender.get(path, key)
        [query] = _NEXT.findall(headers["Link"])
        path = path.partition("?")[0] + query
    return path


def growth(race: Race, contender: Contender, before: str, after: str) -> dict[str, float] | None:
    """Return how many times as long one load's median takes as another's."""
    pairs = zip(
        race.samples[before, contender.name], race.samples[after, contender.name], strict=False
    )
    return spread(quotient(two.figures["p50_ms"], one.figures["p50_ms"]) for one, two in pairs)
