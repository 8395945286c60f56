"""What receipts cost: those who log, nothing; and how long one of many calls takes."""

import time
from typing import Any

from scripts.benchmark.contenders import Contender, ours, running, signing
from scripts.benchmark.figures import spread
from scripts.benchmark.load import Plan
from scripts.benchmark.measure import Bench, progress
from scripts.benchmark.payload import KEYS
from scripts.benchmark.processes import resident_mib
from scripts.benchmark.race import Race, same
from scripts.benchmark.seed import seed, settle

PATH = "/api/v1/receipts"
# Nobody else logs with it.
LARGE = KEYS[1]


def receipts(bench: Bench) -> dict[str, Any]:
    """Log single calls with and without a key for receipts; certify many calls at once."""
    with running(bench.server, signing, ours) as contenders:
        loads = {"log, c=64": same(Plan(64, bench.seconds))}
        raced = Race(bench, contenders, loads).report()
        signer = contenders[0]
        seed(signer, LARGE, bench.calls)
        settle(signer)
        return raced | {f"{bench.calls:,} calls": _certified(bench, signer)}


def _certified(bench: Bench, signer: Contender) -> dict[str, Any]:
    before = resident_mib(signer.pid)
    found = [_round(bench, signer) for _ in range(bench.rounds)]
    progress(f"  {found}")
    return {
        "generate_seconds": spread(each for each, _ in found),
        "proof_seconds": spread(each for _, each in found),
        "memory_mib": [before, resident_mib(signer.pid)],
    }


def _round(bench: Bench, signer: Contender) -> tuple[float, float]:
    """Return seconds to certify everything of a tenant, and to prove one of its calls."""
    span = {"start_date": "2000-01-01", "end_date": "2100-01-01"}
    start = time.perf_counter()
    made = signer.post(f"{PATH}/generate", LARGE, span)
    middle = time.perf_counter()
    if made["certified_count"] < bench.calls:
        raise ValueError(f"certified: {made['certified_count']}")
    receipt = made["receipt"]
    id = receipt["batch_summary"]["log_ids"][0]
    signer.get(f"{PATH}/{receipt['receipt_id']}/proof/{id}", LARGE)
    return middle - start, time.perf_counter() - middle
