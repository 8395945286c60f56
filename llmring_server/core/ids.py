"""Ids: UUIDs of version 7 (RFC 9562), which contain the millisecond in which they were made."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import uuid_utils
from pydantic import Field

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A UUID that is not of version 7 may name a time beyond the calendar. It is read as a time in the
# far future, when nothing has happened.
_MAX_MILLISECONDS = 10**14


# Clients of the first servers read `api_key_id`.
FormerKeyId = Annotated[None, Field(description="Always null; kept for older clients.")]


def new_id() -> UUID:
    """Make an id of the current time."""
    return UUID(int=uuid_utils.uuid7().int)


def moment_of(id: UUID) -> datetime:
    """Return the millisecond in which a UUIDv7 was made."""
    milliseconds = id.int >> 80
    return EPOCH + timedelta(milliseconds=min(milliseconds, _MAX_MILLISECONDS))
