"""Router: the endpoint of each request, and the errors if none matches."""

from typing import Any

import httpx
import pytest
from starlette.routing import Router as StarletteRouter

from llmring_server.errors import MethodNotAllowed, NotFound
from llmring_server.routes import API, META
from llmring_server.web.request import Request
from llmring_server.web.router import Route, Router, path_below_root
from tests.conftest import CALL

LOG = ("POST", "/things/log")
EXACT = ("GET", "/things")
ITEM = ("GET", "/things/{id}")
DELETE = ("DELETE", "/things/{id}")
NESTED = ("GET", "/things/{id}/parts/{part}")
HISTORY = ("GET", "/things/{id}/history")
ANY_DEPTH = ("PUT", "/names/{name:path}")


async def handler(_: Request) -> dict[str, Any]:
    """Do nothing."""
    return {}


ROUTES = [
    Route(method, path, handler, None)
    for method, path in (EXACT, LOG, ITEM, DELETE, NESTED, HISTORY, ANY_DEPTH)
]


def routed(method: str, path: str, root_path: str = "") -> tuple[tuple[str, str], dict[str, str]]:
    """Return the method and path of the route that gets a request, and the path's parameters."""
    scope = {"type": "http", "method": method, "path": path, "root_path": root_path}
    Router(ROUTES, StarletteRouter())(scope, None, None).close()  # type: ignore[arg-type,attr-defined]
    route: Any = scope["route"]
    params: Any = scope.get("path_params", {})
    return (route.method, route.path), params


@pytest.mark.parametrize(
    ("method", "path", "route", "params"),
    [
        ("GET", "/things", EXACT, {}),
        ("HEAD", "/things", EXACT, {}),
        ("POST", "/things/log", LOG, {}),
        ("GET", "/things/logs", ITEM, {"id": "logs"}),
        ("HEAD", "/things/1", ITEM, {"id": "1"}),
        ("DELETE", "/things/1", DELETE, {"id": "1"}),
        ("GET", "/things/1/parts/2", NESTED, {"id": "1", "part": "2"}),
        ("PUT", "/names/a", ANY_DEPTH, {"name": "a"}),
        ("PUT", "/names/a/b", ANY_DEPTH, {"name": "a/b"}),
    ],
)
def test_a_request_gets_the_route_of_its_path_and_method(
    method: str, path: str, route: tuple[str, str], params: dict[str, str]
) -> None:
    assert routed(method, path) == (route, params)
    assert routed(method, f"/mounted{path}", "/mounted") == (route, params)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/thing",
        "/things/",
        "/things/1/parts",
        "/things/1/history\n",
        "/names",
        "//things",
        "things",
    ],
)
def test_an_unknown_path_is_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        routed("GET", path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/things", ["GET", "HEAD"]),
        ("POST", "/things/1", ["DELETE", "GET", "HEAD"]),
        # An exact path is not an id with any method.
        ("GET", "/things/log", ["POST"]),
        ("DELETE", "/things/log", ["POST"]),
        ("OPTIONS", "/things", ["GET", "HEAD"]),
    ],
)
def test_other_methods_of_a_path_are_not_allowed(
    method: str, path: str, allowed: list[str]
) -> None:
    with pytest.raises(MethodNotAllowed) as raised:
        routed(method, path)
    assert raised.value.allowed == allowed


@pytest.mark.parametrize(
    ("path", "root_path", "below"),
    [
        ("/things", "", "/things"),
        ("/api/things", "/api", "/things"),
        ("/api", "/api", ""),
        # A path that only resembles the mount point, or that a proxy has stripped, is not changed.
        ("/apis/things", "/api", "/apis/things"),
        ("/things", "/api", "/things"),
    ],
)
def test_paths_are_below_the_mount_point(path: str, root_path: str, below: str) -> None:
    assert path_below_root({"path": path, "root_path": root_path}) == below


async def test_the_allow_header_has_all_methods_of_a_path(
    client_of_each_kind: httpx.AsyncClient,
) -> None:
    for path, methods in (
        ("/api/v1/keys", "GET, HEAD, POST"),
        ("/api/v1/keys/x", "DELETE, GET, HEAD"),
        ("/api/v1/log", "POST"),
        ("/", "GET, HEAD"),
        ("/api/v1/conversations/log", "POST"),
    ):
        response = await client_of_each_kind.put(path)
        assert (response.status_code, response.headers["Allow"]) == (405, methods)
        assert response.json()["code"] == "method_not_allowed"


async def test_a_trailing_slash_makes_no_difference(client_of_each_kind: httpx.AsyncClient) -> None:
    logged = await client_of_each_kind.post("/api/v1/log/", json=CALL)
    assert logged.status_code == 200
    for path in ("/api/v1/logs/", f"/api/v1/logs/{logged.json()['log_id']}/cost/"):
        assert (await client_of_each_kind.get(path)).json() == (
            await client_of_each_kind.get(path[:-1])
        ).json()


async def test_head_is_handled_as_get(client_of_each_kind: httpx.AsyncClient) -> None:
    for path in ("/", "/api/v1/logs", "/registry.json"):
        response = await client_of_each_kind.head(path)
        assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")


def test_no_two_routes_are_the_same() -> None:
    routes = [(route.method, route.path_format) for route in API + META]
    assert len({*routes}) == len(routes)
