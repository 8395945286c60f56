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
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, NamedTuple

import asyncpg
from pgdbm import AsyncDatabaseManager

from llmring_server.core.identity import ProjectId
from llmring_server.db.connection_cache import Connection, OwnedPool
from llmring_server.db.database import Database
from llmring_server.db.errors import translated
from llmring_server.db.repository import Repository
from llmring_server.errors import BadRequest, NotMigrated, Overloaded, RingError, Unavailable
from llmring_server.settings import Settings

_logger = logging.getLogger(__name__)

# How long a read waits for the position that it brings, before the primary is asked.
POSITION_TIMEOUT_SECONDS = 0.2
POSITION_POLL_SECONDS = 0.005
# How often the position of the primary is read, while there are reads: at least as often as this,
# and several times within the lag that is accepted.
SAMPLE_INTERVAL_SECONDS = 1.0
SAMPLES_PER_LAG = 4
# A replica that needs longer to say how far it has come is frozen, or its network is cut.
ANSWER_TIMEOUT_SECONDS = 1.0
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
    """The position of the primary, on its timeline, at a time of the monotonic clock."""

    at: float
    position: int
    timeline: int


class _TooFarBehind(Exception):
    """The replica has not yet replayed what a read must see, or its data is too old."""


# After these errors of the replica, the primary is asked.
_PRIMARY_ANSWERS = (_TooFarBehind, Unavailable, NotMigrated)


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
        self._interval = min(SAMPLE_INTERVAL_SECONDS, self._max_lag / SAMPLES_PER_LAG)
        # Oldest first; enough of them to tell any lag that is accepted.
        self._samples: deque[_Sample] = deque(maxlen=int(self._max_lag / self._interval) + 2)
        self._sampling: asyncio.Task[None] | None = None
        self._next_sample_at = 0.0
        self._primary_answers = True
        # Queries for a position are numbered, so that a caller knows whether one began after it
        # asked.
        self._position_queries = 0
        self._last_position = (0, 0)
        self._position_lock = asyncio.Lock()
        # Through a pooler, two transactions may run on two hosts. A parent's pool may lead to one.
        read_settings = settings.model_copy(update={"database_url": settings.database_read_url})
        self._may_change_hosts = read_settings.has_pooler or not isinstance(manager, OwnedPool)
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
                await self._compare_cluster(connection)
        except RingError as exc:
            if self._is_same_cluster is False:
                raise
            self._pause_after(exc)

    async def position(self) -> str:
        """Return a position that includes all commits of the primary until now."""
        # Callers share a query, but not one that began before they asked.
        begun = self._position_queries
        async with self._position_lock:
            number, position = self._last_position
            if number <= begun:
                self._position_queries = number = begun = self._position_queries + 1
                position = (await self._primary_state())["position"]
                self._last_position = number, position
        return encode_position(position)

    async def fetch(self, reader: Database, text: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a read on the replica, or on the primary if the replica cannot answer it."""
        try:
            async with self.connect(reader) as replica:
                return await replica.fetch(text, *arguments)
        except _PRIMARY_ANSWERS as exc:
            self._pause_if_unreachable(exc)
        reader.note_primary()
        return await reader.fetch(text, *arguments)

    async def stream(
        self,
        reader: Database,
        project_id: ProjectId,
        stream: Callable[[Database], AsyncGenerator[asyncpg.Record]],
    ) -> AsyncGenerator[asyncpg.Record]:
        """Yield rows from the replica, or from the primary if the replica has not yielded any."""
        has_begun = False
        try:
            async with (
                reader.long_transaction(project_id),
                self.connect(reader) as replica,
                aclosing(stream(replica)) as rows,
            ):
                async for row in rows:
                    has_begun = True
                    yield row
                return
        except _PRIMARY_ANSWERS as exc:
            self._pause_if_unreachable(exc)
            if has_begun:
                raise
        reader.note_primary()
        async with aclosing(stream(reader)) as rows:
            async for row in rows:
                yield row

    @asynccontextmanager
    async def connect(self, reader: Database) -> AsyncIterator[Database]:
        """Yield the replica on one connection, which has replayed what `reader` must see."""
        if not self._may_ask_replica():
            raise _TooFarBehind
        primary_answers = await self._sample()
        await self._require_written(reader.position)
        deadline = time.monotonic() + POSITION_TIMEOUT_SECONDS
        while True:
            async with self._acquire() as connection:
                if self._is_same_cluster is None:
                    await self._compare_cluster(connection)
                state = await self._query_replica(connection, "position")
                lag = self._data_age(state)
                # While the primary does not answer, old data is better than none.
                is_recent = not primary_answers or (lag is not None and lag <= self._max_lag)
                has_position = reader.position is None or state["position"] >= reader.position
                if is_recent and has_position:
                    if reader.read_report:
                        reader.read_report.lag = lag
                    yield self._database._on(connection)
                    return
            if has_position:
                # The lag can shrink at once only if a new sample has just been read: after a
                # pause without reads, the replica has that position a moment later.
                deadline = self._samples[-1].at + POSITION_TIMEOUT_SECONDS if self._samples else 0
            if time.monotonic() > deadline:
                raise _TooFarBehind
            # Without a connection, so that reads that wait do not delay others.
            await asyncio.sleep(POSITION_POLL_SECONDS)

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[Connection]:
        """Yield a connection of the replica, which stays on one host.

        Raise Unavailable if there is none in time.
        """
        acquired = False
        try:
            if self._may_change_hosts:
                async with self._database.transaction() as inside, inside.acquire() as connection:
                    acquired = True
                    yield connection
                return
            async with self._database.acquire() as connection:
                acquired = True
                yield connection
        except Overloaded as exc:
            if acquired:
                raise
            if self._has_no_free_connection():
                raise _TooFarBehind from exc
            # It is unreachable in a network without an answer.
            raise Unavailable from exc

    def _has_no_free_connection(self) -> bool:
        pool = self._database.manager._pool
        if pool is None:
            return False
        return pool.get_size() == pool.get_max_size() and not pool.get_idle_size()

    async def aclose(self) -> None:
        """End background work and return all connections to the pool."""
        tasks = [self._sampling, self._probe]
        for task in filter(None, tasks):
            task.cancel()
            await asyncio.wait([task])
        await self._database.aclose()

    async def _require_written(self, position: int | None) -> None:
        """Raise _TooFarBehind if not even the primary has come as far as a position.

        Nobody need wait for it: a failover has lost it, or the client has made it up.
        """
        known = max(self._last_position[1], self._samples[-1].position if self._samples else 0)
        if position is None or position <= known:
            return
        try:
            written = decode_position(await self.position())
        except RingError as exc:
            raise _TooFarBehind from exc
        if position > written:
            raise _TooFarBehind

    def _data_age(self, state: asyncpg.Record) -> float | None:
        """Return how old the data is at most, in seconds; None if it is older than all samples.

        Raise _TooFarBehind if it is data of another primary, which once was a replica of ours.
        """
        self.is_primary = not state["is_standby"]
        # It is another primary, or follows one: both have written since then, so their positions
        # cannot be compared.
        if not self._samples or state["timeline"] != self._samples[-1].timeline:
            raise _TooFarBehind
        if self.is_primary:
            return 0.0
        for sample in reversed(self._samples):
            if sample.position <= state["position"]:
                return time.monotonic() - sample.at
        return None

    async def _sample(self) -> bool:
        """Read the position of the primary, unless it was read a moment ago; tell if it answers."""
        now = time.monotonic()
        if now >= self._next_sample_at and (self._sampling is None or self._sampling.done()):
            self._next_sample_at = now + self._interval
            self._sampling = asyncio.create_task(self._read_sample())
        # Once the primary has not answered, no read waits until it does.
        if self._sampling and self._primary_answers:
            timeout = self._primary.acquire_timeout
            done, _ = await asyncio.wait([self._sampling], timeout=timeout)
            if not done:
                self._primary_answers = False
        return self._primary_answers

    async def _read_sample(self) -> None:
        # As of before the query: what is committed meanwhile may be missing.
        now = time.monotonic()
        try:
            state = await self._primary_state()
        except RingError:
            self._primary_answers = False
            return
        self._samples.append(_Sample(now, state["position"], state["timeline"]))
        self._primary_answers = True

    async def _primary_state(self) -> asyncpg.Record:
        [state] = await self._primary.fetch(self._sql["position"].text)
        return state

    async def _query_replica(self, connection: Connection, name: str) -> asyncpg.Record:
        """Run a statement of this class on the replica, which answers at once or not at all."""
        text = self._sql[name].text
        try:
            with translated(connection):
                [row] = await connection.fetch(text, timeout=ANSWER_TIMEOUT_SECONDS)
        except Overloaded as exc:
            # To return it to the pool would wait for the answer.
            connection.terminate()
            raise Unavailable from exc
        return row

    async def _compare_cluster(self, connection: Connection) -> None:
        try:
            [ours] = await self._primary.fetch(self._sql["cluster"].text)
            self._is_same_cluster = ours == await self._query_replica(connection, "cluster")
        except NotMigrated:
            # The role may not read the identifier.
            self._is_same_cluster = True
        if not self._is_same_cluster:
            _logger.error(OTHER_CLUSTER)
            raise Unavailable(OTHER_CLUSTER)

    def _may_ask_replica(self) -> bool:
        if not self.is_unreachable:
            return True
        if self._is_same_cluster is False:
            return False
        # No request waits for a replica that may still be unreachable.
        is_due = time.monotonic() >= self._retry_at
        if is_due and (self._probe is None or self._probe.done()):
            self._probe = asyncio.create_task(self._probe_replica())
        return False

    async def _probe_replica(self) -> None:
        try:
            async with self._database.acquire() as connection:
                await self._query_replica(connection, "position")
        except RingError as exc:
            self._pause_after(exc)
        else:
            self._pause = 0.0
            _logger.warning("The read replica can be reached again.")

    def _pause_if_unreachable(self, exc: Exception) -> None:
        """Leave the replica alone for a while if `exc` says that it cannot be reached."""
        if isinstance(exc, Unavailable) and not isinstance(exc.__cause__, _CONFLICTS):
            self._pause_after(exc)

    def _pause_after(self, exc: Exception) -> None:
        """Leave the replica alone, each time twice as long as after the failure before."""
        if time.monotonic() < self._retry_at:
            # Another read has failed at the same time.
            return
        if not self.is_unreachable:
            _logger.warning("The read replica cannot be reached; the primary is asked: %s", exc)
        self._pause = min(MAX_PAUSE_SECONDS, 2 * self._pause) or FIRST_PAUSE_SECONDS
        self._retry_at = time.monotonic() + self._pause
