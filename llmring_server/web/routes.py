"""Every URL we answer, on one screen."""

from collections.abc import Sequence

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmring_server.web import batch, export, meta, prices, registry, usage
from llmring_server.web.call import Endpoint, Handler


def get(path: str, handler: Handler, *, public: bool = False) -> Route:
    return Route(path, Endpoint(handler, public=public), methods=["GET"])


def post(path: str, handler: Handler) -> Route:
    return Route(path, Endpoint(handler, public=False), methods=["POST"])


META = [
    get("/", meta.root, public=True),
    get("/health", meta.health, public=True),
    get("/health/live", meta.live, public=True),
    get("/health/ready", meta.ready, public=True),
]

API = [
    post("/api/v1/log", usage.log),
    post("/api/v1/logs/batch", batch.log_many),
    get("/api/v1/logs", usage.logs),
    get("/api/v1/logs/export", export.export),
    get("/api/v1/logs/{id}/cost", prices.explain),
    get("/api/v1/stats", usage.stats),
    get("/api/v1/prices", prices.prices),
    get("/registry", registry.listing, public=True),
    get("/registry.json", registry.listing, public=True),
    get("/registry/manifest.json", registry.manifest, public=True),
    get("/registry/v/{id}/registry.json", registry.edition, public=True),
    get("/registry/{provider}/models.json", registry.models, public=True),
    get("/registry/{provider}/v/{version}/models.json", registry.version, public=True),
]


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if route := self._exact.get((scope["method"], path)):
                scope["route"] = route
                await route.app(scope, receive, send)
                return
        await self.app(scope, receive, send)
