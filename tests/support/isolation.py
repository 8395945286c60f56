"""An intruder that sends every request, and a victim in another project."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.keys import IssuedKey, KeyOptions
from llmring_server.aliases import BindAlias
from llmring_server.conversations.models import NewConversation, NewMessage
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES, Caller, ProjectId
from llmring_server.mcp import (
    CapabilityRefresh,
    NewMcpServer,
    NewToolExecution,
    OfferedPrompt,
    OfferedResource,
    OfferedTool,
)
from llmring_server.receipts.models import ReceiptRequest
from llmring_server.templates.models import NewTemplate
from llmring_server.usage.models import NewCall
from llmring_server.web.router import Route
from tests.access.test_trusted_proxy import SECRETS, proxy_headers
from tests.conftest import CALL
from tests.support.conversations import EXCHANGE
from tests.support.mcp import SERVER
from tests.support.signing import LEGACY_RECEIPT, SEED, keyring
from tests.support.templates import NEW_TEMPLATE

CANARY = f"canary-{uuid4().hex}"


@dataclass
class Victim:
    """A project with one object of each kind."""

    issued: IssuedKey
    log_id: UUID
    template_id: UUID
    conversation_id: UUID
    receipt_id: str
    mcp: dict[str, UUID]

    def id_for(self, route: Route) -> str:
        """Return the id of the victim's object that `route` takes."""
        ids = {
            "logs": self.log_id,
            "keys": self.issued.id,
            "templates": self.template_id,
            "conversations": self.conversation_id,
            "receipts": self.receipt_id,
        }
        kinds = route.path.removeprefix("/api/v1").removeprefix("/mcp").split("/")
        return str((ids | self.mcp)[kinds[1]])

    async def everything(self, ring: Ring) -> list[Any]:
        """Return all data of the victim."""
        mine = self.issued.project_id
        return [
            await ring.usage.logs(mine),
            await ring.templates.get(mine, self.template_id),
            await ring.aliases.list(mine),
            await ring.receipts.list(mine),
            await ring.receipts.uncertified(mine),
            await ring.conversations.get(mine, self.conversation_id),
            await ring.conversations.messages(mine, self.conversation_id),
            await ring.mcp.servers.list(mine),
            await ring.mcp.capabilities.get(mine, "tool", self.mcp["tools"]),
            await ring.mcp.capabilities.get_content(mine, "resource", self.mcp["resources"]),
            await ring.mcp.capabilities.get_content(mine, "prompt", self.mcp["prompts"]),
            await ring.mcp.executions.history(mine, self.mcp["tools"]),
        ]


async def victim_of(ring: Ring) -> Victim:
    """Create a victim."""
    issued = await ring.keys.issue(
        f"{CANARY} {uuid4()}", KeyOptions(f"{CANARY}", PROJECT_SCOPES), actor=LIBRARY
    )
    labels = dict.fromkeys(("model", "alias", "profile", "origin", "id_at_origin"), CANARY)
    entry = NewCall.model_validate(CALL | labels | {"metadata": {CANARY: CANARY}})
    log_id = (await ring.usage.log(issued.project_id, entry)).log_id
    new = NewTemplate(name=CANARY, created_by=CANARY, system_prompt=CANARY)
    template = await ring.templates.create(issued.project_id, new, actor=LIBRARY, may_share=True)
    bind = BindAlias(alias="fast", model=f"openai:{CANARY}", metadata={CANARY: CANARY})
    await ring.aliases.bind(issued.project_id, bind)
    id = (await ring.conversations.create(issued.project_id, NewConversation(title=CANARY))).id
    message = NewMessage(role=CANARY[:50], content=CANARY, metadata={CANARY: CANARY})
    await ring.conversations.append(issued.project_id, id, [message])
    signing = Ring(ring.db, Settings(), keyring()).receipts
    request = ReceiptRequest(log_ids=[log_id], description=CANARY, tags=[CANARY[:100]])
    receipt = (await signing.generate(issued.project_id, request))["receipt"]
    return Victim(
        issued,
        log_id,
        template.id,
        id,
        receipt["receipt_id"],
        await mcp_of(ring, issued.project_id),
    )


async def mcp_of(ring: Ring, project_id: ProjectId) -> dict[str, UUID]:
    """Register a server with a tool, a resource and a prompt; return their ids by kind."""
    new = NewMcpServer(name=CANARY, url=f"http://{CANARY}", transport_type="http")
    server = await ring.mcp.servers.register(
        project_id, new.model_copy(update={"capabilities": {}})
    )
    offers = CapabilityRefresh(
        tools=[OfferedTool(name=CANARY, description=CANARY, input_schema={CANARY: CANARY})],
        resources=[OfferedResource(uri=CANARY, content=CANARY)],
        prompts=[OfferedPrompt(name=CANARY, content=CANARY)],
    )
    found = await ring.mcp.capabilities.refresh(project_id, server.id, offers)
    [tool], [resource], [prompt] = found.tools, found.resources, found.prompts
    execution = NewToolExecution(input={CANARY: CANARY}, error=CANARY)
    await ring.mcp.executions.record(project_id, tool.id, execution)
    return {
        "servers": server.id,
        "tools": tool.id,
        "resources": resource.id,
        "prompts": prompt.id,
    }


MODES = ("keys", "proxy", "parent")


# Request bodies; routes that are not listed take none.
BODIES: dict[str, Any] = {
    "POST /api/v1/log": CALL,
    "POST /api/v1/logs/batch": [CALL],
    "POST /api/v1/conversations": {"title": "mine"},
    "PATCH /api/v1/conversations/{id}": {"title": "mine"},
    "POST /api/v1/conversations/log": EXCHANGE,
    "POST /api/v1/conversations/{id}/messages": {"role": "user", "content": "mine"},
    "POST /api/v1/conversations/{id}/messages/batch": {"messages": [{"role": "user"}]},
    "POST /api/v1/keys": {},
    "POST /api/v1/keys/{id}/rotate": {},
    "POST /api/v1/templates": NEW_TEMPLATE,
    "PUT /api/v1/templates/{id}": {"name": "mine"},
    "PATCH /api/v1/templates/{id}": {"description": None},
    "POST /api/v1/templates/{id}/render": {"variables": {"who": "me"}},
    "POST /api/v1/aliases/bind": {"alias": "fast", "model": "openai:mine"},
    "POST /api/v1/aliases/bulk_upsert": [{"alias": "fast", "model": "openai:mine"}],
    "PUT /api/v1/aliases/{alias:path}": {"model": "openai:mine"},
    "POST /api/v1/receipts": {"receipt": LEGACY_RECEIPT},
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


def route_name(route: Route) -> str:
    return f"{route.method} {route.path}"


def request_of(route: Route, id: str, log_id: UUID | None = None) -> tuple[str, str, bytes]:
    """Return the method, the target and the body of a request."""
    name = route_name(route)
    method, path = name.split(" ")
    target = path.replace("{id}", id).replace("{version}", "1").replace("{alias:path}", "fast")
    target = target.replace("{log_id}", str(log_id))
    if method == "GET":
        target += QUERIES.get(path, "")
    return method, target, orjson.dumps(BODIES[name]) if name in BODIES else b""


@pytest.fixture(scope="module")
async def victim(db: AsyncDatabaseManager) -> Victim:
    """One victim for all tests of a module: each test checks that its data is unchanged."""
    return await victim_of(Ring(db, Settings(conversation_content="full")))


class Intruder:
    """A caller of another project, with all scopes there, in one of the modes."""

    def __init__(self, db: AsyncDatabaseManager, mode: str, key: IssuedKey) -> None:
        self.mode, self.key = mode, key
        secrets = SECRETS if mode == "proxy" else ()
        settings = Settings.model_validate(
            {"auth": mode, "proxy_secrets": secrets, "receipts_private_key_b64": SEED}
        )
        caller = Caller(key.project_id, frozenset(PROJECT_SCOPES), "intruder")
        word: Callable[[Any], Any] | None = (lambda _: caller) if mode == "parent" else None
        transport = httpx.ASGITransport(app=build(db, settings, word))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def ask(self, route: Route, id: str = "", log_id: UUID | None = None) -> httpx.Response:
        return await self.send(*request_of(route, id, log_id))

    async def send(self, method: str, target: str, body: bytes = b"") -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        if self.mode == "proxy":
            headers |= proxy_headers(method, target, body=body, project=str(self.key.project_id))
        else:
            headers |= {"X-API-Key": self.key.secret}
        return await self.client.request(method, target, content=body, headers=headers)


@pytest.fixture(params=MODES)
async def intruder(
    request: pytest.FixtureRequest, db: AsyncDatabaseManager, ring: Ring
) -> AsyncIterator[Intruder]:
    key = await ring.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY
    )
    intruder = Intruder(db, request.param, key)
    async with intruder.client:
        yield intruder
