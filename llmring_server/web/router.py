"""Router: finds the endpoint of a request by its path and method.

Nearly all traffic goes to paths without parameters. They are looked up in a dictionary, which
costs the same for 100 routes as for one; patterns are tried in turn only after that.
"""

import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Match, compile_path
from starlette.routing import Router as StarletteRouter
from starlette.types import Receive, Scope, Send

from llmring_server.core.identity import ApiScope
from llmring_server.errors import MethodNotAllowed, NotFound
from llmring_server.web.endpoint import Endpoint, Handler, SettingName

# The prefixes that a caller may have left out, or written twice.
_PREFIX = re.compile(r"^(/(api|v\d+)(?=/))*")


@dataclass(frozen=True)
class Route:
    """A row of the route table.

    `scope` is the scope that the caller needs, or several of which it needs all, or None if no
    authentication is required. `max_body_bytes` is 0 for endpoints without a body, or the name of
    the setting that limits it. A path may have parameters: `{id}`, or `{alias:path}`, which may
    contain slashes. `same_as` is the path to use instead of one that exists for older clients.
    """

    method: str
    path: str
    handler: Handler
    scope: ApiScope | tuple[ApiScope, ...] | None
    max_body_bytes: int | SettingName = 0
    same_as: str | None = None
    endpoint: Endpoint = field(init=False, compare=False)

    def __post_init__(self) -> None:
        endpoint = Endpoint(
            self.handler,
            self.scopes,
            self.max_body_bytes,
            # Other paths are read by browsers, probes and clients that add parameters of their own.
            known_params_only=self.path.startswith("/api/v1/"),
        )
        object.__setattr__(self, "endpoint", endpoint)

    @property
    def scopes(self) -> tuple[ApiScope, ...]:
        """The scopes that the caller needs, all of them; empty if the route is public."""
        if self.scope is None:
            return ()
        return (self.scope,) if isinstance(self.scope, str) else self.scope

    @property
    def path_format(self) -> str:
        """The path as OpenAPI writes it: `{alias}` for `{alias:path}`."""
        return compile_path(self.path)[1]

    @property
    def path_params(self) -> set[str]:
        return {*compile_path(self.path)[2]}


class RouteGroup:
    """The routes of one domain; `tag` names them in the OpenAPI document and in docs/api.md."""

    def __init__(self, tag: str, description: str, *routes: Route) -> None:
        self.tag = tag
        self.description = description
        self.routes = routes


class Router:
    """An ASGI app that passes a request to its endpoint, or refuses it with 404 or 405.

    An exact path takes precedence over patterns for every method: `/conversations/log` is never
    the conversation with the id `log`. HEAD is answered wherever GET is.

    What is not HTTP (the lifespan of the app) goes to `other`. So do the requests that match one of
    its routes, if that has the path of one of `routes`, which it replaces, or if none matches.
    """

    def __init__(self, routes: Sequence[Route], other: StarletteRouter) -> None:
        self._other = other
        self._other_app = ExceptionMiddleware(other)
        self._exact: dict[str, dict[str, Route]] = {}
        patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            table = patterns if route.path_params else self._exact
            methods = table.setdefault(route.path, {})
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route
        self._patterns = [(compile_path(path)[0], methods) for path, methods in patterns.items()]

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._other(scope, receive, send)
        path, method = path_below_root(scope), scope["method"]
        methods = self._exact.get(path)
        if self._other.routes:
            # A trailing slash may matter to them: it is the root of what is mounted.
            given = {**scope, "path": scope.get("llmring.given_path", scope["path"])}
            for each in (given, scope):
                if self._is_for_other(each, path):
                    return self._other_app(each, receive, send)
        if methods is None:
            methods, params = self._match(path, method)
            if not methods:
                raise self._no_such_path(scope)
            scope["path_params"] = params
        route = methods.get(method)
        if route is None:
            raise MethodNotAllowed(methods)
        # The name is Starlette's: middleware of other packages reads it, too.
        scope["route"] = route
        return route.endpoint(scope, receive, send)

    def _is_for_other(self, scope: Scope, path: str) -> bool:
        has_match = path in self._exact or bool(self._match(path, scope["method"])[0])
        return any(
            route.matches(scope)[0] is Match.FULL
            for route in self._other.routes
            if not has_match or getattr(route, "path", None) == path
        )

    def _match(self, path: str, method: str) -> tuple[dict[str, Route], dict[str, Any]]:
        """Return the first pattern with this method, or the methods of all patterns that match.

        There are none if the path does not exist.
        """
        allowed: dict[str, Route] = {}
        for pattern, methods in self._patterns:
            if match := pattern.fullmatch(path):
                if method in methods:
                    return methods, match.groupdict()
                allowed |= methods
        return allowed, {}

    def _no_such_path(self, scope: Scope) -> NotFound:
        """Return an error that names the path of a similar one, and where all of them are."""
        root = scope.get("root_path", "")
        path = _PREFIX.sub("", path_below_root(scope))
        sentences = ["No such path."]
        for similar in (f"/api/v1{path}", path):
            if route := self._any_route(similar):
                sentences.append(f"Did you mean {root}{route.path_format}?")
                break
        else:
            paths = {each.removeprefix("/api/v1"): each for each in sorted(self._exact)}
            alike = get_close_matches(path, paths, 1, cutoff=0.8)
            sentences += [f"Did you mean {root}{paths[similar]}?" for similar in alike]
        if "/openapi.json" in self._exact:
            sentences.append(f"GET {root}/openapi.json describes all paths.")
        return NotFound(" ".join(sentences))

    def _any_route(self, path: str) -> Route | None:
        tables = [self._exact[path]] if path in self._exact else []
        tables += [methods for pattern, methods in self._patterns if pattern.fullmatch(path)]
        return next((route for methods in tables for route in methods.values()), None)


def path_below_root(scope: Scope) -> str:
    """Return the path below the mount point of the app."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :]
    return path
