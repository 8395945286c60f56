"""The outermost layer: an id for every request, headers for every answer, an answer for a crash."""

import logging

import uuid_utils
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmring_server.errors import RingError, traceback_without_values
from llmring_server.web import request_limits
from llmring_server.web.problems import problem

_logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
OURS = {*dict(HEADERS), b"x-request-id"}


def without_trailing_slash(scope: Scope) -> str:
    """`/log/` is `/log`: no redirect, so no client drops a body or a header on the way."""
    path: str = scope["path"]
    if not path.endswith("/"):
        return path
    is_root = len(path) <= len(scope.get("root_path", "")) + 1
    return path if is_root else path[:-1]


def with_default_headers(given: Headers, ours: Headers) -> Headers:
    """Add what of `ours` an answer does not say by itself."""
    said = dict(given)
    if not said.keys().isdisjoint(OURS):
        ours = [header for header in ours if header[0] not in said]
    return [*ours, *given]


class ResponseAbortedError(Exception):
    """The answer failed after it had begun; the log tells why."""


class RequestMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = str(uuid_utils.uuid7())
        headers = [*HEADERS, (b"x-request-id", request_id.encode())]
        started = complete = failed = False

        async def answer(message: Message) -> None:
            nonlocal started, complete
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = with_default_headers(message["headers"], headers)
            else:
                complete = not message.get("more_body", False)
            await send(message)

        scope = {**scope, "path": without_trailing_slash(scope), "llmring.request_id": request_id}
        try:
            scope["llmring.headers"] = request_limits.check_head(scope)
            await self.app(scope, request_limits.receive_with_deadline(scope, receive), answer)
        except ClientDisconnect:
            return  # there is nobody left to answer
        except Exception as exc:  # noqa: BLE001, the last line: a bug of ours must not cost the connection
            failed = True
            if started or not isinstance(exc, RingError):
                log_exception(exc, scope)
            if not started:
                # Under no name of its own: that would keep the exception in a cycle with this frame,
                # and with it the body that was read, until the garbage collector runs.
                await problem(scope, exc if isinstance(exc, RingError) else RingError())(
                    scope, receive, answer
                )
        # Not above: what is raised there would have the text of `exc` in its trace.
        if failed and started and not complete:
            _abort(scope)


def _abort(scope: Scope) -> None:
    """End an answer that has begun and cannot be completed: its connection must be closed.

    Our own server closes it when the app returns too early. Others, and middleware in front, might
    end the answer as if it was complete: for them it must fail, with an error that tells nothing.
    """
    if request_limits.BOUNDED not in scope.get("extensions", ()):
        raise ResponseAbortedError


def log_exception(exc: Exception, scope: Scope) -> None:
    route = getattr(scope.get("route"), "path", "?")
    request = scope["method"], route, scope["llmring.request_id"]
    _logger.error("%s %s, request %s, failed: %s", *request, traceback_without_values(exc))
