"""Hand-written SQL, named in files, bound once to a schema, run on a pool or in a transaction."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import asyncpg
from asyncpg.cursor import Cursor

from llmring_server import errors
from llmring_server.core.retry import RETRY_SECONDS, Outcome, retry_while_disconnected
from llmring_server.db.connection_cache import Connection
from llmring_server.db.database import Database
from llmring_server.db.errors import translated

_PACKAGE = Path(__file__).parents[1]
# Beside the package in a checkout, inside it in a wheel.
SQL = next(path for path in (_PACKAGE / "sql", _PACKAGE.parent / "sql") if path.is_dir())

PREFETCH = 500
# A reader may take its time between two of our questions to the database.
PATIENT = "SET LOCAL idle_in_transaction_session_timeout = '60s'"

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_TABLE = re.compile(r"<<(tables|mcp)\.(\w+)>>")
_PARAM = re.compile(r"@([a-z_]+)")


class Statement(NamedTuple):
    """One statement as PostgreSQL takes it, and the names of its parameters in order."""

    text: str
    params: tuple[str, ...]

    def arguments(self, given: Mapping[str, Any]) -> tuple[Any, ...]:
        if given.keys() != set(self.params):
            msg = f"statement takes {sorted(self.params)}, got {sorted(given)}"
            raise TypeError(msg)
        return tuple(given[name] for name in self.params)


def template(sql: str, mcp_schema: str) -> str:
    """Spell our `<<tables.x>>` and `<<mcp.x>>` the way pgdbm expects."""
    places = {"tables": "tables", "mcp": f"tables.{mcp_schema}"}
    return _TABLE.sub(lambda match: f"{{{{{places[match[1]]}.{match[2]}}}}}", sql)


@cache
def load(file: str) -> Mapping[str, str]:
    """Read the named blocks of `sql/<file>.sql`."""
    _, *parts = _NAME.split((SQL / f"{file}.sql").read_text())
    return dict(zip(parts[::2], parts[1::2], strict=True))


def bind(block: str, database: Database) -> Statement:
    """Resolve tables and number the `@parameters` of one block, once."""
    text = re.sub(r"--.*", "", block).strip().removesuffix(";")
    params = tuple(dict.fromkeys(_PARAM.findall(text)))
    text = _PARAM.sub(lambda match: f"${params.index(match[1]) + 1}", text)
    return Statement(database.manager.prepare_query(template(text, database.mcp_schema)), params)


async def _fetched(connection: Connection, cursor: Cursor) -> list[asyncpg.Record]:
    with translated(connection):
        return await cursor.fetch(PREFETCH)


class Repository:
    """The statements of one file below `sql/`, or of several, ready to run."""

    sql: ClassVar[str | tuple[str, ...]]

    def __init__(self, database: Database) -> None:
        self._database = database
        files = (self.sql,) if isinstance(self.sql, str) else self.sql
        self._sql = {
            name: bind(block, database) for file in files for name, block in load(file).items()
        }

    def with_database(self, database: Database) -> Self:
        """Return this repository, and those that it uses, working on `database`."""
        other = copy(self)
        other._database = database
        for name, value in vars(self).items():
            if isinstance(value, Repository):
                setattr(other, name, value.with_database(database))
        return other

    async def _fetch_all(self, name: str, /, **params: Any) -> list[asyncpg.Record]:
        text, arguments = self._prepared(name, params)
        return await self._database.fetch(text, *arguments)

    async def _fetch_one(self, name: str, /, **params: Any) -> asyncpg.Record:
        rows = await self._fetch_all(name, **params)
        if not rows:
            raise errors.NotFound
        return rows[0]

    async def _retry(self, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Do `work` again while the connection is lost: twice must be harmless."""
        # A transaction is lost with its connection: who began it may begin again.
        return await retry_while_disconnected(work, 0 if self._database.held else RETRY_SECONDS)

    async def _stream(self, name: str, /, **params: Any) -> AsyncGenerator[asyncpg.Record]:
        """Yield rows through a cursor of the server's, so that no number of them fills memory."""
        text, arguments = self._prepared(name, params)
        async with self._database.transaction() as inside, inside.connection() as connection:
            with translated(connection):
                if not self._database.borrowed:
                    await connection.execute(PATIENT)
                cursor = await connection.cursor(text, *arguments)
            while rows := await _fetched(connection, cursor):
                for row in rows:
                    yield row

    def _prepared(self, name: str, params: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
        statement = self._sql[name]
        return statement.text, statement.arguments(params)
