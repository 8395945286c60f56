"""How fast the history of a tool is read, at its end and far behind it, and added up."""

from typing import Any

from scripts.benchmark.contenders import Contender, ours, running
from scripts.benchmark.load import Plan
from scripts.benchmark.measure import Bench
from scripts.benchmark.payload import KEYS
from scripts.benchmark.race import Race, same
from scripts.benchmark.reading import behind, growth
from scripts.benchmark.seed import seed_executions, settle

FEW, MANY = 1_000, 100_000
PAGE, LARGEST_PAGE = 50, 1000

ROOT = "/api/v1/mcp"


def executions(bench: Bench) -> dict[str, Any]:
    """Read the newest page of a long history and its oldest; add up a short and a long one."""
    with running(bench.server, ours) as [contender]:
        few, many = (_done(contender, number) for number in (FEW, MANY))
        settle(contender)
        largest = f"{many}/history?limit={LARGEST_PAGE}"
        last = behind(contender, KEYS[0], largest, MANY // LARGEST_PAGE - 1)
        newest, oldest = "newest page", f"page at {MANY - LARGEST_PAGE:,}"
        short, long = f"stats of {FEW:,}", f"stats of {MANY:,}"
        paths = {
            newest: f"{many}/history?limit={PAGE}",
            oldest: last.replace(f"limit={LARGEST_PAGE}", f"limit={PAGE}"),
            short: f"{few}/stats",
            long: f"{many}/stats",
        }
        loads = {name: same(Plan(1, bench.seconds, path=path)) for name, path in paths.items()}
        race = Race(bench, [contender], loads)
        return race.report() | {
            f"{after} / {before}": growth(race, contender, before, after)
            for before, after in ((newest, oldest), (short, long))
        }


def _done(contender: Contender, number: int) -> str:
    """Return the path of a tool that has done so much."""
    new = {"name": f"{number}", "url": "stdio://tool", "transport_type": "stdio"}
    server = contender.post(f"{ROOT}/servers", KEYS[0], new)
    offers = {"tools": [{"name": "tool"}]}
    found = contender.post(f"{ROOT}/servers/{server['id']}/refresh", KEYS[0], offers)
    id = found["tools"][0]["id"]
    seed_executions(contender, KEYS[0], id, number)
    return f"{ROOT}/tools/{id}"
