"""Every route, in every mode: what belongs to another project is not there."""

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from pgdbm import AsyncDatabaseManager
from starlette.routing import Route

from llmring_server import Ring, Settings, build
from llmring_server.caller import ALL, Caller
from llmring_server.keys import Issued, Wanted
from llmring_server.tenant import Tenant
from llmring_server.web.endpoint import Endpoint
from llmring_server.web.routes import API
from tests.conftest import CALL
from tests.signers import OLD, SEED
from tests.test_exchanges import SENT
from tests.test_gateway import SECRETS, vouch
from tests.test_mcp_servers import SENT as SERVER
from tests.test_templates import NEW
from tests.victim import CANARY, Victim, victim_of

MODES = ("keys", "gateway", "parent")

# What routes with a body take; a route without a line here takes none.
BODIES: dict[str, Any] = {
    "POST /api/v1/log": CALL,
    "POST /api/v1/logs/batch": [CALL],
    "POST /api/v1/conversations": {"title": "mine"},
    "PATCH /api/v1/conversations/{id}": {"title": "mine"},
    "POST /api/v1/conversations/log": SENT,
    "POST /api/v1/conversations/{id}/messages": {"role": "user", "content": "mine"},
    "POST /api/v1/conversations/{id}/messages/batch": {"messages": [{"role": "user"}]},
    "POST /api/v1/keys": {},
    "POST /api/v1/keys/{id}/rotate": {},
    "POST /api/v1/templates": NEW,
    "PUT /api/v1/templates/{id}": {"name": "mine"},
    "PATCH /api/v1/templates/{id}": {"description": None},
    "POST /api/v1/templates/{id}/render": {"variables": {"who": "me"}},
    "POST /api/v1/aliases/bind": {"alias": "fast", "model": "openai:mine"},
    "POST /api/v1/aliases/bulk_upsert": [{"alias": "fast", "model": "openai:mine"}],
    "PUT /api/v1/aliases/{alias:path}": {"model": "openai:mine"},
    "POST /api/v1/receipts": {"receipt": OLD},
    "POST /api/v1/receipts/generate": {"since_last_receipt": True},
    "POST /api/v1/receipts/preview": {"since_last_receipt": True},
    "POST /api/v1/receipts/issue": {"log_id": str(uuid4())},
    "POST /api/v1/mcp/servers": SERVER,
    "PUT /api/v1/mcp/servers/{id}": {"name": "mine"},
    "PATCH /api/v1/mcp/servers/{id}": {"name": "mine"},
    "POST /api/v1/mcp/servers/{id}/refresh": {"tools": [{"name": "mine"}]},
    "POST /api/v1/mcp/tools": {"server_id": str(uuid4()), "name": "mine"},
    "POST /api/v1/mcp/tools/{id}/acknowledge": {"definition_sha256": "0" * 64},
    "POST /api/v1/mcp/tools/{id}/execute": {"input": {}},
    "PUT /api/v1/mcp/resources/{id}/content": {"content": "mine"},
    "PUT /api/v1/mcp/prompts/{id}/content": {"content": "mine"},
    "POST /api/v1/mcp/prompts/{id}/render": {},
}
QUERIES = {
    "/api/v1/prices": "?provider=openai&model=gpt-4o",
    "/api/v1/aliases/resolve": "?alias=fast",
    **dict.fromkeys(("/conversations", "/api/v1/conversations"), f"?q={CANARY}"),
}


def needed(route: Route) -> str | None:
    assert isinstance(route.app, Endpoint)
    return route.app.needs


def named(route: Route) -> str:
    return f"{min(route.methods or ())} {route.path}".replace("HEAD", "GET")


OURS = [route for route in API if needed(route)]
WITH_ID = [route for route in OURS if "id" in route.param_convertors]
# An alias is no id: each tenant has names of its own.
WITHOUT_ID = [route for route in OURS if route not in WITH_ID]


@pytest.fixture
async def victim(ring: Ring) -> Victim:
    return await victim_of(ring)


class Intruder:
    """Someone of a project of their own, who may do anything there, in one of the modes."""

    def __init__(self, db: AsyncDatabaseManager, mode: str, key: Issued) -> None:
        self.mode, self.key = mode, key
        secrets = SECRETS if mode == "gateway" else ()
        settings = Settings.model_validate(
            {"auth": mode, "gateway_secrets": secrets, "receipts_private_key_b64": SEED}
        )
        caller = Caller(key.tenant, frozenset(ALL), "intruder")
        word: Callable[[Any], Any] | None = (lambda _: caller) if mode == "parent" else None
        transport = httpx.ASGITransport(app=build(db, settings, word))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def ask(self, route: Route, id: str = "") -> httpx.Response:
        name = named(route)
        method, path = name.split(" ")
        target = path.replace("{id}", id).replace("{version}", "1").replace("{alias:path}", "fast")
        target = target.replace("{log_id}", str(uuid4()))
        target += QUERIES.get(path, "")
        return await self.send(
            method, target, orjson.dumps(BODIES[name]) if name in BODIES else b""
        )

    async def send(self, method: str, target: str, body: bytes = b"") -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        if self.mode == "gateway":
            headers |= vouch(method, target, body=body, project=str(self.key.tenant))
        else:
            headers |= {"X-API-Key": self.key.secret}
        return await self.client.request(method, target, content=body, headers=headers)


@pytest.fixture(params=MODES)
async def intruder(
    request: pytest.FixtureRequest, db: AsyncDatabaseManager, ring: Ring
) -> AsyncIterator[Intruder]:
    key = await ring.keys.issue(f"project {uuid4()}", Wanted(scopes=ALL))
    intruder = Intruder(db, request.param, key)
    async with intruder.client:
        yield intruder


def seen(answer: httpx.Response) -> tuple[int, bytes]:
    """Return all that an answer tells, but for the id of its request."""
    return answer.status_code, answer.content.replace(answer.headers["X-Request-ID"].encode(), b"")


@pytest.mark.parametrize("route", WITH_ID, ids=named)
async def test_another_s_thing_is_as_one_that_never_was(
    route: Route, intruder: Intruder, victim: Victim, ring: Ring
) -> None:
    before = await victim.everything(ring)
    theirs = await intruder.ask(route, victim.id_for(route))
    never = await intruder.ask(route, "00000000" if "keys" in route.path else str(uuid4()))
    assert seen(theirs) == seen(never)
    # A gateway's users are nobody's admins: 403.
    forbidden = needed(route) == "admin" and intruder.mode == "gateway"
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
    absent = "alias" in route.param_convertors or named(route) == "POST /api/v1/mcp/tools"
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
    ids += [victim.issued.tenant, victim.issued.id]
    for secret in (CANARY, *map(str, ids)):
        assert secret not in told
    assert await victim.everything(ring) == before


@pytest.mark.parametrize("filter", ["log_id", "model", "id_at_origin"])
async def test_a_filter_finds_nothing_of_another(
    filter: str, ring: Ring, db: AsyncDatabaseManager, victim: Victim
) -> None:
    key = await ring.keys.issue(f"project {uuid4()}")
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
    revoked = await ring.keys.issue(project)
    await ring.keys.revoke(revoked.id)
    other = next(scope for scope in ALL if scope != needed(route))
    keys = {401: revoked, 403: await ring.keys.issue(project, Wanted(scopes=[other]))}
    for expected, key in keys.items():
        intruder = Intruder(db, "keys", key)
        async with intruder.client:
            for id in (victim.id_for(route), str(uuid4())) if route in WITH_ID else ("",):
                assert (await intruder.ask(route, id)).status_code == expected
    nobody = Intruder(db, "keys", Issued("", "", Tenant(uuid4())))
    async with nobody.client:
        id = victim.id_for(route) if route in WITH_ID else ""
        assert (await nobody.ask(route, id)).status_code == 401
