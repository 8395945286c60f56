"""How fast conversations are read and added to, short ones and long ones."""

import json
from typing import Any

from scripts.benchmark.contenders import Contender, ours, running
from scripts.benchmark.load import Plan
from scripts.benchmark.measure import Bench
from scripts.benchmark.payload import KEYS
from scripts.benchmark.race import Race, same
from scripts.benchmark.reading import growth
from scripts.benchmark.seed import settle

SHORT, LONG = 10, 10_000
BATCH = 500
# So few that a short conversation stays one.
APPENDS = 200

ROOT = "/api/v1/conversations"
TEXT = "What a person says in a chat is about as long as this, or a few times as long. " * 4


def conversations(bench: Bench) -> dict[str, Any]:
    """Read the first and the last ten messages of a conversation, and add one."""
    with running(bench.server, ours) as [contender]:
        paths = {size: _begun(contender, size) for size in (SHORT, LONG)}
        settle(contender)
        loads = {
            f"{name}, {size:,} messages": same(plan)
            for size, path in paths.items()
            for name, plan in _plans(bench, path).items()
        }
        race = Race(bench, [contender], loads)
        return race.report() | {
            f"{name}, {LONG:,} / {SHORT}": growth(
                race, contender, f"{name}, {SHORT:,} messages", f"{name}, {LONG:,} messages"
            )
            for name in _plans(bench, "")
        }


def _plans(bench: Bench, path: str) -> dict[str, Plan]:
    body = json.dumps({"role": "user", "content": TEXT})
    return {
        "first page": Plan(1, bench.seconds, path=f"{path}?limit=10"),
        "last page": Plan(1, bench.seconds, path=f"{path}?limit=10&order=desc"),
        "append": Plan(1, bench.seconds, path=path, body=body, calls=APPENDS),
    }


def _begun(contender: Contender, size: int) -> str:
    """Return the path of the messages of a conversation that has so many."""
    begun = contender.post(ROOT, KEYS[0], {"title": f"{size} messages"})
    path = f"{ROOT}/{begun['id']}/messages"
    for first in range(0, size, BATCH):
        number = min(BATCH, size - first)
        messages = [{"role": "user", "content": TEXT}] * number
        contender.post(f"{path}/batch", KEYS[0], {"messages": messages})
    return path
