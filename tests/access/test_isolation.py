"""Every route, in every mode: what belongs to another project is not there."""

from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, build
from llmring_server.access.keys import IssuedKey, KeyOptions
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES, ProjectId
from llmring_server.routes import API
from llmring_server.web.router import Route
from tests.support.isolation import CANARY, Intruder, Victim, intruder, named, victim

__all__ = ["intruder", "victim"]


OURS = [route for route in API if route.scopes]
WITH_ID = [route for route in OURS if "id" in route.path_params]
# An alias is no id: each project has names of its own.
WITHOUT_ID = [route for route in OURS if route not in WITH_ID]


def seen(answer: httpx.Response) -> tuple[int, bytes]:
    """Return all that an answer tells, but for the id of its request."""
    return answer.status_code, answer.content.replace(answer.headers["X-Request-ID"].encode(), b"")


@pytest.mark.parametrize("route", WITH_ID, ids=named)
async def test_another_s_thing_is_as_one_that_never_was(
    route: Route, intruder: Intruder, victim: Victim, ring: Ring
) -> None:
    before = await victim.everything(ring)
    theirs = await intruder.ask(route, victim.id_for(route), victim.log_id)
    never = await intruder.ask(
        route, "00000000" if "keys" in route.path else str(uuid4()), victim.log_id
    )
    assert seen(theirs) == seen(never)
    # A proxy's users are nobody's admins: 403.
    forbidden = route.scope == "admin" and intruder.mode == "proxy"
    assert theirs.status_code == (403 if forbidden else 404)
    assert await ring.keys.caller(victim.issued.secret)
    assert await victim.everything(ring) == before


@pytest.mark.parametrize("route", WITHOUT_ID, ids=named)
async def test_no_answer_tells_of_another(
    route: Route, intruder: Intruder, victim: Victim, ring: Ring
) -> None:
    before = await victim.everything(ring)
    answer = await intruder.ask(route)
    # There is no such alias, server or call of theirs: 404, and 400.
    absent = "alias" in route.path_params or named(route) == "POST /api/v1/mcp/tools"
    absent = absent or "receipts" in route.path
    expected = {200, 400, 403, 404} if absent else {200, 403}
    assert answer.status_code in expected, answer.text
    told = answer.text + str(answer.headers)
    ids: list[object] = [
        victim.log_id,
        victim.conversation_id,
        victim.template_id,
        victim.receipt_id,
        *victim.mcp.values(),
    ]
    ids += [victim.issued.project_id, victim.issued.id]
    for secret in (CANARY, *map(str, ids)):
        assert secret not in told
    assert await victim.everything(ring) == before


@pytest.mark.parametrize("filter", ["log_id", "model", "id_at_origin"])
async def test_a_filter_finds_nothing_of_another(
    filter: str, ring: Ring, db: AsyncDatabaseManager, victim: Victim
) -> None:
    key = await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)
    value = str(victim.log_id) if filter == "log_id" else CANARY
    transport = httpx.ASGITransport(app=build(db))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/api/v1/logs", "/api/v1/logs/export?format=jsonl"):
            answer = await client.get(
                path, params={filter: value}, headers={"X-API-Key": key.secret}
            )
            assert CANARY not in answer.text


@pytest.mark.parametrize("route", OURS, ids=named)
async def test_no_route_answers_who_may_not_ask(
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
