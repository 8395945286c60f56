"""Maintenance: partitions created ahead, totals moved to rollups, expired data deleted.

`maintain` is what `llmring-server db maintain` runs. What expires, and how it is deleted, is
declared by the service that owns the data: `Repository.retention` and `delete_with_calls`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pgdbm import AsyncDatabaseManager

from llmring_server.core.identity import Actor
from llmring_server.db.database import Database
from llmring_server.db.partitions import Partitions
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Retention
from llmring_server.ring import Ring
from llmring_server.settings import Settings
from llmring_server.usage.rollups import FIRST_PLACE, Place

BATCH_SIZE = 5000


class MaintenanceReport(NamedTuple):
    """The partitions that were created and dropped, and the numbers of expired rows, by kind."""

    created: list[str]
    dropped: list[str]
    deleted: dict[str, int]


async def maintain(
    db: AsyncDatabaseManager,
    retain: timedelta | None = None,
    mcp_schema: str | None = None,
    *,
    actor: Actor,
) -> MaintenanceReport:
    """Create partitions, move totals to rollups, and delete what has expired.

    With `retain`, drop the calls of months that ended that long ago; their totals stay, by UTC day.
    Messages, tool executions and inactive MCP capabilities are deleted when their project's
    retention says so. Run this daily, beside a running server: each step commits on its own.
    """
    ring = Ring(db, Settings(mcp_schema=mcp_schema))
    try:
        async with _step(ring) as step:
            created = await Partitions(step).create()
        await _move_to_rollups(ring)
        dropped = await _drop_calls(ring, retain, actor) if retain else []
        deleted = {
            retention.rows: await _delete_expired(ring, service, retention, actor)
            for service in ring.services
            for retention in service.retention
        }
    finally:
        await ring.aclose()
    return MaintenanceReport(created, dropped, deleted)


@asynccontextmanager
async def _step(ring: Ring) -> AsyncIterator[Database]:
    """Begin a separate transaction for a step, so that it holds no locks of other steps."""
    async with ring._database.transaction() as step:
        # No request waits for a step, so it may take long. Waiting for a lock would make requests
        # wait behind it.
        step.timeout = None
        await step.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '2s'")
        yield step


async def _move_to_rollups(ring: Ring) -> None:
    place: Place | None = FIRST_PLACE
    while place:
        async with _step(ring) as step:
            place = await ring.rollups.with_database(step).move_batch(place)


async def _delete_expired(
    ring: Ring, service: Repository, retention: Retention, actor: Actor
) -> int:
    """Delete expired rows in batches; return their number."""
    total = 0
    while True:
        async with _step(ring) as step:
            rows = await service.with_database(step).delete_batch(
                retention.statement, limit=BATCH_SIZE, **retention.params
            )
            if rows and not total:
                audit = ring.audit.with_database(step)
                await audit.record(actor, retention.action, "older than their projects keep them")
        total += rows
        if not rows:
            return total


async def _drop_calls(ring: Ring, retain: timedelta, actor: Actor) -> list[str]:
    oldest = (datetime.now(UTC) - retain).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    # Calls are dropped first: if this is interrupted, the remaining rows refer to no call and are
    # harmless.
    async with _step(ring) as step:
        dropped = await Partitions(step).drop(oldest)
        if dropped:
            audit = ring.audit.with_database(step)
            await audit.record(actor, "calls.expire", ", ".join(dropped))
    for service in ring.services:
        for statement in service.delete_with_calls:
            async with _step(ring) as step:
                await service.with_database(step).delete_stored_before(statement, oldest)
    return dropped
