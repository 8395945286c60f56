"""CORS: which responses a browser lets scripts of other origins read."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from llmring_server.web.request_limits import may_lose_framing

REQUEST_HEADERS = (
    "Authorization",
    "X-API-Key",
    "X-Project-Key",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "X-LLMRing-Position",
)
RESPONSE_HEADERS = (
    "Link",
    "X-Request-ID",
    "Retry-After",
    "Idempotent-Replayed",
    "ETag",
    "X-Registry-Stale",
    "X-Warnings",
    "X-LLMRing-Position",
    "X-LLMRing-Replica-Lag",
)


class _Cors(CORSMiddleware):
    """Cross-origin resource sharing, except for responses that must close their connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and may_lose_framing(scope):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return the app with CORS outside, so that browsers may read error responses, too."""
    # Mounted apps have none by default: CORS is up to the parent.
    if not origins:
        return app
    return _Cors(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=REQUEST_HEADERS,
        expose_headers=RESPONSE_HEADERS,
    )
