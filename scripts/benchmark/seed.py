"""History: as many calls as nobody would wait for, written by SQL."""

import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from llmring_server.tenant import of_key
from scripts.benchmark.contenders import Contender
from scripts.benchmark.postgres import query

DAYS = 90

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def _statements() -> dict[str, str]:
    text = Path(__file__).with_suffix(".sql").read_text().replace("<<days>>", str(DAYS))
    _, *parts = _NAME.split(text)
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: sql.replace("<<calls>>", found["calls"]) for name, sql in found.items()}


def seed(contender: Contender, key: str, calls: int, now: datetime | None = None) -> None:
    """Give the tenant of `key` so many calls in the `DAYS` before `now`."""
    if contender.database is None:
        return
    sql = _statements()
    now = now or datetime.now(UTC)
    if contender.name in {"ours", "signing"}:
        query(contender.database, sql["ours"], now, calls, of_key(key))
        query(contender.database, sql["rollups"], of_key(key))
    else:
        query(contender.database, sql["peer"], now, calls, key)


def seed_executions(contender: Contender, key: str, tool: str, number: int) -> None:
    """Let a tool of the tenant of `key` have done so much, a second after the other."""
    if contender.database:
        sql = _statements()["executions"]
        query(contender.database, sql, of_key(key), UUID(tool), number)


def settle(contender: Contender) -> None:
    """Do at once what the database would do after so many rows, in the middle of a measurement."""
    if contender.database:
        query(contender.database, "VACUUM (ANALYZE)")
        query(contender.database, "CHECKPOINT")
