"""Is it there, is it well, what is it: for people, load balancers and the client's `init`."""

import asyncio
from importlib.metadata import version
from typing import Any

from llmring_server.errors import Overloaded, Unavailable
from llmring_server.web.call import Call

VERSION = version("llmring-server")
HEALTH_TIMEOUT = 2.0


async def root(_: Call) -> dict[str, Any]:
    return {"name": "LLMRing Server", "version": VERSION}


async def health(call: Call) -> dict[str, Any]:
    """Always 200, as clients and containers expect it: the body tells."""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT):
            await call.ring.ping()
    except (Unavailable, Overloaded, TimeoutError):
        return {"status": "unhealthy", "database": "disconnected", "version": VERSION}
    return {"status": "healthy", "database": "connected", "version": VERSION}


async def live(_: Call) -> dict[str, Any]:
    return {"status": "alive"}


async def ready(call: Call) -> dict[str, Any]:
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT):
            await call.ring.ready()
    except TimeoutError as exc:
        raise Unavailable from exc
    return {"status": "ready"}
