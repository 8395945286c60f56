"""Health checks: a summary for people and clients, liveness and readiness for load balancers."""

import asyncio
from typing import Literal

from typing_extensions import TypedDict

from llmring_server.core.database_warnings import DatabaseWarning
from llmring_server.errors import NotMigrated, Overloaded, Unavailable
from llmring_server.web.about import VERSION
from llmring_server.web.request import Request

TIMEOUT_SECONDS = 2.0


class Health(TypedDict):
    """Whether the server is healthy."""

    status: Literal["healthy", "unhealthy"]
    database: Literal["connected", "disconnected"]
    version: str


class Liveness(TypedDict):
    """The server runs."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """The server can serve requests. `warnings` lists what makes its database unsafe."""

    status: Literal["ready"]
    warnings: list[DatabaseWarning]


async def get_health(request: Request) -> Health:
    """Summarize the health of the server; always 200."""
    # Clients and containers expect 200 and read the body.
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await request.ring.ping()
    except (Unavailable, Overloaded, TimeoutError):
        return {"status": "unhealthy", "database": "disconnected", "version": VERSION}
    return {"status": "healthy", "database": "connected", "version": VERSION}


async def get_liveness(_: Request) -> Liveness:
    """Probe liveness."""
    return {"status": "alive"}


async def get_readiness(request: Request) -> Readiness:
    """Probe readiness.

    503 unless the database is reachable, migrated and, with `LLMRING_UNSAFE_DATABASE=refuse`, safe.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            warnings = await request.ring.database_warnings()
            await request.ring.ready()
    except TimeoutError as exc:
        raise Unavailable from exc
    except NotMigrated as exc:
        # The names of the missing migrations are for operators (`db status`); this is public.
        raise NotMigrated from exc
    return {"status": "ready", "warnings": warnings}
