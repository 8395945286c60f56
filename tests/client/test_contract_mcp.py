"""The wire contract with published clients: MCP, aliases, receipts and keys, one fact each."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, build
from llmring_server.core.identity import LIBRARY
from tests.support.mcp import ADD, GREET, MCP, README, SERVER, SERVERS, Json, refresh, register

SERVER_FIELDS = {"name", "url", "transport_type", "auth_config", "capabilities", "is_active"} | {
    "id",
    "api_key_id",
    "project_id",
    "created_at",
    "updated_at",
}
COMMON = {"description", "is_active", "id", "server_id", "api_key_id", "project_id", "created_at"}
TOOL_FIELDS = COMMON | {"name", "input_schema", "server"}
RESOURCE_FIELDS = COMMON | {"uri", "name", "mime_type"}
PROMPT_FIELDS = COMMON | {"name", "arguments"}
EXECUTION_FIELDS = {"id", "tool_id", "conversation_id", "input", "output", "error"} | {
    "duration_ms",
    "executed_at",
}


@pytest.fixture
async def client(db: AsyncDatabaseManager, ring: Ring) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an issued key, as in production."""
    issued = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=build(db)),
        base_url="http://test",
        headers={"X-API-Key": issued.secret, "Authorization": f"Bearer {issued.secret}"},
    ) as client:
        yield client


async def offered(client: httpx.AsyncClient) -> dict[str, Json]:
    """Register a server with one capability of each kind; return them by kind."""
    path = await register(client)
    result = await refresh(client, path, tools=[ADD], resources=[README], prompts=[GREET])
    return {kind: result[kind][0] for kind in ("tools", "resources", "prompts")}


@pytest.mark.parametrize(
    "location", ["http://localhost:8080", "http://127.0.0.1", "stdio://python -m calc", "http://u"]
)
@pytest.mark.parametrize("transport", ["stdio", "http", "websocket"])
async def test_servers_of_any_kind_are_registered(
    client: httpx.AsyncClient, location: str, transport: str
) -> None:
    nulls = dict.fromkeys(("auth_config", "capabilities", "project_id"))
    body = {"name": "n", "url": location, "transport_type": transport, **nulls}
    server = (await client.post(SERVERS, json=body)).json()
    assert server.keys() >= SERVER_FIELDS
    assert UUID(server["id"])
    assert (server["url"], server["is_active"], server["api_key_id"]) == (location, True, None)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_server_is_changed_in_part(client: httpx.AsyncClient, method: str) -> None:
    path = await register(client)
    changed = (await client.request(method, path, json={"is_active": False})).json()
    assert (changed["name"], changed["is_active"]) == (SERVER["name"], False)
    assert (await client.request(method, path, json={})).json() == changed
    inactive = (await client.get(SERVERS, params={"is_active": "false"})).json()
    assert [server["id"] for server in inactive] == [changed["id"]]
    assert (await client.get(SERVERS)).json() == []


async def test_a_deleted_server_takes_its_capabilities_with_it(client: httpx.AsyncClient) -> None:
    tool = (await offered(client))["tools"]
    response = await client.delete(f"{SERVERS}/{tool['server_id']}")
    assert response.json() == {"message": "Server deleted successfully"}
    assert (await client.get(f"{MCP}/tools/{tool['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("tools", TOOL_FIELDS), ("resources", RESOURCE_FIELDS), ("prompts", PROMPT_FIELDS)],
)
async def test_capabilities_have_the_fields_that_clients_read(
    client: httpx.AsyncClient, kind: str, fields: set[str]
) -> None:
    capability = (await offered(client))[kind]
    assert capability.keys() >= fields
    for params in ({}, {"server_id": capability["server_id"]}, {"project_id": str(uuid4())}):
        assert (await client.get(f"{MCP}/{kind}", params=params)).json() == [capability]
    assert (await client.get(f"{MCP}/{kind}/{capability['id']}")).json() == capability


async def test_a_resource_s_content_and_a_rendered_prompt_name_their_server(
    client: httpx.AsyncClient,
) -> None:
    found = await offered(client)
    server = {"server_name": SERVER["name"], "server_url": SERVER["url"]}
    resource, prompt = found["resources"], found["prompts"]
    content = (await client.get(f"{MCP}/resources/{resource['id']}/content")).json()
    assert content["resource"] == resource | server
    assert content["content"] is None
    url = f"{MCP}/prompts/{prompt['id']}/render"
    rendered = (await client.post(url, json={"who": "x"})).json()
    assert rendered["prompt"] == prompt | server
    assert (rendered["arguments"], rendered["rendered"]) == ({"who": "x"}, None)


async def test_an_execution_is_recorded_with_the_six_keys_of_the_client(
    client: httpx.AsyncClient,
) -> None:
    tool = (await offered(client))["tools"]
    url = f"{MCP}/tools/{tool['id']}"
    nulls = dict.fromkeys(("output", "error", "duration_ms", "conversation_id"))
    body = {"tool_id": tool["id"], "input": {}, **nulls}
    recorded = (await client.post(f"{url}/execute", json=body)).json()
    assert recorded.keys() >= EXECUTION_FIELDS
    [stored] = (await client.get(f"{url}/history", params={"limit": 100})).json()
    assert stored == {name: recorded[name] for name in stored}


@pytest.mark.parametrize("form", ["/api/v1/aliases", "/api/v1/aliases/"])
async def test_aliases_are_bound_listed_resolved_and_deleted(
    client: httpx.AsyncClient, form: str
) -> None:
    body: dict[str, Any] = {"alias": "summarizer", "model": "fast"}
    bound = (await client.post("/api/v1/aliases/bind", json=body)).json()
    assert {"id", "project_id", "profile", "alias", "model", "metadata"} <= bound.keys()
    assert (bound["profile"], bound["model"]) == ("default", "fast")
    assert isinstance(bound["id"], int)
    assert (await client.get(form)).json() == [bound]
    url = "/api/v1/aliases/resolve?alias=summarizer"
    assert (await client.get(url)).json() == {"alias": "summarizer", "model": "fast"}
    for _ in range(2):
        response = await client.delete("/api/v1/aliases/summarizer")
        assert response.json() == {"deleted": True}
    assert (await client.get(url)).json() == {"alias": "summarizer", "model": None}


async def test_a_receipt_s_flat_id_has_its_old_form(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/receipts/rcpt_0123456789abcdef")
    assert (response.status_code, response.json()["detail"]) == (404, "Receipt not found")
    page = (await client.get("/api/v1/receipts")).json()
    assert (page["receipts"], page["total"], page["limit"], page["offset"]) == ([], 0, 100, 0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "k" * 255}, 401),
        ({"X-API-Key": "llmr_pk_0123456789abcdef0123456789abcdef"}, 401),
        ({"X-API-Key": "k" * 256}, 400),
        ({"X-API-Key": "a b"}, 400),
        ({"X-Project-Key": "unknown"}, 401),
    ],
)
async def test_keys_are_refused_with_the_statuses_of_the_first_server(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    del client.headers["X-API-Key"], client.headers["Authorization"]
    assert (await client.get("/api/v1/stats", headers=headers)).status_code == status
