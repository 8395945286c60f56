"""Every route, of an app with its own database, and of one below a path of a parent."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.routes import API, META
from llmring_server.web.router import Route
from tests.conftest import KINDS, app_of, client_of, settings_of
from tests.support.isolation import Victim, request_of, route_name, victim, victim_of
from tests.support.signing import SEED

__all__ = ["victim"]

SETTINGS = {
    "auth": "keys",
    "failed_auth_limit": 0,
    "receipts_private_key_b64": SEED,
    "sealing_keys": ["a" * 64],
}

# The requests of tests/support/isolation.py that these endpoints refuse; others respond 200.
REFUSED = {
    "GET /registry/v/{id}/registry.json": 404,
    "GET /registry/{provider}/models.json": 404,
    "GET /registry/{provider}/v/{version}/models.json": 404,
    "POST /api/v1/receipts/verify": 400,
    "POST /api/v1/receipts/issue": 404,
    "POST /api/v1/receipts/generate": 400,
    "GET /api/v1/receipts/{id}/proof/{log_id}": 422,
    "POST /api/v1/mcp/tools": 404,
    "POST /api/v1/mcp/tools/{id}/acknowledge": 409,
    "POST /api/v1/cli/register": 400,
}


@pytest.fixture(scope="module")
async def clients(
    role_url: str, db: AsyncDatabaseManager
) -> AsyncIterator[list[httpx.AsyncClient]]:
    settings = Settings.model_validate(settings_of(role_url, db).model_dump() | SETTINGS)
    async with AsyncExitStack() as stack:
        apps = [app_of(kind, db, settings) for kind in KINDS]
        yield [await stack.enter_async_context(client_of(app, "", prefix)) for app, prefix in apps]


def shape_of(response: httpx.Response) -> tuple[Any, ...]:
    """Return what the responses to like requests have in common."""
    is_json = "json" in response.headers.get("Content-Type", "")
    content = orjson.loads(response.content) if is_json and response.content else None
    members = sorted(content) if isinstance(content, dict) else type(content)
    return response.status_code, sorted(response.headers), members


async def ask(client: httpx.AsyncClient, route: Route, owner: Victim, key: str) -> httpx.Response:
    id = owner.id_for(route) if route.scopes and "id" in route.path_params else "1"
    method, target, body = request_of(route, id, owner.log_id)
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    return await client.request(method, target, content=body, headers=headers)


@pytest.mark.parametrize("route", API + META, ids=route_name)
async def test_both_kinds_of_app_respond_alike(
    route: Route, clients: list[httpx.AsyncClient], ring: Ring, victim: Victim
) -> None:
    accepted, refused = [], []
    for client in clients:
        owner = victim if route.method == "GET" else await victim_of(ring)
        refused.append(await ask(client, route, owner, key="nobody"))
        accepted.append(await ask(client, route, owner, owner.issued.secret))
    assert shape_of(accepted[0]) == shape_of(accepted[1])
    assert accepted[0].status_code == REFUSED.get(route_name(route), 200), accepted[0].text
    assert shape_of(refused[0]) == shape_of(refused[1])
    assert refused[0].status_code == (401 if route.scopes else accepted[0].status_code)


async def test_openapi_names_the_path_of_the_app(clients: list[httpx.AsyncClient]) -> None:
    for client, url in zip(clients, ("/", "/llmring"), strict=True):
        [server] = (await client.get("/openapi.json")).json()["servers"]
        assert server["url"] == url
