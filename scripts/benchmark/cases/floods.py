"""How much the requests of one project delay those of another."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from scripts.benchmark.http_requests import KEYS
from scripts.benchmark.load_generator import Load, LoadResult
from scripts.benchmark.runner import WARM_UP_SECONDS, Settings, generate, measure, progress
from scripts.benchmark.servers import ServerUnderTest, prod, start
from scripts.benchmark.statistics import Sample, ratio, spread, summarize

QUIET, FLOODING = KEYS[:2]
# What a flood has sent before and sends after the measurement.
MARGIN_SECONDS = 0.5

TEXT = "A message that a person writes in a chat is about this long, or a few times as long. " * 4
EXCHANGE = {
    "messages": [{"role": "user", "content": TEXT}] * 20,
    "response": {"content": TEXT},
    "metadata": {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "input_tokens": 1234,
        "output_tokens": 567,
    },
}

FLOODS = {
    "8 x partial batches of 1,000": Load(8, 0, [FLOODING], batch_size=1000, partial=True),
    "8 x batches of 1,000": Load(8, 0, [FLOODING], batch_size=1000),
    "64 x exchanges": Load(
        64, 0, [FLOODING], path="/api/v1/conversations/log", body=json.dumps(EXCHANGE)
    ),
    "64 x single calls": Load(64, 0, [FLOODING]),
}


def floods(settings: Settings) -> dict[str, Any]:
    """Log single calls of one project, while another one sends as much as it can."""
    quiet = Load(1, settings.seconds, [QUIET])
    with start(settings.cluster_url, prod, *settings.against) as servers:
        for server in servers:
            for load in (quiet, *FLOODS.values()):
                measure(settings, server, replace(load, seconds=WARM_UP_SECONDS))
        return {
            name: {server.name: _report(settings, server, quiet, name) for server in servers}
            for name in FLOODS
        }


def _report(settings: Settings, server: ServerUnderTest, quiet: Load, name: str) -> dict[str, Any]:
    """Measure the quiet project alone and during a flood, in turns."""
    calm: list[Sample] = []
    flooded: list[Sample] = []
    floods: list[LoadResult] = []
    for number in range(1, settings.rounds + 1):
        calm.append(measure(settings, server, quiet))
        with _flood(server, FLOODS[name], settings.seconds, floods):
            flooded.append(measure(settings, server, quiet))
        progress(f"  {name}, {server.name}, round {number}: {calm[-1]}; flooded: {flooded[-1]}")
    pairs = [(one.metrics, two.metrics) for one, two in zip(calm, flooded, strict=True)]
    return {
        "calm": summarize(calm),
        "flooded": summarize(flooded),
        "flooded/calm": {
            metric: spread(ratio(two[metric], one[metric]) for one, two in pairs)
            for metric in ("p50_ms", "p99_ms")
        },
        "flood": {
            "requests_per_second": spread(each.successes / each.seconds for each in floods),
            "failures": dict(sum((Counter(each.failures) for each in floods), Counter[str]())),
        },
    }


@contextmanager
def _flood(
    server: ServerUnderTest, load: Load, seconds: float, results: list[LoadResult]
) -> Iterator[None]:
    """Send a load in the background; add its result to `results`."""
    load = replace(load, seconds=seconds + 2 * MARGIN_SECONDS)
    with ThreadPoolExecutor(1) as executor:
        flood = executor.submit(generate, server, load, "flood")
        time.sleep(MARGIN_SECONDS)
        yield
        results.append(flood.result())
