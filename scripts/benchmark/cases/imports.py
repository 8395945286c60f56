"""How fast data of other programs is imported."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.benchmark.postgres import execute, temporary_database
from scripts.benchmark.runner import Settings
from scripts.benchmark.servers import COMMAND
from scripts.benchmark.statistics import round_figures

TABLES = Path(__file__).parents[1] / "llmring_0_1_3.sql"
KEYS = 20
# One call a second, and a message for each ten calls.
ROWS = """
INSERT INTO usage_logs (
    api_key_id, model, provider, alias, input_tokens, output_tokens, cached_input_tokens, cost,
    latency_ms, origin, id_at_origin, metadata, created_at
)
SELECT 'key-' || n % {keys}, 'model-' || n % 7, 'openai', 'fast', n % 5000, n % 500, 0,
       n % 5000 * 0.00000123 + 0.00000001, n % 1000, 'service-' || n % 3, 'request-' || n,
       jsonb_build_object('user', n % 100, 'feature', 'chat'),
       now() - n * interval '1 second'
FROM generate_series(1, {calls}) AS n;
INSERT INTO conversations (id, api_key_id, title)
SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'key-' || n % {keys}, 'Chat'
FROM generate_series(1, {calls} / 50) AS n;
INSERT INTO messages (conversation_id, role, content, content_hash, input_tokens, "timestamp")
SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'user',
       repeat('Some words of a message. ', 20), repeat('0', 64), 100,
       now() - interval '1 day' + m * interval '1 second'
FROM generate_series(1, {calls} / 50) AS n, generate_series(1, 5) AS m;
ANALYZE;
"""


def llmring(settings: Settings) -> dict[str, Any]:
    """Import calls, and a tenth as many messages, of an llmring-server 0.1.3."""
    with (
        temporary_database(settings.cluster_url) as old,
        temporary_database(settings.cluster_url) as new,
    ):
        execute(old, TABLES.read_text())
        execute(old, ROWS.format(keys=KEYS, calls=settings.calls))
        environment = {"PATH": os.defpath, "LLMRING_DATABASE_URL": new}
        for arguments in (["db", "create"], ["import", "llmring", "--from", old]):
            started = time.perf_counter()
            done = subprocess.run(  # noqa: S603, the commands are ours
                [COMMAND, *arguments, "--env", "prod"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=sys.stderr,
                text=True,
                check=True,
            )
            seconds = time.perf_counter() - started
        [stored] = re.findall(r"^stored: ([0-9,]+)$", done.stdout, re.MULTILINE)
        rows = int(stored.replace(",", ""))
        return {"rows": rows, "seconds": seconds, "rows_per_second": round_figures(rows / seconds)}
