"""Health checks: a summary for people and clients, liveness and readiness for load balancers."""

import asyncio
from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.core.database_warnings import DatabaseWarning
from llmring_server.core.server_stats import ServerStats
from llmring_server.errors import (
    Forbidden,
    NotMigrated,
    Overloaded,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from llmring_server.web.about import VERSION
from llmring_server.web.request import Request

TIMEOUT_SECONDS = 2.0


class HealthQuery(BaseModel):
    """What the summary contains."""

    verbose: bool = Field(
        default=False,
        description="Add `stats`: connections, queues and migrations. Requires the scope"
        " `operator`.",
    )


class Health(TypedDict):
    """Whether the server is healthy; `stats` only if it was asked for."""

    status: Literal["healthy", "unhealthy"]
    database: Literal["connected", "disconnected"]
    version: str
    stats: NotRequired[ServerStats]


class Liveness(TypedDict):
    """The server runs."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """The server can serve requests. `warnings` lists what makes its database unsafe."""

    status: Literal["ready"]
    warnings: list[DatabaseWarning]


async def get_health(
    request: Request, query: HealthQuery
) -> Annotated[Health, Unauthenticated, Forbidden, RateLimited]:
    """Summarize the health of the server; always 200, unless `verbose` is not allowed."""
    if not query.verbose:
        return await _health(request)
    await request.app.authenticator.authenticate(request, ("operator",))
    health = await _health(request)
    body_memory = request.app.body_memory.stats()
    health["stats"] = {**await request.ring.stats(), "body_memory": body_memory}
    return health


async def _health(request: Request) -> Health:
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
