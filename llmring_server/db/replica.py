"""Read replica: a standby that answers reads, with data that is at most a few seconds old.

A position in the write-ahead log (WAL) tells how far a database has come. The server reads that of
the primary once a second; what the replica has replayed then says how old its data is. A client
that must see its own write sends the position that the response to the write had.
"""

import asyncio
import base64
import logging
import struct
import time
from binascii import Error as Base64Error
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple

import asyncpg
from pgdbm import AsyncDatabaseManager

from llmring_server.db.database import Database
from llmring_server.db.errors import translated
from llmring_server.db.repository import Repository
from llmring_server.errors import BadRequest, NotMigrated, Overloaded, RingError, Unavailable
from llmring_server.settings import Settings

_logger = logging.getLogger(__name__)

# How long a read waits for the position that it brings, before the primary is asked.
POSITION_TIMEOUT_SECONDS = 0.2
POSITION_POLL_SECONDS = 0.005
# How often the position of the primary is read, while there are reads.
SAMPLE_INTERVAL_SECONDS = 1.0
# How long an unreachable replica is left alone: after the first failure, and at most.
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0

# The first byte tells other formats apart.
_POSITION = struct.Struct(">BQ")
_POSITION_FORMAT = 1

# PostgreSQL cancels a query that reads what replaying must remove; it succeeds on the primary.
_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)

OTHER_CLUSTER = (
    "LLMRING_DATABASE_READ_URL names a database that is no replica of LLMRING_DATABASE_URL: name a"
    " standby of the same cluster, and the same database."
)


class _Sample(NamedTuple):
    """The position of the primary at a time of the monotonic clock."""

    at: float
    position: int


class _Behind(Exception):
    """The replica has not yet replayed what a read must see, or its data is too old."""


def encode_position(position: int) -> str:
    """Return a position as clients see it."""
    return base64.urlsafe_b64encode(_POSITION.pack(_POSITION_FORMAT, position)).decode()


def decode_position(text: str) -> int:
    """Read a position that a client sends; raise BadRequest if the server did not make it."""
    with suppress(Base64Error, struct.error, ValueError):
        version, position = _POSITION.unpack(base64.b64decode(text, b"-_", validate=True))
        if version == _POSITION_FORMAT and position < 2**63:
            return int(position)
    raise BadRequest("X-LLMRing-Position: send the value of an earlier response, unchanged.")


class Replica(Repository):
    """A read replica of the database `primary`. What it cannot answer, the primary does."""

    sql = "db/replica"

    def __init__(
        self, primary: Database, manager: AsyncDatabaseManager, settings: Settings
    ) -> None:
        self._primary = primary
        self._max_lag = settings.max_replica_lag
        super().__init__(Database(manager, settings))
        # Oldest first; enough of them to tell any lag that is accepted.
        self._samples: deque[_Sample] = deque(maxlen=int(self._max_lag) + 2)
        self._sampling = asyncio.Lock()
        self._next_position: asyncio.Task[int] | None = None
        self._running_position: asyncio.Task[int] | None = None
        # While the replica is unreachable: when it is tried again, after which pause.
        self._retry_at = 0.0
        self._pause = 0.0
        self._probe: asyncio.Task[None] | None = None
        self._is_same_cluster: bool | None = None
        # What database_warnings report.
        self.is_primary = False

    @property
    def is_unreachable(self) -> bool:
        return self._pause > 0 or self._is_same_cluster is False

    async def check_cluster(self) -> None:
        """Raise Unavailable if the replica is of another cluster. An unreachable one is retried."""
        try:
            async with self._database.acquire() as connection:
                await self._compare_cluster(self._database._on(connection))
        except RingError as exc:
            if self._is_same_cluster is False:
                raise
            self._failed(exc)

    async def position(self) -> str:
        """Return a position that includes all commits of the primary until now."""
        # Callers share a query, but not one that began before they asked.
        if self._next_position is None:
            self._next_position = asyncio.create_task(self._query_position(self._running_position))
        return encode_position(await asyncio.shield(self._next_position))

    async def fetch(self, reader: Database, text: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a read on the replica, or on the primary if the replica cannot answer it."""
        try:
            async with self.connect(reader) as replica:
                return await replica.fetch(text, *arguments)
        except (_Behind, Unavailable, NotMigrated) as exc:
            self._note(exc)
        return await reader.fetch(text, *arguments)

    @asynccontextmanager
    async def reader(self, reader: Database) -> AsyncIterator[Database]:
        """Yield the replica on one connection, or the primary if the replica cannot answer."""
        async with AsyncExitStack() as stack:
            try:
                database = await stack.enter_async_context(self.connect(reader))
            except (_Behind, Unavailable) as exc:
                self._note(exc)
                database = reader
            yield database

    @asynccontextmanager
    async def connect(self, reader: Database) -> AsyncIterator[Database]:
        """Yield the replica on one connection, which has replayed what `reader` must see."""
        if not self._may_be_used():
            raise _Behind
        connected = False
        try:
            async with self._database.acquire() as connection:
                connected = True
                inside = self._database._on(connection)
                if self._is_same_cluster is None:
                    await self._compare_cluster(inside)
                lag = await self._wait_until_replayed(inside, reader.position)
                if reader.read_report:
                    reader.read_report.lag = lag
                yield inside
        except Overloaded as exc:
            if connected:
                raise
            # It is unreachable in a network without an answer, or its connections are occupied.
            raise Unavailable from exc

    async def aclose(self) -> None:
        """End background work and return all connections to the pool."""
        tasks = [self._next_position, self._running_position, self._probe]
        for task in filter(None, tasks):
            task.cancel()
            await asyncio.wait([task])
        await self._database.aclose()

    async def _wait_until_replayed(self, replica: Database, position: int | None) -> float | None:
        """Return how old the replica's data is at most, in seconds; None if that is unknown.

        Raise _Behind if that is too old, or if the position does not arrive in time.
        """
        sampled = await self._sample()
        deadline = time.monotonic() + POSITION_TIMEOUT_SECONDS
        while True:
            [state] = await replica.fetch(self._sql["position"].text)
            if position is None or state["position"] >= position:
                break
            if time.monotonic() > deadline:
                raise _Behind
            await asyncio.sleep(POSITION_POLL_SECONDS)
        self.is_primary = not state["is_standby"]
        lag = 0.0 if self.is_primary else self._lag(state["position"])
        # While the primary does not answer, old data is better than none.
        if sampled and (lag is None or lag > self._max_lag):
            raise _Behind
        return lag

    def _lag(self, replayed: int) -> float | None:
        """Return how old the data is at most, in seconds; None if it is older than all samples."""
        for sample in reversed(self._samples):
            if sample.position <= replayed:
                return time.monotonic() - sample.at
        return None

    async def _sample(self) -> bool:
        """Read the position of the primary, unless it was read a moment ago; tell if it answers."""
        async with self._sampling:
            now = time.monotonic()
            if self._samples and now - self._samples[-1].at < SAMPLE_INTERVAL_SECONDS:
                return True
            try:
                position = await self._primary_position()
            except (Unavailable, Overloaded):
                return False
            # As of before the query: what is committed meanwhile may be missing.
            self._samples.append(_Sample(now, position))
            return True

    async def _primary_position(self) -> int:
        [state] = await self._primary.fetch(self._sql["position"].text)
        position: int = state["position"]
        return position

    async def _query_position(self, running: asyncio.Task[int] | None) -> int:
        if running:
            await asyncio.wait([running])
        # Later callers need a query that begins after this one.
        self._running_position, self._next_position = self._next_position, None
        return await self._primary_position()

    async def _compare_cluster(self, replica: Database) -> None:
        text = self._sql["cluster"].text
        try:
            [ours], [theirs] = await self._primary.fetch(text), await replica.fetch(text)
            self._is_same_cluster = ours == theirs
        except NotMigrated:
            # The role may not read the identifier.
            self._is_same_cluster = True
        if not self._is_same_cluster:
            _logger.error(OTHER_CLUSTER)
            raise Unavailable(OTHER_CLUSTER)

    def _may_be_used(self) -> bool:
        if not self.is_unreachable:
            return True
        if self._is_same_cluster is False:
            return False
        # No request waits for a replica that may still be unreachable.
        is_due = time.monotonic() >= self._retry_at
        if is_due and (self._probe is None or self._probe.done()):
            self._probe = asyncio.create_task(self._try_again())
        return False

    async def _try_again(self) -> None:
        try:
            async with self._database.acquire() as connection:
                with translated(connection):
                    await connection.execute("SELECT 1")
        except RingError as exc:
            self._failed(exc)
        else:
            self._pause = 0.0
            _logger.warning("The read replica can be reached again.")

    def _note(self, exc: Exception) -> None:
        """Leave an unreachable replica alone for a while."""
        if isinstance(exc, Unavailable) and not isinstance(exc.__cause__, _CONFLICTS):
            self._failed(exc)

    def _failed(self, exc: Exception) -> None:
        if not self.is_unreachable:
            _logger.warning("The read replica cannot be reached; the primary is asked: %s", exc)
        self._pause = min(MAX_PAUSE_SECONDS, 2 * self._pause) or FIRST_PAUSE_SECONDS
        self._retry_at = time.monotonic() + self._pause
