"""Administration of databases: create one, and find and drop throw-away databases of tests."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg

from llmring_server.db.connection_cache import Connection
from llmring_server.db.database import connecting_to
from llmring_server.errors import Conflict

# Only a database with this comment is ever dropped.
THROWAWAY_COMMENT = "llmring-server: a throw-away database for tests"


def with_database_name(url: str, name: str) -> str:
    """Return the URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def throwaway_url(server: str) -> str:
    """Return the URL of a new test database, which does not exist yet."""
    return with_database_name(server, f"test_{secrets.token_hex(4)}_llmring")


def database_name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/") or "postgres"


def display_location(url: str) -> str:
    """Return the host and database of a URL, to be shown: without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'local socket'}/{database_name(url)}"


def has_password(url: str) -> bool:
    """Tell whether a URL contains a password, before its host or in its query."""
    parts = urlsplit(url)
    return bool(parts.password or parse_qs(parts.query).get("password"))


async def create_database(url: str, *, throwaway: bool = False) -> bool:
    """Create the database that `url` names; return False if it existed."""
    name = _quote(database_name(url))
    async with _connect(url) as connection:
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            return False
        if throwaway:
            await connection.execute(f"COMMENT ON DATABASE {name} IS '{THROWAWAY_COMMENT}'")
    return True


async def throwaway_databases(url: str) -> list[str]:
    """List the throw-away databases on this server."""
    query = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') = $1"
    async with _connect(url) as connection:
        return sorted(row["datname"] for row in await connection.fetch(query, THROWAWAY_COMMENT))


async def drop_database(url: str) -> None:
    """Drop the throw-away database that `url` names, even if clients are connected to it."""
    name = database_name(url)
    if name not in await throwaway_databases(url):
        raise Conflict(f"{name} is not a throw-away database of llmring-server and is not dropped.")
    async with _connect(url) as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {_quote(name)} WITH (FORCE)")


@asynccontextmanager
async def _connect(url: str) -> AsyncIterator[Connection]:
    """Yield a connection to the server's maintenance database."""
    with connecting_to("the server"):
        connection = await asyncpg.connect(url, database="postgres")
    try:
        yield connection
    finally:
        await connection.close()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
