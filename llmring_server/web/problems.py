"""Errors as problem documents (RFC 9457). `detail` is a member of the RFC and of the old API."""

from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from llmring_server.errors import Invalid, RingError, TooMany

MEDIA_TYPE = "application/problem+json"


def problem(scope: Scope, exc: RingError) -> Response:
    """Answer with `exc`: its class is the status, its text what to do about it."""
    headers = {"Retry-After": str(exc.retry_after)} if exc.retry_after else {}
    if exc.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(exc, TooMany):
        # draft-ietf-httpapi-ratelimit-headers-07
        told = {"Limit": exc.limit, "Remaining": 0, "Reset": exc.retry_after}
        headers |= {f"RateLimit-{name}": str(value) for name, value in told.items()}
    more = {"errors": exc.errors} if isinstance(exc, Invalid) and exc.errors else {}
    return _document(scope, exc.status, str(exc), headers, code=exc.code, **more)


def refusal(request: Request[Any], exc: HTTPException) -> Response:
    """Answer what the router refuses: no such path, no such method."""
    return _document(request.scope, exc.status_code, exc.detail, dict(exc.headers or {}))


def _document(
    scope: Scope, status: int, detail: str, headers: dict[str, str], **more: Any
) -> Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": scope["llmring.request_id"],
        **more,
    }
    return Response(orjson.dumps(body, str), status, headers, MEDIA_TYPE)


HANDLERS: dict[Any, Any] = {HTTPException: refusal}
