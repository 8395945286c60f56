"""Whole databases of a server: make one, find ours, drop ours."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from llmring_server.db.connection_cache import Connection
from llmring_server.db.database import reaching
from llmring_server.errors import Conflict

# Only a database with this comment is ever dropped.
THROWAWAY = "llmring-server: a throw-away database for tests"


@asynccontextmanager
async def _server(url: str) -> AsyncIterator[Connection]:
    with reaching("the server"):
        connection = await asyncpg.connect(url, database="postgres")
    try:
        yield connection
    finally:
        await connection.close()


def with_database_name(url: str, name: str) -> str:
    """Return `url` with another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def throwaway_url(server: str) -> str:
    """Return the URL of a test database that is not there yet."""
    return with_database_name(server, f"test_{secrets.token_hex(4)}_llmring")


def database_name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/") or "postgres"


def display_location(url: str) -> str:
    """Say where `url` leads, for people: without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'local socket'}/{database_name(url)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def create_database(url: str, *, throwaway: bool = False) -> bool:
    """Create the database that `url` names; return False if it was there."""
    name = _quoted(database_name(url))
    async with _server(url) as server:
        try:
            await server.execute(f"CREATE DATABASE {name}")
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            return False
        if throwaway:
            await server.execute(f"COMMENT ON DATABASE {name} IS '{THROWAWAY}'")
    return True


async def throwaway_databases(url: str) -> list[str]:
    """Name the test databases of ours on this server."""
    query = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') = $1"
    async with _server(url) as server:
        return sorted(row["datname"] for row in await server.fetch(query, THROWAWAY))


async def drop_database(url: str) -> None:
    """Drop the throw-away database that `url` names, whoever is connected to it."""
    if database_name(url) not in await throwaway_databases(url):
        raise Conflict(f"{database_name(url)} is not a throw-away database of ours; it stays.")
    async with _server(url) as server:
        await server.execute(f"DROP DATABASE IF EXISTS {_quoted(database_name(url))} WITH (FORCE)")
