"""What PostgreSQL and its driver raise, translated into errors that say what a caller can do."""

from types import TracebackType
from typing import Any

import asyncpg

from llmring_server.errors import (
    Conflict,
    InvalidRequest,
    LockTimeout,
    NotFound,
    NotMigrated,
    Overloaded,
    RingError,
    Unavailable,
)

# The constraints that a request can violate however well it is validated: another request made the
# name, or deleted the parent row. A violation of any other constraint is a bug.
CONSTRAINTS: dict[str, type[RingError]] = {
    "projects_name_key": Conflict,
    "api_keys_project_id_fkey": NotFound,
    "messages_project_id_conversation_id_fkey": NotFound,
    "capabilities_project_id_server_id_fkey": NotFound,
    "executions_project_id_tool_id_fkey": NotFound,
}

_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.OutdatedSchemaCacheError,
    OSError,
)
_BUSY = (
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    TimeoutError,
)
_OUTDATED = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
)
# A value that no column can hold. Validation should have refused it first.
_OUT_OF_RANGE = (asyncpg.DataError, asyncpg.ProgramLimitExceededError, OverflowError)
# The driver raises these for misuse, and also for a call on a connection that is lost.
_MISUSED_OR_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError)


class translated:  # noqa: N801, used like a function
    """Translate what calls of the driver raise: `with translated(connection): await ...`.

    Only calls of the driver belong inside: an OSError of other code is not the database's.
    `on` is the connection or the pool that is called. It is a class, since a generator would cost
    every statement a microsecond.
    """

    __slots__ = ("_on",)

    def __init__(self, with_database: Any) -> None:
        self._on = with_database

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None and (translation := _translation(exc, self._on)):
            raise translation from exc


def _translation(exc: BaseException, with_database: Any) -> RingError | None:  # noqa: PLR0911, a table
    """Return the error to raise instead of `exc`; None if it is a bug, and stays what it is."""
    if isinstance(exc, asyncpg.IntegrityConstraintViolationError):
        known = CONSTRAINTS.get(exc.constraint_name or "")
        return known() if known else None
    if isinstance(exc, _OUTDATED):
        return NotMigrated()
    if isinstance(exc, asyncpg.LockNotAvailableError):
        return LockTimeout()
    if isinstance(exc, _BUSY):
        return Overloaded()
    if isinstance(exc, _OUT_OF_RANGE):
        return InvalidRequest("A value is out of the range that can be stored.")
    if isinstance(exc, _UNAVAILABLE) or (
        isinstance(exc, _MISUSED_OR_LOST) and is_lost(with_database)
    ):
        return Unavailable()
    return None


def is_lost(with_database: Any) -> bool:
    """Tell if a connection is closed, or a pool is, which is then of no more use."""
    if isinstance(with_database, asyncpg.Pool):
        return with_database.is_closing()
    try:
        return bool(with_database.is_closed())
    except asyncpg.InterfaceError:
        # A pool takes back a connection that breaks, and its proxy then refuses every call.
        return True


def refuses_a_row(exc: Exception) -> bool:
    """Tell if a statement failed for one of its rows, so that the others could be stored."""
    blamed = isinstance(exc, RingError) and exc.blames_caller
    return blamed or isinstance(exc, asyncpg.IntegrityConstraintViolationError)
