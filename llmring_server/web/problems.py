"""Errors as problem documents (RFC 9457). `detail` is a member of the RFC and of the old API."""

from http import HTTPStatus
from typing import Any, NotRequired
from uuid import UUID

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope
from typing_extensions import TypedDict

from llmring_server.errors import InvalidRequest, RateLimited, RingError

# After these, what is still to come of the request is not read; HTTP/2 has its own way to say so.
CLOSE_CONNECTION_AFTER = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}

MEDIA_TYPE = "application/problem+json"


class Problem(TypedDict):
    """What went wrong: `detail` for people, `code` for programs; `errors` of each field."""

    type: str
    title: str
    status: int
    detail: str
    request_id: UUID
    code: NotRequired[str]
    errors: NotRequired[list[dict[str, Any]]]


def problem(scope: Scope, exc: RingError) -> Response:
    """Answer with `exc`: its class is the status, its text what to do about it."""
    headers = {"Retry-After": str(exc.retry_after)} if exc.retry_after else {}
    if exc.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(exc, RateLimited):
        # draft-ietf-httpapi-ratelimit-headers-07
        told = {"Limit": exc.limit, "Remaining": 0, "Reset": exc.retry_after}
        headers |= {f"RateLimit-{name}": str(value) for name, value in told.items()}
    if exc.status in CLOSE_CONNECTION_AFTER and scope["http_version"].startswith("1"):
        headers["Connection"] = "close"
    more = {"errors": exc.errors} if isinstance(exc, InvalidRequest) and exc.errors else {}
    return _document(scope, exc.status, str(exc), headers, code=exc.code, **more)


def refusal(request: Request[Any], exc: HTTPException) -> Response:
    """Answer what the router refuses: no such path, no such method."""
    known = exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    headers = {"Allow": ", ".join(_methods(request))} if known else {}
    return _document(request.scope, exc.status_code, exc.detail, headers)


def _methods(request: Request[Any]) -> list[str]:
    """Name the methods of a path: a route knows only its own."""
    routes: list[Route] = request.app.routes
    found = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    exact = [route for route in found if not route.param_convertors]
    return sorted({method for route in exact or found for method in route.methods or ()})


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
