"""404: its text names what was not found, in the words of older servers, and nothing else."""

from collections.abc import AsyncIterator
from uuid import uuid4

import orjson
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES
from llmring_server.routes import API
from llmring_server.web.router import Route
from tests.support.isolation import MODES, Intruder, Victim, route_name, victim
from tests.support.mcp import MCP, make_tool_of

__all__ = ["victim"]

# By the first part of the path below `/api/v1` or `/api/v1/mcp`.
KINDS = {
    "logs": "Call",
    "keys": "API key",
    "conversations": "Conversation",
    "templates": "Template",
    "receipts": "Receipt",
    "aliases": "Alias",
    "servers": "Server",
    "tools": "Tool",
    "resources": "Resource",
    "prompts": "Prompt",
}
WITH_ID = [route for route in API if route.scopes and "id" in route.path_params]
INVALID_IDS = ("x", "0" * 300, "%00", "..%2F", "%F0%9F%92%A9")


def kind_of(route: Route) -> str:
    if route.path.endswith("/versions/{version}"):
        return "Template version"
    return KINDS[part_of(route)]


def part_of(route: Route) -> str:
    return route.path.removeprefix("/api/v1").removeprefix("/mcp").split("/")[1]


@pytest.fixture
async def caller(db: AsyncDatabaseManager, ring: Ring) -> AsyncIterator[Intruder]:
    options = KeyOptions(scopes=PROJECT_SCOPES)
    key = await ring.keys.issue(f"project {uuid4()}", options, actor=LIBRARY)
    caller = Intruder(db, MODES[0], key)
    async with caller.client:
        yield caller


@pytest.mark.parametrize("route", WITH_ID, ids=route_name)
async def test_404_names_the_kind_of_what_is_missing(
    route: Route, caller: Intruder, victim: Victim
) -> None:
    for id in (victim.id_for(route), str(uuid4()), "ffffffff-ffff-ffff-ffff-ffffffffffff"):
        response = await caller.ask(route, id, uuid4())
        assert response.status_code == 404, response.text
        assert response.json()["detail"] == f"{kind_of(route)} not found"
        assert response.json()["code"] == "not_found"


@pytest.mark.parametrize("route", WITH_ID, ids=route_name)
async def test_what_cannot_be_an_id_identifies_nothing(route: Route, caller: Intruder) -> None:
    for id in INVALID_IDS:
        response = await caller.ask(route, id, uuid4())
        if "%2F" not in id:  # a slash makes it another path
            assert response.status_code == 404, (id, response.text)
            assert response.json()["detail"] == f"{KINDS[part_of(route)]} not found"
        else:
            assert response.status_code in {404, 405}


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("GET", "/api/v1/aliases/unbound", None, "Alias"),
        ("GET", "/api/v1/aliases/" + "a" * 65, None, "Alias"),
        ("POST", "/api/v1/receipts/issue", {"log_id": str(uuid4())}, "Call"),
        ("POST", f"{MCP}/tools", {"server_id": str(uuid4()), "name": "t"}, "Server"),
    ],
)
async def test_404_names_what_the_body_or_the_path_refers_to(
    caller: Intruder, method: str, path: str, body: object, kind: str
) -> None:
    response = await caller.send(method, path, b"" if body is None else orjson.dumps(body))
    assert (response.status_code, response.json()["detail"]) == (404, f"{kind} not found")


@pytest.mark.parametrize("kind", ["conversation", "call"])
async def test_404_of_an_execution_names_the_reference(
    caller: Intruder, ring: Ring, victim: Victim, kind: str
) -> None:
    tool = await make_tool_of(ring, caller.key.project_id)
    name, theirs = {
        "conversation": ("conversation_id", victim.conversation_id),
        "call": ("log_id", victim.log_id),
    }[kind]
    for id in (theirs, uuid4()):
        body = orjson.dumps({"input": {}, name: str(id)})
        response = await caller.send("POST", f"{MCP}/tools/{tool}/execute", body)
        expected = f"{kind.capitalize()} not found"
        assert (response.status_code, response.json()["detail"]) == (404, expected)


async def test_404_of_a_call_that_a_receipt_does_not_certify(
    db: AsyncDatabaseManager, victim: Victim
) -> None:
    owner = Intruder(db, MODES[0], victim.issued)
    async with owner.client:
        path = f"/api/v1/receipts/{victim.receipt_id}/proof/{uuid4()}"
        response = await owner.send("GET", path)
    assert (response.status_code, response.json()["detail"]) == (404, "Call not found")
