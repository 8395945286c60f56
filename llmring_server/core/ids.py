"""Ids: UUIDs of version 7 (RFC 9562), which contain the millisecond in which they were made."""

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import uuid_utils
from pydantic import Field

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A UUID that is not of version 7 may name a time beyond the calendar. It is read as a time in the
# far future, when nothing has happened.
_MAX_MILLISECONDS = 10**14

_WITHOUT_FRACTION = ~(0xFFF << 64)


# Clients of the first servers read `api_key_id`.
FormerKeyId = Annotated[None, Field(description="Always null; kept for older clients.")]


def new_id() -> UUID:
    """Make an id of the current time."""
    return UUID(int=uuid_utils.uuid7().int)


def new_id_and_time() -> tuple[UUID, datetime]:
    """Make an id of the current time, and return that time to the microsecond.

    Both come from one reading of the clock. What is stored with an id is stored with this time:
    that of the id alone is up to a millisecond earlier, which may be before the request arrived.
    """
    microseconds = time.time_ns() // 1000
    return id_at(microseconds), time_at(microseconds)


def id_at(microseconds: int) -> UUID:
    """Make an id of a time, given in microseconds since 1970. Ids are in the order of their times.

    The 12 bits behind the millisecond hold its fraction (RFC 9562, section 6.2, method 3).
    """
    fraction = microseconds % 1000 * 4096 // 1000
    id = uuid_utils.uuid7(nanoseconds=microseconds * 1000)
    return UUID(int=id.int & _WITHOUT_FRACTION | fraction << 64)


def time_at(microseconds: int) -> datetime:
    """Return a time, given in microseconds since 1970."""
    return EPOCH + timedelta(0, 0, microseconds)


def moment_of(id: UUID) -> datetime:
    """Return the millisecond in which a UUIDv7 was made."""
    milliseconds = id.int >> 80
    return EPOCH + timedelta(milliseconds=min(milliseconds, _MAX_MILLISECONDS))
