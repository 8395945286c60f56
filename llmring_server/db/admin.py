"""Administration of databases: create one, and find and drop throw-away databases of tests."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from llmring_server.core.connection_string import parse
from llmring_server.db.connect import connect, connecting_to
from llmring_server.db.connection_cache import Connection
from llmring_server.db.errors import READ_ONLY
from llmring_server.errors import Conflict, Unavailable

# Every server has the second one, but administrators connect to the first one.
MAINTENANCE_DATABASES = ("postgres", "template1")

# Only a database with this comment is ever dropped.
THROWAWAY_COMMENT = "llmring-server: a throw-away database for tests"


def with_database_name(url: str, name: str) -> str:
    """Return the URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def throwaway_url(server: str) -> str:
    """Return the URL of a new test database, which does not exist yet."""
    return with_database_name(server, f"test_{secrets.token_hex(4)}_llmring_test")


def database_name(url: str) -> str:
    connection = parse(url)
    return connection.database or connection.user or "postgres"


def display_location(url: str) -> str:
    """Return the host and database of a URL, to be shown: without its password."""
    return f"{parse(url).host or 'local socket'}/{database_name(url)}"


def has_password(url: str) -> bool:
    """Tell whether a URL contains a password, before its host or in its query."""
    return parse(url).has_password


async def create_database(
    url: str, *, throwaway: bool = False, template: str | None = None
) -> bool:
    """Create the database that `url` names; return False if it existed.

    It is a copy of the database `template`, which must not have connections.
    """
    # Its owner need not be able to create databases, or to connect to any other one.
    if not throwaway and await _exists(url):
        return False
    name = _quote(database_name(url))
    try:
        async with _connect(url) as connection:
            options = f" TEMPLATE {_quote(template)}" if template else ""
            await connection.execute(f"CREATE DATABASE {name}{options}")
            if throwaway:
                comment = f"COMMENT ON DATABASE {name} IS '{THROWAWAY_COMMENT}'"
                await connection.execute(comment)
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        return False
    except (asyncpg.InsufficientPrivilegeError, Unavailable) as exc:
        # A role may also lack the privilege to connect to any other database.
        reason = exc.__cause__ if isinstance(exc, Unavailable) else exc
        if not isinstance(reason, asyncpg.InsufficientPrivilegeError):
            raise
        raise Conflict(
            f"The database {name} does not exist, and this role may not create it: let an"
            f" administrator run CREATE DATABASE {name} OWNER ..., with the name of the role."
        ) from exc
    except asyncpg.ReadOnlySQLTransactionError as exc:
        raise Unavailable(f"The database {name} does not exist. {READ_ONLY}") from exc
    return True


async def _exists(url: str) -> bool:
    """Connect to the database itself; return False if the server has none of this name."""
    with connecting_to("the database", url):
        try:
            connection = await connect(url)
        except asyncpg.InvalidCatalogNameError:
            return False
    await connection.close()
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
        try:
            await connection.execute(f"DROP DATABASE IF EXISTS {_quote(name)} WITH (FORCE)")
        except (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError) as exc:
            raise Conflict(f"{name} was not dropped: {exc.args[0]}.") from exc


@asynccontextmanager
async def _connect(url: str) -> AsyncIterator[Connection]:
    """Yield a connection to a maintenance database of the server."""
    with connecting_to("the server", url):
        try:
            connection = await connect(url, database=MAINTENANCE_DATABASES[0])
        except (asyncpg.InvalidCatalogNameError, asyncpg.InsufficientPrivilegeError):
            connection = await connect(url, database=MAINTENANCE_DATABASES[1])
    try:
        yield connection
    finally:
        await connection.close()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
