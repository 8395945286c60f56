"""Past calls for the servers to read: through the API, so that any version's schema will do."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scripts.benchmark.postgres import fetch
from scripts.benchmark.servers import ServerUnderTest

DAYS = 90
BATCH_SIZE = 1000
# Sums of recent calls move to the rollups after so many calls, as they would over 90 days: all at
# once, they would leave behind an index as large as if every call were recent.
SETTLE_EVERY = 100_000

MODELS = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("anthropic", "claude-sonnet"),
    ("anthropic", "claude-haiku"),
    ("google", "gemini-pro"),
    ("google", "gemini-flash"),
)
ALIASES = ("fast", "deep", "summarizer", "coder")
PROFILES = ("default", "staging")
ORIGINS = ("web", "worker", "cli")


def seed(server: ServerUnderTest, key: str, calls: int, now: datetime | None = None) -> None:
    """Log this many calls with `key`, spread evenly over the `DAYS` before `now`."""
    now = now or datetime.now(UTC)
    if server.name == "peer":
        # It has no route for batches, and takes no time of a call.
        sql = Path(__file__).with_suffix(".sql").read_text()
        fetch(server.database or "", sql, now, calls, key, DAYS)
        return
    for first in range(1, calls + 1, BATCH_SIZE):
        size = min(BATCH_SIZE, calls - first + 1)
        server.post("/api/v1/logs/batch", key, list(_calls(first, size, calls, now)))
        if (first + size - 1) % SETTLE_EVERY == 0:
            settle(server)


def _calls(first: int, size: int, total: int, now: datetime) -> Iterator[dict[str, object]]:
    """Yield the calls from number `first`; scripts/benchmark/seed.sql makes the same ones."""
    for number in range(first, first + size):
        provider, model = MODELS[number % 6]
        yield {
            "id_at_origin": f"x{number}",
            "logged_at": now - timedelta(DAYS) * ((total - number + 0.5) / total),
            "provider": provider,
            "model": model,
            "alias": ALIASES[number // 6 % 4],
            "profile": PROFILES[number // 24 % 2],
            "origin": ORIGINS[number // 48 % 3],
            "status": "ok" if number % 50 else "error",
            "cost": round(number % 1000 * 0.00001, 5),
            "input_tokens": 100 + number % 2000,
            "output_tokens": number % 700,
            "cached_input_tokens": number % 90,
            "latency_ms": 200 + number % 3000,
            # 100 bytes as JSON.
            "metadata": {"note": f"call {number}".ljust(89, ".")},
        }


def settle(server: ServerUnderTest) -> None:
    """Do now what would otherwise run in the background of a measurement."""
    if server.command:
        command = [str(server.command), "db", "maintain", "--env", "prod"]
        subprocess.run(  # noqa: S603, the command is ours
            command,
            cwd="/",
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    if server.database:
        fetch(server.database, "VACUUM (ANALYZE)")
        fetch(server.database, "CHECKPOINT")
