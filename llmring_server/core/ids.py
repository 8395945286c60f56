"""Ids: UUIDs that tell when they were made (UUIDv7, RFC 9562)."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import uuid_utils

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_id() -> UUID:
    return UUID(int=uuid_utils.uuid7().int)


def moment_of(id: UUID) -> datetime:
    """Return the millisecond that a UUIDv7 was made in."""
    # Any other UUID may name a time beyond the calendar: then, a time when nothing happened.
    return EPOCH + timedelta(milliseconds=min(id.int >> 80, 10**14))
