"""Problem documents: errors as RFC 9457 has them. `detail` is also the field of the old API."""

from http import HTTPStatus
from typing import Annotated, Any, NotRequired, get_args
from uuid import UUID

import orjson
from pydantic import Field
from starlette.responses import Response
from starlette.types import Scope
from typing_extensions import TypedDict

from llmring_server.errors import (
    Code,
    InvalidRequest,
    MethodNotAllowed,
    RateLimited,
    RingError,
)

MEDIA_TYPE = "application/problem+json"

# After these responses the rest of the request is not read, so an HTTP/1 connection cannot be
# used again. HTTP/2 cancels the stream instead.
CLOSE_CONNECTION_AFTER = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}


# Listed as examples and not as an enumeration: a new code must not break a generated client.
_Code = Annotated[str, Field(examples=[*get_args(Code)])]


class Problem(TypedDict):
    """An error: `code` for programs, `detail` for people, `errors` for each invalid field."""

    type: str
    title: str
    status: int
    detail: str
    request_id: UUID
    code: _Code
    errors: NotRequired[list[dict[str, Any]]]


def problem(scope: Scope, exc: RingError) -> Response:
    """Return the response for an error."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(exc.status).phrase,
        "status": exc.status,
        "detail": str(exc),
        "request_id": scope["llmring.request_id"],
        "code": exc.code,
    }
    if isinstance(exc, InvalidRequest) and exc.errors:
        body["errors"] = exc.errors
    return Response(orjson.dumps(body, str), exc.status, _headers(scope, exc), MEDIA_TYPE)


def _headers(scope: Scope, exc: RingError) -> dict[str, str]:
    headers = {}
    if exc.retry_after:
        headers["Retry-After"] = str(exc.retry_after)
    if exc.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(exc, MethodNotAllowed):
        headers["Allow"] = ", ".join(exc.allowed)
    if isinstance(exc, RateLimited):
        # draft-ietf-httpapi-ratelimit-headers-07
        headers["RateLimit-Limit"] = str(exc.limit)
        headers["RateLimit-Remaining"] = "0"
        headers["RateLimit-Reset"] = str(exc.retry_after)
    if exc.status in CLOSE_CONNECTION_AFTER and scope["http_version"].startswith("1"):
        headers["Connection"] = "close"
    return headers
