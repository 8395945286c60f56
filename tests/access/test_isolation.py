"""Isolation: no route, in any mode, shows or changes data of another project."""

from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, build
from llmring_server.access.keys import IssuedKey, KeyOptions
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES, ProjectId
from llmring_server.routes import API
from llmring_server.web.router import Route
from tests.support.isolation import CANARY, Intruder, Victim, intruder, route_name, victim

__all__ = ["intruder", "victim"]


OURS = [route for route in API if route.scopes]
WITH_ID = [route for route in OURS if "id" in route.path_params]
# Aliases are not ids: each project has its own.
WITHOUT_ID = [route for route in OURS if route not in WITH_ID]


def content_of(response: httpx.Response) -> tuple[int, bytes]:
    """Return the status and the content of a response, without its request id."""
    return response.status_code, response.content.replace(
        response.headers["X-Request-ID"].encode(), b""
    )


@pytest.mark.parametrize("route", WITH_ID, ids=route_name)
async def test_ids_of_another_project_are_not_found(
    route: Route, intruder: Intruder, victim: Victim, ring: Ring
) -> None:
    before = await victim.everything(ring)
    theirs = await intruder.ask(route, victim.id_for(route), victim.log_id)
    never = await intruder.ask(
        route, "00000000" if "keys" in route.path else str(uuid4()), victim.log_id
    )
    assert content_of(theirs) == content_of(never)
    # A proxy's users are nobody's admins: 403.
    forbidden = route.scope == "admin" and intruder.mode == "proxy"
    assert theirs.status_code == (403 if forbidden else 404)
    assert await ring.keys.caller(victim.issued.secret)
    assert await victim.everything(ring) == before


@pytest.mark.parametrize("route", WITHOUT_ID, ids=route_name)
async def test_responses_contain_no_data_of_another_project(
    route: Route, intruder: Intruder, victim: Victim, ring: Ring
) -> None:
    before = await victim.everything(ring)
    response = await intruder.ask(route)
    # The intruder's project has no such alias, server or call: 404 or 400.
    absent = "alias" in route.path_params or route_name(route) == "POST /api/v1/mcp/tools"
    absent = absent or "receipts" in route.path
    expected = {200, 400, 403, 404} if absent else {200, 403}
    assert response.status_code in expected, response.text
    text = response.text + str(response.headers)
    ids: list[object] = [
        victim.log_id,
        victim.conversation_id,
        victim.template_id,
        victim.receipt_id,
        *victim.mcp.values(),
    ]
    ids += [victim.issued.project_id, victim.issued.id]
    for secret in (CANARY, *map(str, ids)):
        assert secret not in text
    assert await victim.everything(ring) == before


@pytest.mark.parametrize("filter", ["log_id", "model", "id_at_origin"])
async def test_filters_match_only_the_callers_project(
    filter: str, ring: Ring, db: AsyncDatabaseManager, victim: Victim
) -> None:
    key = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    value = str(victim.log_id) if filter == "log_id" else CANARY
    transport = httpx.ASGITransport(app=build(db))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/api/v1/logs", "/api/v1/logs/export?format=jsonl"):
            response = await client.get(
                path, params={filter: value}, headers={"X-API-Key": key.secret}
            )
            assert CANARY not in response.text


@pytest.mark.parametrize("route", OURS, ids=route_name)
async def test_every_route_requires_a_valid_key_with_its_scope(
    route: Route, db: AsyncDatabaseManager, ring: Ring, victim: Victim
) -> None:
    project = f"project {uuid4()}"
    revoked = await ring.keys.issue(project, actor=LIBRARY)
    await ring.keys.revoke(revoked.id, actor=LIBRARY)
    keys = [(401, revoked)]
    for missing in route.scopes:
        others = [scope for scope in PROJECT_SCOPES if scope != missing]
        keys.append((403, await ring.keys.issue(project, KeyOptions(scopes=others), actor=LIBRARY)))
    for expected, key in keys:
        intruder = Intruder(db, "keys", key)
        async with intruder.client:
            for id in (victim.id_for(route), str(uuid4())) if route in WITH_ID else ("",):
                assert (await intruder.ask(route, id)).status_code == expected
    nobody = Intruder(db, "keys", IssuedKey("", "", ProjectId(uuid4())))
    async with nobody.client:
        id = victim.id_for(route) if route in WITH_ID else ""
        assert (await nobody.ask(route, id)).status_code == 401
