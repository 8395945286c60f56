"""Whole databases of a server: make one, find ours, drop ours."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from llmring_server.database import reaching
from llmring_server.errors import Conflict
from llmring_server.leases import Connection

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


def named(url: str, name: str) -> str:
    """Return `url` with another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def throwaway_url(server: str) -> str:
    """Return the URL of a test database that is not there yet."""
    return named(server, f"test_{secrets.token_hex(4)}_llmring")


def name_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/") or "postgres"


def place_of(url: str) -> str:
    """Say where `url` leads, for people: without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'local socket'}/{name_of(url)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def create(url: str, *, throwaway: bool = False) -> bool:
    """Create the database that `url` names; return False if it was there."""
    name = _quoted(name_of(url))
    async with _server(url) as server:
        try:
            await server.execute(f"CREATE DATABASE {name}")
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            return False
        if throwaway:
            await server.execute(f"COMMENT ON DATABASE {name} IS '{THROWAWAY}'")
    return True


async def throwaways(url: str) -> list[str]:
    """Name the test databases of ours on this server."""
    query = "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database') = $1"
    async with _server(url) as server:
        return sorted(row["datname"] for row in await server.fetch(query, THROWAWAY))


async def drop(url: str) -> None:
    """Drop the throw-away database that `url` names, whoever is connected to it."""
    if name_of(url) not in await throwaways(url):
        raise Conflict(f"{name_of(url)} is not a throw-away database of ours; it stays.")
    async with _server(url) as server:
        await server.execute(f"DROP DATABASE IF EXISTS {_quoted(name_of(url))} WITH (FORCE)")
