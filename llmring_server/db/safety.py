"""Database safety: settings and states of PostgreSQL that put acknowledged data at risk."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

from llmring_server.core.database_warnings import DatabaseWarning, DatabaseWarningCode
from llmring_server.db.connect import crosses_public_network_unencrypted, transport_of
from llmring_server.db.database import MIN_POSTGRES, Database
from llmring_server.db.errors import READ_ONLY, translated
from llmring_server.db.repository import Repository
from llmring_server.errors import UnsafeDatabase
from llmring_server.settings import Settings

_logger = logging.getLogger(__name__)

# How long a result is kept, so that frequent probes cause no further statements.
CACHE_SECONDS = 10.0
MAX_CLOCK_DIFFERENCE_SECONDS = 5.0

# These texts are public: they name no host, role or version.
_DETAILS: dict[DatabaseWarningCode, str] = {
    "fsync_off": (
        "fsync is off: if the database's machine fails, stored data is lost or damaged."
        " Set fsync=on."
    ),
    "full_page_writes_off": (
        "full_page_writes is off: if the database's machine fails, stored data may be damaged."
        " Set full_page_writes=on, unless the file system writes pages atomically."
    ),
    "synchronous_commit_off": (
        "synchronous_commit is off: if the database fails, the last acknowledged calls are lost."
        " Set synchronous_commit=on for the server, the database and the role, and remove it from"
        " LLMRING_DATABASE_URL."
    ),
    "version_too_old": (
        f"The database is older than PostgreSQL {MIN_POSTGRES}, the oldest supported version."
        " Upgrade it."
    ),
    "standby": f"The database is a standby. {READ_ONLY}",
    "read_only": READ_ONLY,
    "not_encrypted": (
        "The connection to the database crosses a public network without encryption."
        " Set LLMRING_DATABASE_TLS=verify-full."
    ),
    "replica_unreachable": (
        "The read replica cannot be reached, or is no replica of this database: the primary answers"
        " all reads. Check LLMRING_DATABASE_READ_URL."
    ),
    "replica_is_primary": (
        "LLMRING_DATABASE_READ_URL names a primary. Name a standby, or remove the setting."
    ),
}
# What makes the server slower, and puts no data at risk.
_HARMLESS: set[DatabaseWarningCode] = {"replica_unreachable", "replica_is_primary"}


@dataclass
class _Result:
    """The last result of the check, and what is logged of it."""

    warnings: list[DatabaseWarning]
    expires: float
    logged: set[DatabaseWarningCode]


class DatabaseSafety(Repository):
    """The check of one database. Its result is kept for a moment."""

    sql = "db/safety"

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__(database)
        self._refuses = settings.unsafe_database == "refuse"
        # Shared by all copies, such as those of single requests.
        self._result = _Result([], 0.0, set())

    async def warnings(self) -> list[DatabaseWarning]:
        """Return what is unsafe; an earlier result, if it is recent."""
        if time.monotonic() >= self._result.expires:
            self._result.warnings = await self._inspect()
            self._result.expires = time.monotonic() + CACHE_SECONDS
        return self._result.warnings

    async def require(self) -> None:
        """Raise UnsafeDatabase with the reasons, if the settings refuse an unsafe database."""
        warnings = await self.warnings()
        reasons = " ".join(each["detail"] for each in warnings if each["code"] not in _HARMLESS)
        if reasons and self._refuses:
            raise UnsafeDatabase(f"{UnsafeDatabase.detail} {reasons}")

    async def log(self) -> None:
        """Log what is unsafe, each warning once until it ends."""
        warnings = await self.warnings()
        for warning in warnings:
            if warning["code"] not in self._result.logged:
                _logger.warning("Unsafe database: %s", warning["detail"])
        self._result.logged = {warning["code"] for warning in warnings}

    async def _inspect(self) -> list[DatabaseWarning]:
        text, _ = self._prepare("database_state", {})
        timeout = self._database.timeout
        async with self._database.acquire() as connection:
            with translated(connection):
                before = datetime.now(UTC)
                [state] = await connection.fetch(text, timeout=timeout)
                after = datetime.now(UTC)
                is_exposed = crosses_public_network_unencrypted(transport_of(connection))
        codes = [*_codes(state)]
        if is_exposed:
            codes.append("not_encrypted")
        if replica := self._database.replica:
            if replica.is_unreachable:
                codes.append("replica_unreachable")
            if replica.is_primary:
                codes.append("replica_is_primary")
        warnings = [DatabaseWarning(code=code, detail=_DETAILS[code]) for code in codes]
        # The clocks agree if the database's time is between those of sending and receiving.
        difference = max(before - state["now"], state["now"] - after).total_seconds()
        if difference > MAX_CLOCK_DIFFERENCE_SECONDS:
            warnings.append({"code": "clocks_differ", "detail": _clocks_differ(difference)})
        return warnings


def _codes(state: asyncpg.Record) -> Iterator[DatabaseWarningCode]:
    if not state["fsync"]:
        yield "fsync_off"
    if not state["full_page_writes"]:
        yield "full_page_writes_off"
    if not state["synchronous_commit"]:
        yield "synchronous_commit_off"
    if state["version"] < MIN_POSTGRES:
        yield "version_too_old"
    if state["is_standby"]:
        yield "standby"
    elif state["is_read_only"]:
        yield "read_only"


def _clocks_differ(seconds: float) -> str:
    return (
        f"The clocks of the server and of the database differ by at least {seconds:,.0f} s: the"
        " times of calls and the expiry of keys depend on them. Synchronize both clocks."
    )
