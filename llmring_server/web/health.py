"""Is it there, is it well, what is it: for people, load balancers and the client's `init`."""

import asyncio
from importlib.metadata import version
from typing import Literal

from typing_extensions import TypedDict

from llmring_server.errors import NotMigrated, Overloaded, Unavailable
from llmring_server.web.request import Request

VERSION = version("llmring-server")
HEALTH_TIMEOUT = 2.0


class About(TypedDict):
    """Which server this is."""

    name: str
    version: str


class Health(TypedDict):
    """How it is."""

    status: Literal["healthy", "unhealthy"]
    database: Literal["connected", "disconnected"]
    version: str


class Liveness(TypedDict):
    """It is there."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """It can serve."""

    status: Literal["ready"]


async def get_root(_: Request) -> About:
    """Tell what this is."""
    return {"name": "LLMRing Server", "version": VERSION}


async def get_health(request: Request) -> Health:
    """Is it well? Always 200, as clients and containers expect it: the body tells."""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT):
            await request.ring.ping()
    except (Unavailable, Overloaded, TimeoutError):
        return {"status": "unhealthy", "database": "disconnected", "version": VERSION}
    return {"status": "healthy", "database": "connected", "version": VERSION}


async def get_liveness(_: Request) -> Liveness:
    """Does it run?"""
    return {"status": "alive"}


async def get_readiness(request: Request) -> Readiness:
    """Can it serve? 503 until it can."""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT):
            await request.ring.ready()
    except TimeoutError as exc:
        raise Unavailable from exc
    except NotMigrated as exc:
        # Anyone may ask: which migrations are missing is for operators (`db status`).
        raise NotMigrated from exc
    return {"status": "ready"}
