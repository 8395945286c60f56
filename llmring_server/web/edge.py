"""The outermost layer: an id for every request, headers for every answer, an answer for a crash."""

import logging

import uuid_utils
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmring_server.errors import RingError, trace
from llmring_server.web import guard
from llmring_server.web.problems import problem

_logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
OURS = {*dict(HEADERS), b"x-request-id"}


def slashless(scope: Scope) -> str:
    """`/log/` is `/log`: no redirect, so no client drops a body or a header on the way."""
    path: str = scope["path"]
    if not path.endswith("/"):
        return path
    is_root = len(path) <= len(scope.get("root_path", "")) + 1
    return path if is_root else path[:-1]


def completed(given: Headers, ours: Headers) -> Headers:
    """Add what of `ours` an answer does not say by itself."""
    said = dict(given)
    if not said.keys().isdisjoint(OURS):
        ours = [header for header in ours if header[0] not in said]
    return [*ours, *given]


class Edge:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = str(uuid_utils.uuid7())
        headers = [*HEADERS, (b"x-request-id", request_id.encode())]
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = completed(message["headers"], headers)
            await send(message)

        scope = {**scope, "path": slashless(scope), "llmring.request_id": request_id}
        try:
            scope["llmring.headers"] = guard.check(scope)
            await self.app(scope, guard.hurried(scope, receive), answer)
        except ClientDisconnect:
            return  # there is nobody left to answer
        except RingError as exc:
            if started:
                raise
            await problem(scope, exc)(scope, receive, answer)
        except Exception as exc:  # the last line: a bug of ours must not cost the connection
            if started:
                raise
            report(exc, scope)
            await problem(scope, RingError())(scope, receive, answer)


def report(exc: Exception, scope: Scope) -> None:
    route = getattr(scope.get("route"), "path", "?")
    request = scope["method"], route, scope["llmring.request_id"]
    _logger.error("%s %s, request %s, failed: %s", *request, trace(exc))
