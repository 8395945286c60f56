"""Unknown parameters of queries and members of bodies: refused or reported, never dropped."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES
from llmring_server.routes import API, META
from llmring_server.web.request import MAX_WARNINGS_HEADER_BYTES
from llmring_server.web.router import Route
from tests.conftest import CALL
from tests.support.conversations import EXCHANGE
from tests.support.isolation import BODIES, route_name
from tests.support.templates import NEW_TEMPLATE

ROUTES = [*API, *META]
KEPT = [route for route in ROUTES if route.path.startswith("/api/v1/")]
OTHER = [route for route in ROUTES if route not in KEPT]

# Bodies that are an object of our own: the members of the others are the caller's.
OBJECTS = [
    route
    for route in KEPT
    if isinstance(BODIES.get(route_name(route)), dict)
    and "prompts/{id}/render" not in route.path
    # Messages and tools keep what only their provider or their server knows.
    and route_name(route)
    not in {"POST /api/v1/conversations/{id}/messages", "POST /api/v1/mcp/tools"}
]

SECRET = "sk-value"  # noqa: S105, a canary


@pytest.fixture
async def admin(db: AsyncDatabaseManager, ring: Ring) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a key that has all scopes."""
    options = KeyOptions(scopes=PROJECT_SCOPES)
    issued = await ring.keys.issue(f"project {uuid4()}", options, actor=LIBRARY)
    transport, headers = httpx.ASGITransport(app=build(db)), {"X-API-Key": issued.secret}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        yield client


async def ask(
    client: httpx.AsyncClient, route: Route, query: str, body: Any = None
) -> httpx.Response:
    id = "0" * 8 if route.path.startswith("/api/v1/keys/") else str(uuid4())
    path = route.path.replace("{id}", id).replace("{log_id}", str(uuid4()))
    for name, value in (("{version}", "1"), ("{alias:path}", "fast"), ("{provider}", "openai")):
        path = path.replace(name, value)
    content = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json"}
    return await client.request(route.method, path + query, content=content, headers=headers)


@pytest.mark.parametrize("route", KEPT, ids=route_name)
async def test_every_route_of_the_api_refuses_unknown_parameters(
    admin: httpx.AsyncClient, route: Route
) -> None:
    response = await ask(admin, route, f"?nonsense={SECRET}", BODIES.get(route_name(route)))
    assert response.status_code == 422, response.text
    assert SECRET not in response.text
    assert "nonsense" in response.json()["detail"]
    assert response.json()["errors"][0]["loc"] == ["query", "nonsense"]


@pytest.mark.parametrize("route", OTHER, ids=route_name)
async def test_every_other_route_ignores_unknown_parameters(
    client: httpx.AsyncClient, route: Route
) -> None:
    plain = await ask(client, route, "")
    response = await ask(client, route, "?nonsense=1&utm_source=x")
    assert response.status_code == plain.status_code != 422


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/api/v1/stats?origin=checkout", 422),
        ("/api/v1/stats?Start_Date=2026-01-01", 422),
        ("/api/v1/stats?start_date=&end_date=&group_by=day", 200),
        ("/api/v1/stats?project_id=x", 422),
        ("/api/v1/stats?strict=true", 422),
        ("/api/v1/stats?origin=", 200),
        ("/api/v1/logs?modell=x", 422),
        ("/api/v1/logs?limit=50&offset=0&alias=&model=&origin=&start_date=&end_date=", 200),
        ("/api/v1/logs/export?modell=x", 422),
        ("/api/v1/prices?provider=openai&model=gpt-4o&when=now", 422),
        ("/api/v1/aliases?alias=x", 422),
        ("/api/v1/conversations?search=x", 422),
        ("/api/v1/conversations/?limit=50&offset=0", 200),
        ("/conversations?limit=20&offset=0&search=x", 200),
        ("/api/v1/mcp/servers?is_active=true&project_id=00000000-0000-4000-8000-00000000000a", 200),
        ("/api/v1/mcp/tools?is_active=true&project_id=00000000-0000-4000-8000-00000000000a", 200),
        ("/api/v1/mcp/resources?project_id=any", 200),
        ("/api/v1/mcp/prompts?project_id=any", 200),
        ("/api/v1/mcp/prompts?server=any", 422),
        ("/api/v1/receipts/uncertified?cursor=x", 422),
        ("/api/v1/templates/stats?order=x", 422),
    ],
)
async def test_parameters_of_queries(client: httpx.AsyncClient, target: str, status: int) -> None:
    assert (await client.get(target)).status_code == status


async def test_an_unknown_parameter_is_named_with_the_known_ones(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/api/v1/stats?origin=checkout&x=y")
    assert response.json()["detail"] == (
        "query: unknown parameters: origin, x; known are: end_date, group_by, start_date, top, tz"
    )
    long = await client.get("/api/v1/stats?" + "&".join(f"{'x' * 100}{i}=1" for i in range(50)))
    assert (long.status_code, len(long.json()["errors"])) == (422, 20)
    none = await client.get("/api/v1/logs/" + str(uuid4()) + "/cost?x=1")
    assert "this path has none" in none.json()["detail"]


@pytest.mark.parametrize("route", OBJECTS, ids=route_name)
async def test_an_unknown_member_of_a_body_is_refused_in_a_strict_request(
    admin: httpx.AsyncClient, route: Route
) -> None:
    body = BODIES[route_name(route)] | {"nonsense": SECRET}
    response = await ask(admin, route, "?strict=true", body)
    assert response.status_code == 422, response.text
    assert SECRET not in response.text
    assert "nonsense" in response.json()["detail"]
    known = await ask(admin, route, "?strict=true", BODIES[route_name(route)])
    assert "unknown" not in known.text


CREATED = [
    ("/api/v1/conversations", {"title": "t"}),
    ("/api/v1/conversations/log", EXCHANGE),
    ("/api/v1/templates", NEW_TEMPLATE),
    ("/api/v1/aliases/bind", {"alias": "fast", "model": "openai:gpt-4o"}),
    ("/api/v1/mcp/servers", {"name": "n", "url": "http://u", "transport_type": "http"}),
    ("/api/v1/receipts/preview", {"log_ids": [str(uuid4())]}),
]


@pytest.mark.parametrize(("path", "body"), CREATED)
async def test_an_unknown_member_of_a_body_is_reported(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    plain = await client.post(path, json=body)
    assert "X-Warnings" not in plain.headers
    response = await client.post(path, json=body | {"nonsense": 1, "\u00fc\r\n": 2})
    assert response.status_code == plain.status_code
    if response.status_code == 200:
        assert reported(response) == ["nonsense", "\u00fc\r\n"]


def reported(response: httpx.Response) -> list[str]:
    if "X-Warnings" in response.headers:
        assert response.headers["X-Warnings"].isascii()
        fields: list[str] = json.loads(response.headers["X-Warnings"])
        return fields
    return [warning["field"] for warning in response.json()["warnings"]]


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        (
            "/api/v1/conversations/log",
            EXCHANGE | {"metadata": EXCHANGE["metadata"] | {"regoin": "x"}},
            ["metadata.regoin"],
        ),
        (
            "/api/v1/aliases/bulk_upsert",
            [{"alias": "a", "model": "o:m"}, {"alias": "b", "model": "o:m", "weight": 1}],
            ["1.weight"],
        ),
        # What clients send and contracts ignore.
        ("/api/v1/conversations", {"title": "t", "project_id": "me", "api_key_id": None}, []),
        (
            "/api/v1/mcp/servers",
            {"name": "n", "url": "http://u", "transport_type": "http", "project_id": None},
            [],
        ),
        # The caller's own objects.
        ("/api/v1/templates", NEW_TEMPLATE | {"tool_config": {"any": {"thing": 1}}}, []),
        ("/api/v1/aliases/bind", {"alias": "a", "model": "o:m", "metadata": {"any": 1}}, []),
    ],
)
async def test_unknown_members_within_others(
    client: httpx.AsyncClient, path: str, body: Any, fields: list[str]
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert ("X-Warnings" in response.headers) == bool(fields) or "warnings" in response.json()
    if fields:
        assert reported(response) == fields
    strict = await client.post(path + "?strict=true", json=body)
    assert strict.status_code == (422 if fields else 200), strict.text


async def test_other_names_of_members_are_known(client: httpx.AsyncClient) -> None:
    server = {"name": "n", "url": "http://u", "transport_type": "http"}
    id = (await client.post("/api/v1/mcp/servers", json=server)).json()["id"]
    offers = {
        "tools": [{"name": "t", "inputSchema": {"a": 1}}, {"name": "u", "input_schema": {}}],
        "resources": [{"uri": "r", "mimeType": "text/plain"}],
    }
    path = f"/api/v1/mcp/servers/{id}/refresh"
    response = await client.post(path + "?strict=true", json=offers)
    assert response.status_code == 200, response.text
    execution = {"tool_id": "x", "input": {}}
    tool = response.json()["tools"][0]["id"]
    recorded = await client.post(f"/api/v1/mcp/tools/{tool}/execute?strict=true", json=execution)
    assert recorded.status_code == 200, recorded.text


async def test_the_header_of_warnings_is_short(client: httpx.AsyncClient) -> None:
    many = {str(index) + "\u20ac" * 90: 1 for index in range(30)}
    response = await client.post("/api/v1/templates", json=NEW_TEMPLATE | many)
    assert len(response.headers["X-Warnings"]) <= MAX_WARNINGS_HEADER_BYTES + 10
    assert json.loads(response.headers["X-Warnings"])[-1] == "*"


async def test_the_setting_makes_every_request_strict(
    db: AsyncDatabaseManager, settings: Settings, key: str
) -> None:
    app = build(db, settings.model_copy(update={"strict_fields": True}))
    transport, headers = httpx.ASGITransport(app=app), {"X-API-Key": key}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        for path, body in (("/api/v1/log", CALL), *CREATED[:-1]):
            for query in ("", "?strict=false"):
                response = await client.post(path + query, json=body | {"nonsense": 1})
                assert (response.status_code, "nonsense" in response.text) == (422, True)
        batch = "/api/v1/logs/batch"
        assert (await client.post(batch, json=[CALL | {"nonsense": 1}])).status_code == 422
        partial = await client.post(batch + "?partial=true", json=[CALL, CALL | {"nonsense": 1}])
        assert [each["index"] for each in partial.json()["rejected"]] == [1]
