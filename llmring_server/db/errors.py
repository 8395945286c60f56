"""Database errors: those of PostgreSQL and its driver, translated into errors of this package."""

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

import asyncpg
from pgdbm import PoolError

from llmring_server.errors import (
    Conflict,
    InvalidRequest,
    LockTimeout,
    MissingPrivilege,
    NotFound,
    NotMigrated,
    Overloaded,
    RingError,
    Unavailable,
)

# The constraints that even a valid request can violate: another request has taken the name, or
# deleted the parent row. A violation of any other constraint is a bug.
CONSTRAINTS: dict[str, Callable[[], RingError]] = {
    "projects_name_key": Conflict,
    "api_keys_project_id_fkey": partial(NotFound.of, "Project"),
    "messages_project_id_conversation_id_fkey": partial(NotFound.of, "Conversation"),
    "capabilities_project_id_server_id_fkey": partial(NotFound.of, "Server"),
    "executions_project_id_tool_id_fkey": partial(NotFound.of, "Tool"),
}

_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.OutdatedSchemaCacheError,
    OSError,
)
# The session, or the server that it leads to, is of no more use: SQLSTATE 08xxx, 57P01 to 57P03,
# and 25006, with which a server answers that was the primary before a failover.
_ENDS_CONNECTION = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.ReadOnlySQLTransactionError,
)
_BUSY = (
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    TimeoutError,
)
READ_ONLY = (
    "The database is read-only: name its primary in LLMRING_DATABASE_URL, or all of its hosts with"
    " target_session_attrs=read-write."
)
NOT_CONNECTED = (
    "The database is not connected: call `await manager.connect()` before the first request, and"
    " `disconnect()` after the last."
)
_OUTDATED = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
)
# A value that no column can hold. Validation should have rejected it.
_OUT_OF_RANGE = (asyncpg.DataError, asyncpg.ProgramLimitExceededError, OverflowError)
# The driver raises these for misuse, and also for a call on a lost connection.
_MISUSED_OR_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError)


class translated:  # noqa: N801, used like a function
    """Translate the errors of driver calls: `with translated(connection): await ...`.

    Only calls of the driver belong inside: an OSError of other code is not the database's.
    `target` is the connection or the pool that is called. This is a class because a generator
    would cost every statement a microsecond.
    """

    __slots__ = ("_target",)

    def __init__(self, target: Any) -> None:
        self._target = target

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None and (translation := _translation(exc, self._target)):
            raise translation from exc


def _translation(exc: BaseException, target: Any) -> RingError | None:  # noqa: PLR0911, a table
    """Return the error to raise instead of `exc`; None if `exc` is a bug and should be raised."""
    if isinstance(exc, asyncpg.IntegrityConstraintViolationError):
        known = CONSTRAINTS.get(exc.constraint_name or "")
        return known() if known else None
    if isinstance(exc, _OUTDATED):
        return NotMigrated()
    if isinstance(exc, asyncpg.InsufficientPrivilegeError):
        return MissingPrivilege(
            f"The role of the database lacks a privilege ({exc.args[0]}): use the owner of the"
            " tables, or repeat the grants in docs/deployment.md."
        )
    if isinstance(exc, asyncpg.ReadOnlySQLTransactionError):
        return Unavailable(READ_ONLY)
    if isinstance(exc, PoolError):
        return Unavailable(NOT_CONNECTED)
    if isinstance(exc, asyncpg.LockNotAvailableError):
        return LockTimeout()
    if isinstance(exc, _BUSY):
        return Overloaded()
    if isinstance(exc, _OUT_OF_RANGE):
        return InvalidRequest("A value is out of the range that can be stored.")
    if isinstance(exc, _UNAVAILABLE) or (isinstance(exc, _MISUSED_OR_LOST) and is_lost(target)):
        return Unavailable()
    return None


def ends_connection(exc: BaseException) -> bool:
    """Tell whether the connection on which this error occurred must not be used again."""
    return isinstance(_drivers_error(exc), _ENDS_CONNECTION) or _is_unanswered(exc)


def ends_all_connections(exc: BaseException) -> bool:
    """Tell whether the server of this connection takes no writes, or does not answer at all."""
    is_read_only = isinstance(_drivers_error(exc), asyncpg.ReadOnlySQLTransactionError)
    return is_read_only or _is_unanswered(exc)


def _is_unanswered(exc: BaseException) -> bool:
    # A server that is reachable would have ended the statement itself, a second before.
    return isinstance(exc, RingError) and isinstance(exc.__cause__, TimeoutError)


def _drivers_error(exc: BaseException) -> BaseException | None:
    # A translated error was raised from that of the driver.
    return exc.__cause__ if isinstance(exc, RingError) else exc


def is_lost(target: Any) -> bool:
    """Tell whether a connection is closed, or a pool is closing."""
    if isinstance(target, asyncpg.Pool):
        return target.is_closing()
    try:
        return bool(target.is_closed())
    except asyncpg.InterfaceError:
        # The pool takes back a connection that breaks, and its proxy then rejects every call.
        return True


def refuses_a_row(exc: Exception) -> bool:
    """Tell whether a statement failed because of one of its rows; the others could be stored."""
    is_callers_fault = isinstance(exc, RingError) and exc.blames_caller
    return is_callers_fault or isinstance(exc, asyncpg.IntegrityConstraintViolationError)
