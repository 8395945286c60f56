"""Request middleware: the outermost layer of the app, below CORS.

For every HTTP request it
- assigns a request id, which is in the response, in problem documents, in logs and in audit events;
- removes a trailing slash from the path;
- rejects heads that are too large or ambiguous, and gives a slow body a deadline;
- adds the default headers to the response;
- closes the connection where the server may misread what follows;
- turns exceptions into problem documents, and logs those that are bugs or failures of ours.
"""

import logging

import uuid_utils
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmring_server.errors import RingError, traceback_without_values
from llmring_server.web import request_limits
from llmring_server.web.problems import problem

_logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

DEFAULT_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
_DEFAULT_NAMES = {*dict(DEFAULT_HEADERS), b"x-request-id", b"connection"}


class ResponseAbortedError(Exception):
    """The response failed after it had begun; the log has the reason."""


class RequestMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = str(uuid_utils.uuid7())
        headers = [*DEFAULT_HEADERS, (b"x-request-id", request_id.encode())]
        if request_limits.may_lose_framing(scope):
            headers.append((b"connection", b"close"))
        started = complete = failed = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started, complete
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = with_default_headers(message["headers"], headers)
            else:
                complete = not message.get("more_body", False)
            await send(message)

        scope = {
            **scope,
            "path": without_trailing_slash(scope),
            "llmring.given_path": scope["path"],
            "llmring.request_id": request_id,
        }
        try:
            scope["llmring.headers"] = request_limits.check_head(scope)
            receive_in_time = request_limits.receive_with_deadline(scope, receive)
            await self.app(scope, receive_in_time, send_with_headers)
        except ClientDisconnect:
            return  # the client has disconnected
        except Exception as exc:  # noqa: BLE001, a bug must not cost the client its response
            failed = True
            if started or not isinstance(exc, RingError):
                log_exception(exc, scope)
            if not started:
                # No variable may refer to `exc` after this: with its traceback that would be a
                # cycle, which keeps the body of a rejected request until the next collection.
                response = problem(scope, exc if isinstance(exc, RingError) else RingError())
                await response(scope, receive, send_with_headers)
        # Not in the except clause: the traceback would then contain the text of `exc`.
        if failed and started and not complete:
            _abort(scope)


def without_trailing_slash(scope: Scope) -> str:
    """Return the path without a trailing slash: `/log/` is `/log`.

    There is no redirect, on which a client might drop its body or its headers.
    """
    path: str = scope["path"]
    if not path.endswith("/"):
        return path
    is_root = len(path) <= len(scope.get("root_path", "")) + 1
    return path if is_root else path[:-1]


def with_default_headers(headers: Headers, defaults: Headers) -> Headers:
    """Add the default headers that a response does not set itself."""
    names = dict(headers).keys()
    if not names.isdisjoint(_DEFAULT_NAMES):
        defaults = [header for header in defaults if header[0] not in names]
    return [*defaults, *headers]


def log_exception(exc: Exception, scope: Scope) -> None:
    """Log an exception with the route rather than the path, which may contain a client's values."""
    route = getattr(scope.get("route"), "path", "?")
    request = scope["method"], route, scope["llmring.request_id"]
    _logger.error("%s %s, request %s, failed: %s", *request, traceback_without_values(exc))


def _abort(scope: Scope) -> None:
    """Abort a response that has begun and cannot be completed, by closing its connection.

    Our own server closes it if the app returns too early. Other servers, and middleware in front,
    might end the response as if it were complete, so there the app raises an error, which says
    nothing of the cause.
    """
    if request_limits.BOUNDED not in scope.get("extensions", ()):
        raise ResponseAbortedError
