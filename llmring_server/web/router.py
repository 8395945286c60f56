"""TODO docstring."""

from collections.abc import Awaitable, Sequence

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmring_server.core.identity import ApiScope as Needed
from llmring_server.web.endpoint import Endpoint, Handler
from llmring_server.web.request_limits import KIB

SMALL, MEDIUM, CHAT, LARGE = 256 * KIB, 2 * 1024 * KIB, 8 * 1024 * KIB, 16 * 1024 * KIB


class Only(Route):
    """A route whose path, unless it has parameters, is no other's: `log` is not an id."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        # `Exact` has found those with the right method.
        alone = match is Match.PARTIAL and not self.param_convertors
        return Match.FULL if alone else match, child


def get(path: str, handler: Handler, needs: Needed | None = "read") -> Route:
    return Only(path, Endpoint(handler, needs, 0), methods=["GET"])


def public(path: str, handler: Handler) -> Route:
    return get(path, handler, None)


def post(path: str, handler: Handler, needs: Needed | None, cap: int = SMALL) -> Route:
    return Only(path, Endpoint(handler, needs, cap), methods=["POST"])


def patch(path: str, handler: Handler, needs: Needed, cap: int = SMALL) -> Route:
    return Only(path, Endpoint(handler, needs, cap), methods=["PATCH"])


def put(path: str, handler: Handler, needs: Needed, cap: int = SMALL) -> Route:
    return Route(path, Endpoint(handler, needs, cap), methods=["PUT"])


def delete(path: str, handler: Handler, needs: Needed) -> Route:
    return Only(path, Endpoint(handler, needs, 0), methods=["DELETE"])


class Exact:
    """Looks up a path without parameters, in place of trying one route after another.

    The last of 50 routes costs as much as the rest of a request; a look-up costs nothing. What it
    does not find, it leaves to the router.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self.app = app
        self._exact = {
            (method, route.path): route
            for route in routes
            if not route.param_convertors
            for method in route.methods or ()
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if route := self._exact.get((scope["method"], path)):
                scope["route"] = route
                return route.app(scope, receive, send)
        return self.app(scope, receive, send)
