"""Server statistics: connections, queues and migrations, as `Ring.stats` and `/health` report."""

from collections.abc import Callable
from datetime import datetime

from typing_extensions import TypedDict


class PoolStats(TypedDict):
    """The database connections of the pool, also those that others use.

    `kept` are unused, but not returned to the pool yet. `waiting` are this server's requests for a
    connection; the oldest has waited for `oldest_wait_seconds`.
    """

    min_size: int
    max_size: int
    size: int
    in_use: int
    kept: int
    idle: int
    waiting: int
    oldest_wait_seconds: float


class ModuleStats(TypedDict):
    """The migrations of one schema; `last_applied_at` is null if none was applied."""

    module: str
    schema: str
    applied: int
    pending: list[str]
    last_applied_at: datetime | None


class CommitQueueStats(TypedDict):
    """Calls that wait to be stored or are being stored, and the limits of the queue."""

    pending: int
    in_flight: int
    commits: int
    max_pending: int
    max_pending_of_project: int
    max_commits: int
    batch_size: int


class SlotStats(TypedDict):
    """Slots for work that occupies a connection."""

    slots: int
    slots_of_project: int
    in_use: int
    waiting: int


class LongReadStats(TypedDict):
    """Slots of statements (statistics, searches) and of transactions (exports, receipts)."""

    statements: SlotStats
    transactions: SlotStats


class EmbeddedPostgresStats(TypedDict):
    """An embedded PostgreSQL that this process started or uses."""

    data_dir: str
    version: str
    answers: bool


# The embedded servers of this process add themselves, and not every system can run one.
embedded_servers: list[Callable[[], EmbeddedPostgresStats]] = []


class RingStats(TypedDict):
    """What a server is doing now.

    `modules` is null if the database does not answer. `long_reads` is null before the pool exists.
    """

    pool: PoolStats | None
    modules: list[ModuleStats] | None
    commit_queue: CommitQueueStats
    long_reads: LongReadStats | None
    embedded_postgres: list[EmbeddedPostgresStats]


class BodyMemoryStats(TypedDict):
    """The memory that request bodies in several parts occupy, and its limits."""

    bytes: int
    unauthenticated_bytes: int
    max_bytes: int
    max_unauthenticated_bytes: int


class ServerStats(RingStats):
    """What a server is doing now, with the request bodies of this application."""

    body_memory: BodyMemoryStats
