"""Repository: the hand-written SQL of a service, loaded from `sql/`, bound to a schema and run."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from copy import copy
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import asyncpg
import orjson
from asyncpg.cursor import Cursor

from llmring_server import errors
from llmring_server.core.identity import ProjectId
from llmring_server.core.retry import RETRY_SECONDS, Outcome, retry_while_disconnected
from llmring_server.core.strict_json import JsonReader, load_json
from llmring_server.db.connection_cache import Connection
from llmring_server.db.database import Database
from llmring_server.db.errors import translated
from llmring_server.db.tables import Retention, Table
from llmring_server.settings import Settings

_PACKAGE = Path(__file__).parents[1]
# Beside the package in a checkout, inside it in a wheel.
SQL = next(path for path in (_PACKAGE / "sql", _PACKAGE.parent / "sql") if path.is_dir())

# How many rows of a stream are fetched at once.
FETCH_ROWS = 500
# The reader of a stream may pause between two fetches.
STREAM_TIMEOUT = "SET LOCAL idle_in_transaction_session_timeout = '60s'"

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"--.*")
_TABLE = re.compile(r"<<(tables|mcp)\.(\w+)>>")
_PARAM = re.compile(r"@([a-z_]+)")


class Statement(NamedTuple):
    """A statement with numbered parameters, and the names of these in order."""

    text: str
    params: tuple[str, ...]

    def arguments(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values in the order of the parameters; TypeError unless they match."""
        if values.keys() != set(self.params):
            raise TypeError(f"statement takes {sorted(self.params)}, got {sorted(values)}")
        return tuple([values[name] for name in self.params])


@cache
def load(file: str) -> Mapping[str, str]:
    """Return the named blocks of `sql/<file>.sql`."""
    _, *parts = _NAME.split((SQL / f"{file}.sql").read_text())
    names, blocks = parts[::2], parts[1::2]
    return dict(zip(names, blocks, strict=True))


def bind(block: str, database: Database) -> Statement:
    """Resolve the tables of a block and number its @parameters."""
    text = _COMMENT.sub("", block).strip().removesuffix(";")
    params = tuple(dict.fromkeys(_PARAM.findall(text)))
    text = _PARAM.sub(lambda match: f"${params.index(match[1]) + 1}", text)
    # pgdbm knows the schema of {{tables.x}}, and takes another one in {{tables.schema.x}}.
    prefixes = {"tables": "tables", "mcp": f"tables.{database.mcp_schema}"}
    text = _TABLE.sub(lambda match: f"{{{{{prefixes[match[1]]}.{match[2]}}}}}", text)
    return Statement(database.manager.prepare_query(text), params)


async def _fetch_rows(connection: Connection, cursor: Cursor) -> list[asyncpg.Record]:
    with translated(connection):
        return await cursor.fetch(FETCH_ROWS)


async def _stream_on(
    database: Database, project_id: ProjectId, text: str, arguments: tuple[Any, ...]
) -> AsyncGenerator[asyncpg.Record]:
    async with (
        database.long_transaction(project_id),
        database.transaction() as inside,
        inside.acquire() as connection,
    ):
        with translated(connection):
            if not database.in_caller_transaction:
                await connection.execute(STREAM_TIMEOUT)
            cursor = await connection.cursor(text, *arguments)
        while rows := await _fetch_rows(connection, cursor):
            for row in rows:
                yield row


class Repository:
    """The statements of one service, ready to run, and what it declares about its tables."""

    # What a missing row is called: "Conversation not found".
    row_kind: ClassVar[str] = "Row"
    # The files with its statements, below sql/, without their ending.
    sql: ClassVar[str | tuple[str, ...]]
    # The tables that it owns, in the order in which a project is erased.
    tables: ClassVar[tuple[Table, ...]] = ()
    # What `db maintain` deletes of them, in this order.
    retention: ClassVar[tuple[Retention, ...]] = ()
    # The statements that delete rows about calls before @oldest, whose months were dropped.
    delete_with_calls: ClassVar[tuple[str, ...]] = ()
    # The statements that a read replica may run: nothing is decided by what they return.
    replica_reads: ClassVar[frozenset[str]] = frozenset()

    # How it reads columns of JSON, which its statements select as bytes.
    _read_json: JsonReader = staticmethod(load_json)

    def __init__(self, database: Database) -> None:
        self._database = database
        files = (self.sql,) if isinstance(self.sql, str) else self.sql
        self._sql = {
            name: bind(block, database) for file in files for name, block in load(file).items()
        }

    def with_database(self, database: Database) -> Self:
        """Return a copy of this repository, and of those that it uses, that runs on `database`."""
        other = copy(self)
        other._database = database
        for name, value in vars(self).items():
            if isinstance(value, Repository):
                setattr(other, name, value.with_database(database))
        return other

    def with_unparsed_json(self) -> Self:
        """Return a copy whose results contain stored JSON as it is: to be sent, and not parsed.

        Where a result has a value of JSON, it has an `orjson.Fragment` then.
        """
        other = copy(self)
        other._read_json = orjson.Fragment
        return other

    def _on_primary(self) -> Self:
        """Return a copy whose reads see everything that is committed."""
        if self._database.replica is None:
            return self
        return self.with_database(self._database.without_replica())

    def configure(self, settings: Settings) -> None:
        """Take over the settings that may change while the server runs. Most services have none."""

    async def delete_batch(self, statement: str, **params: Any) -> int:
        """Run a declared statement that deletes a batch of rows; return how many it deleted."""
        deleted: int = (await self._fetch_one(statement, **params))["deleted"]
        return deleted

    async def delete_stored_before(self, statement: str, oldest: datetime) -> None:
        """Run one of `delete_with_calls`."""
        await self._fetch_all(statement, oldest=oldest)

    async def _fetch_all(self, name: str, /, **params: Any) -> list[asyncpg.Record]:
        """Run a statement and return its rows."""
        text, arguments = self._prepare(name, params)
        replica = self._database.replica
        if replica is not None and name in self.replica_reads:
            return await replica.fetch(self._database, text, *arguments)
        return await self._database.fetch(text, *arguments)

    async def _fetch_one(
        self, name: str, row_kind: str | None = None, /, **params: Any
    ) -> asyncpg.Record:
        """Run a statement and return its first row; if it has none, NotFound names the kind."""
        rows = await self._fetch_all(name, **params)
        if not rows and self._database.replica is not None and name in self.replica_reads:
            # It may have been created a moment ago.
            rows = await self._on_primary()._fetch_all(name, **params)
        if not rows:
            raise errors.NotFound.of(row_kind or self.row_kind)
        return rows[0]

    async def _retry(self, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Do `work`, and again while the connection is lost. Doing it twice must be harmless."""
        # A transaction is lost with its connection: only whoever began it can begin it again.
        in_transaction = self._database.connection is not None
        return await retry_while_disconnected(work, 0 if in_transaction else RETRY_SECONDS)

    def _stream(
        self, name: str, /, *, project_id: ProjectId, **params: Any
    ) -> AsyncGenerator[asyncpg.Record]:
        """Yield rows through a cursor, so that their number does not matter to memory."""
        text, arguments = self._prepare(name, {"project_id": project_id, **params})

        def stream(database: Database) -> AsyncGenerator[asyncpg.Record]:
            return _stream_on(database, project_id, text, arguments)

        replica = self._database.replica
        if replica is not None and name in self.replica_reads:
            return replica.stream(self._database, project_id, stream)
        return stream(self._database)

    def _prepare(self, name: str, params: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
        statement = self._sql[name]
        return statement.text, statement.arguments(params)
