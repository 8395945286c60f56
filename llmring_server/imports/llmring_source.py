"""The database of an llmring-server 0.1: read in one snapshot, which changes nothing there."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
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

# Tables of some releases that are not imported, and why.
LEFT_OUT: Mapping[str, str] = {
    "receipts": "their signatures do not cover the calls as they are stored here; keep the old"
    " database, or an export of it, to verify them",
    "aliases": "they are of releases before 0.1, which kept them on the server; bind them again"
    " with `llmring-server aliases`",
}

# Reading may take hours, and waits while what was read is stored.
_SESSION = (
    "SET LOCAL search_path = pg_catalog; SET LOCAL jit = off;"
    " SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
)
CLOSE_SECONDS = 5.0

_TABLE = re.compile(r"<<(mcp_source|source)\.(\w+)>>")
_NOT_THAT_SERVER = (
    "The database has no tables of llmring-server 0.1 in the schema {schema}. If they are in"
    " another schema, name it with --schema."
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

    def add(self, tokens: int | None, cost: Decimal | None) -> None:
        """Add a row."""
        self.rows += 1
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
        self.has_credentials = False

    async def _read_totals(self) -> None:
        rows = await self._fetch("tables", [self._schema, MCP_SCHEMA])
        columns = {(row["table_schema"], row["table_name"], row["column_name"]) for row in rows}
        if (self._schema, "usage_logs", "logged_at") in columns:
            raise InvalidRequest(_THIS_SERVER.format(schema=self._schema))
        if (self._schema, "usage_logs", "api_key_id") not in columns:
            raise InvalidRequest(_NOT_THAT_SERVER.format(schema=self._schema))
        tables = {
            table if schema == self._schema else f"{schema}.{table}" for schema, table, _ in columns
        }
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

    async def batches(self, kind: str, size: int) -> AsyncIterator[list[asyncpg.Record]]:
        """Yield all rows of a kind through a cursor, so that their number does not matter."""
        with _reading():
            cursor = await self._connection.cursor(self._text(kind), *self._arguments(kind))
        while True:
            with _reading():
                rows = await cursor.fetch(size)
            if not rows:
                return
            yield rows

    def _arguments(self, name: str) -> tuple[Any, ...]:
        return (self._since,) if "@since" in load("imports/llmring_source")[name] else ()

    async def _fetch(self, name: str, *arguments: Any, table: str = "") -> list[asyncpg.Record]:
        with _reading():
            return await self._connection.fetch(self._text(name, table), *arguments)

    def _text(self, name: str, table: str = "") -> str:
        """Return a statement for the tables of this database. Each takes one parameter at most."""
        schemas = {"source": self._schema, "mcp_source": MCP_SCHEMA}
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
        connection = await connect(url)
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
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        raise Unavailable(
            f"The database to import cannot be read: {exc or type(exc).__name__}. What was stored"
            " stays; run the command again to continue."
        ) from exc


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
