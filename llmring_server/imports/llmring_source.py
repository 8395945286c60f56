"""The database of an llmring-server 0.1: read in one snapshot, which changes nothing there."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import asyncpg

from llmring_server.db.connect import connect, connecting_to
from llmring_server.db.connection_cache import Connection
from llmring_server.db.repository import load
from llmring_server.errors import InvalidRequest, Unavailable

# That server had one schema for MCP, whatever its own was called.
MCP_SCHEMA = "mcp_client"


class _Kind(NamedTuple):
    """The statement that counts rows of a kind, and the tables that its statements read."""

    counts: str
    tables: Sequence[str]


_SERVERS, _TOOLS = "mcp_client.servers", "mcp_client.tools"
# In the order in which they are stored. The rows are those of a statement of this name.
KINDS: Mapping[str, _Kind] = {
    "calls": _Kind("count_calls", ["usage_logs"]),
    "conversations": _Kind("count_conversations", ["conversations", "messages"]),
    "messages": _Kind("count_messages", ["conversations", "messages"]),
    "templates": _Kind("count_templates", ["conversation_templates"]),
    "servers": _Kind("count_servers", [_SERVERS]),
    "tools": _Kind("count_tools", [_SERVERS, _TOOLS]),
    "resources": _Kind("count_resources", [_SERVERS, "mcp_client.resources"]),
    "prompts": _Kind("count_prompts", [_SERVERS, "mcp_client.prompts"]),
    "executions": _Kind("count_executions", [_SERVERS, _TOOLS, "mcp_client.tool_executions"]),
}

# Tables whose rows have owners of their own.
_OWNED = {"usage_logs", "conversations", "conversation_templates", _SERVERS}
# Tables of some releases that are not imported, and why.
LEFT_OUT: Mapping[str, str] = {
    "receipts": "their signatures do not cover the calls as they are stored here; keep the old"
    " database, or an export of it, to verify them",
    "aliases": "they are of releases before 0.1, which kept them on the server; bind them again"
    " with `llmring-server aliases`",
}

# Reading may take hours, and waits while what was read is stored. A policy that would hide rows is
# an error.
_SESSION = (
    "SET LOCAL row_security = off;"
    "SET LOCAL search_path = pg_catalog; SET LOCAL jit = off;"
    " SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
)
CLOSE_SECONDS = 5.0

# A batch ends once it exceeds this, and is read in parts of so many rows: memory does not grow with
# the size of rows.
BATCH_BYTES = 4 * 1024 * 1024
ROWS_PER_FETCH = 20
SMALL_ROWS_PER_FETCH = 250
_SMALL = ("calls", "conversation_totals")
# Columns may contain keys, and PostgreSQL's texts of other errors values.
_WITHOUT_VALUES = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedTableError,
)

_TABLE = re.compile(r"<<(mcp_source|source)\.(\w+)>>")
_NOT_THAT_SERVER = (
    "The database has no tables of llmring-server 0.1 in the schema {schema}. If they are in"
    " another schema, name it with --schema."
)
_NOT_READABLE = (
    "The role of the database to import may not read {tables}. Their owner can grant that: GRANT"
    " USAGE ON SCHEMA {schemas} TO ...; GRANT SELECT ON ALL TABLES IN SCHEMA {schemas} TO ...;"
)
_HIDDEN_ROWS = (
    "The role of the database to import may not read all rows: {error}. Use a role that may,"
    " such as the owner of the tables, or with a row-level security policy one with BYPASSRLS."
)
_THIS_SERVER = (
    "The schema {schema} has the tables of a newer llmring-server. To move its data, use `export`"
    " and `import`, or a backup."
)


@dataclass
class Totals:
    """Rows, and what they say about tokens and costs in USD."""

    rows: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)

    def add(self, tokens: int | None, cost: Decimal | None, rows: int = 1) -> None:
        """Add a row, or only amounts of one."""
        self.rows += rows
        self.tokens += tokens or 0
        self.cost += cost or 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(self.rows + other.rows, self.tokens + other.tokens, self.cost + other.cost)

    def __sub__(self, other: "Totals") -> "Totals":
        return Totals(self.rows - other.rows, self.tokens - other.tokens, self.cost - other.cost)


class LlmringSource:
    """An open snapshot of such a database. `since` leaves out what was not changed since then."""

    def __init__(self, connection: Connection, schema: str, since: datetime | None) -> None:
        self._connection = connection
        self._schema = schema
        self._since = since
        self.totals: dict[str, Totals] = {}
        # Rows of no API key and no project.
        self.without_owner = 0
        # Rows of tables that are not imported, by table.
        self.left_out: dict[str, int] = {}
        # Tables of kinds that it does not have.
        self.absent: list[str] = []
        self.has_credentials = False
        self._tables_with_keys: list[str] = []

    async def _read_totals(self) -> None:
        rows = await self._fetch("tables", [self._schema, MCP_SCHEMA])
        columns = {(row["table_schema"], row["table_name"], row["column_name"]) for row in rows}
        if (self._schema, "usage_logs", "logged_at") in columns:
            raise InvalidRequest(_THIS_SERVER.format(schema=self._schema))
        if (self._schema, "usage_logs", "api_key_id") not in columns:
            raise InvalidRequest(_NOT_THAT_SERVER.format(schema=self._schema))
        tables = {_table(self._schema, schema, table) for schema, table, _ in columns}
        hidden = {
            (row["table_schema"], row["table_name"]) for row in rows if not row["is_readable"]
        }
        self._require_readable(hidden)
        owned = {
            _table(self._schema, schema, table)
            for schema, table, column in columns
            if column == "api_key_id"
        }
        self._tables_with_keys = sorted(owned & _OWNED)
        needed_by_kinds = {table for kind in KINDS.values() for table in kind.tables}
        self.absent = sorted(needed_by_kinds - tables)
        for kind, (count, needed) in KINDS.items():
            if tables.issuperset(needed):
                [row] = await self._fetch(count, *self._arguments(count))
                cost = row["cost"] or Decimal(0)
                self.totals[kind] = Totals(row["rows"], int(row["tokens"] or 0), cost)
                self.without_owner += row["without_owner"]
        for table in tables & LEFT_OUT.keys():
            [row] = await self._fetch("count_rows", table=table)
            if row["rows"]:
                self.left_out[table] = row["rows"]
        if "servers" in self.totals:
            [row] = await self._fetch("count_credentials")
            self.has_credentials = row["rows"] > 0

    def _require_readable(self, hidden: set[tuple[str, str]]) -> None:
        needed = {table for kind in KINDS.values() for table in kind.tables} | LEFT_OUT.keys()
        tables = {each for each in hidden if _table(self._schema, *each) in needed}
        if tables:
            raise InvalidRequest(
                _NOT_READABLE.format(
                    tables=", ".join(sorted(".".join(each) for each in tables)),
                    schemas=", ".join(sorted({schema for schema, _ in tables})),
                )
            )

    async def has_key(self, key: str) -> bool:
        """Tell whether rows belong to this API key."""
        for table in self._tables_with_keys:
            [row] = await self._fetch("has_key", key, table=table)
            if row["found"]:
                return True
        return False

    async def batches(self, kind: str, size: int) -> AsyncGenerator[list[asyncpg.Record]]:
        """Yield all rows of a kind through a cursor, so that their number does not matter.

        A batch has `size` rows, or about `BATCH_BYTES`.
        """
        with _reading():
            cursor = await self._connection.cursor(self._text(kind), *self._arguments(kind))
        batch: list[asyncpg.Record] = []
        batch_bytes = 0
        row_bytes = 0
        most = SMALL_ROWS_PER_FETCH if kind in _SMALL else ROWS_PER_FETCH
        while True:
            with _reading():
                # Large rows are often neighbours.
                fitting = max(1, (BATCH_BYTES - batch_bytes) // (row_bytes or 1))
                rows = await cursor.fetch(min(fitting, most, size - len(batch)))
            if not rows:
                break
            fetched_bytes = sum(map(_bytes_of, rows))
            row_bytes = fetched_bytes // len(rows)
            batch += rows
            batch_bytes += fetched_bytes
            if len(batch) >= size or batch_bytes >= BATCH_BYTES:
                yield batch
                batch, batch_bytes = [], 0
        if batch:
            yield batch

    def _arguments(self, name: str) -> tuple[Any, ...]:
        return (self._since,) if "@since" in load("imports/llmring_source")[name] else ()

    async def _fetch(self, name: str, *arguments: Any, table: str = "") -> list[asyncpg.Record]:
        with _reading():
            return await self._connection.fetch(self._text(name, table), *arguments)

    def _text(self, name: str, table: str = "") -> str:
        """Return a statement for the tables of this database. Each takes one parameter at most."""
        schemas = {"source": self._schema, "mcp_source": MCP_SCHEMA}
        if table.startswith(f"{MCP_SCHEMA}."):
            schemas["source"], table = table.split(".")
        text = _TABLE.sub(
            lambda match: f"{_quoted(schemas[match[1]])}.{_quoted(table or match[2])}",
            load("imports/llmring_source")[name],
        )
        return re.sub(r"@\w+", "$1", text)


@asynccontextmanager
async def open_llmring(
    url: str, schema: str = "llmring", since: datetime | None = None
) -> AsyncIterator[LlmringSource]:
    """Open a snapshot of the database of an llmring-server 0.1; close it at the end.

    InvalidRequest if the schema has no tables of such a server; Unavailable without a connection.
    """
    with connecting_to("the database to import", url):
        try:
            connection = await connect(url)
        except asyncpg.InvalidCatalogNameError as exc:
            raise Unavailable(
                f"Cannot connect to the database to import: {exc}. Check its name in the URL."
            ) from exc
    try:
        with _reading():
            transaction = connection.transaction(isolation="repeatable_read", readonly=True)
            await transaction.start()
            await connection.execute(_SESSION)
        source = LlmringSource(connection, schema, since)
        await source._read_totals()
        yield source
    finally:
        # Nothing was changed: the end of the session is that of the transaction.
        with suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close(timeout=CLOSE_SECONDS)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as exc:
        raise InvalidRequest(_HIDDEN_ROWS.format(error=exc.args[0])) from exc
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        reason = str(exc) or type(exc).__name__
        if isinstance(exc, asyncpg.PostgresError) and not isinstance(exc, _WITHOUT_VALUES):
            reason = f"{type(exc).__name__}, SQLSTATE {exc.sqlstate}"
        raise Unavailable(
            f"The database to import cannot be read: {reason}. What was stored stays; run the"
            " command again to continue."
        ) from None


def _table(own_schema: str, schema: str, table: str) -> str:
    """Return how `KINDS` names a table."""
    return table if schema == own_schema else f"{schema}.{table}"


def _bytes_of(row: asyncpg.Record) -> int:
    """Return the size of a row's texts."""
    return sum(len(value) for value in row if isinstance(value, str))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
