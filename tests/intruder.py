"""Someone of another project, who asks for everything."""

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from pgdbm import AsyncDatabaseManager
from starlette.routing import Route

from llmring_server import Ring, Settings, build
from llmring_server.caller import LIBRARY, PROJECT_SCOPES, Caller
from llmring_server.keys import Issued, Wanted
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


def named(route: Route) -> str:
    return f"{min(route.methods or ())} {route.path}".replace("HEAD", "GET")


@pytest.fixture(scope="module")
async def victim(db: AsyncDatabaseManager) -> Victim:
    """One for all tests of a module: each of them checks that it still has what it had."""
    return await victim_of(Ring(db, Settings(conversation_content="full")))


class Intruder:
    """Someone of a project of their own, who may do anything there, in one of the modes."""

    def __init__(self, db: AsyncDatabaseManager, mode: str, key: Issued) -> None:
        self.mode, self.key = mode, key
        secrets = SECRETS if mode == "gateway" else ()
        settings = Settings.model_validate(
            {"auth": mode, "gateway_secrets": secrets, "receipts_private_key_b64": SEED}
        )
        caller = Caller(key.tenant, frozenset(PROJECT_SCOPES), "intruder")
        word: Callable[[Any], Any] | None = (lambda _: caller) if mode == "parent" else None
        transport = httpx.ASGITransport(app=build(db, settings, word))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def ask(self, route: Route, id: str = "", log_id: UUID | None = None) -> httpx.Response:
        name = named(route)
        method, path = name.split(" ")
        target = path.replace("{id}", id).replace("{version}", "1").replace("{alias:path}", "fast")
        target = target.replace("{log_id}", str(log_id))
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
    key = await ring.keys.issue(f"project {uuid4()}", Wanted(scopes=PROJECT_SCOPES), actor=LIBRARY)
    intruder = Intruder(db, request.param, key)
    async with intruder.client:
        yield intruder
