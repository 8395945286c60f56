"""Another project, with one of everything: what the tests of isolation look for."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from starlette.routing import Route

from llmring_server import Ring, Settings
from llmring_server.aliases import Bind
from llmring_server.caller import LIBRARY, PROJECT_SCOPES
from llmring_server.entry import Entry
from llmring_server.keys import Issued, Wanted
from llmring_server.mcp_executions import Done
from llmring_server.mcp_offer import Offers, PromptOffer, ResourceOffer, ToolOffer
from llmring_server.mcp_server import NewServer
from llmring_server.messages import Said
from llmring_server.template import New
from llmring_server.tenant import Tenant
from llmring_server.threads import Heading
from llmring_server.wanted import Wanted as Certified
from tests.conftest import CALL
from tests.signers import keyring

CANARY = f"canary-{uuid4().hex}"


@dataclass
class Victim:
    """Another project, with one of everything."""

    issued: Issued
    log_id: UUID
    template_id: UUID
    conversation_id: UUID
    receipt_id: str
    mcp: dict[str, UUID]

    def id_for(self, route: Route) -> str:
        """Return the id of something of theirs that `route` would find for them."""
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
        """Return what they have."""
        mine = self.issued.tenant
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
            await ring.mcp.capabilities.stored(mine, "resource", self.mcp["resources"]),
            await ring.mcp.capabilities.stored(mine, "prompt", self.mcp["prompts"]),
            await ring.mcp.executions.history(mine, self.mcp["tools"]),
        ]


async def victim_of(ring: Ring) -> Victim:
    """Make one."""
    issued = await ring.keys.issue(
        f"{CANARY} {uuid4()}", Wanted(f"{CANARY}", PROJECT_SCOPES), actor=LIBRARY
    )
    labels = dict.fromkeys(("model", "alias", "profile", "origin", "id_at_origin"), CANARY)
    entry = Entry.model_validate(CALL | labels | {"metadata": {CANARY: CANARY}})
    log_id = (await ring.usage.log(issued.tenant, entry)).log_id
    new = New(name=CANARY, created_by=CANARY, system_prompt=CANARY)
    template = await ring.templates.create(issued.tenant, new, actor=LIBRARY, may_share=True)
    bind = Bind(alias="fast", model=f"openai:{CANARY}", metadata={CANARY: CANARY})
    await ring.aliases.bind(issued.tenant, bind)
    id = (await ring.conversations.create(issued.tenant, Heading(title=CANARY))).id
    said = Said(role=CANARY[:50], content=CANARY, metadata={CANARY: CANARY})
    await ring.conversations.append(issued.tenant, id, [said])
    signing = Ring(ring.db, Settings(), keyring()).receipts
    wanted = Certified(log_ids=[log_id], description=CANARY, tags=[CANARY[:100]])
    receipt = (await signing.generate(issued.tenant, wanted))["receipt"]
    return Victim(
        issued, log_id, template.id, id, receipt["receipt_id"], await mcp_of(ring, issued.tenant)
    )


async def mcp_of(ring: Ring, tenant: Tenant) -> dict[str, UUID]:
    """Make a server with one of everything; return their ids, by kind."""
    new = NewServer(name=CANARY, url=f"http://{CANARY}", transport_type="http")
    server = await ring.mcp.servers.register(tenant, new.model_copy(update={"capabilities": {}}))
    offers = Offers(
        tools=[ToolOffer(name=CANARY, description=CANARY, input_schema={CANARY: CANARY})],
        resources=[ResourceOffer(uri=CANARY, content=CANARY)],
        prompts=[PromptOffer(name=CANARY, content=CANARY)],
    )
    found = await ring.mcp.capabilities.refresh(tenant, server.id, offers)
    [tool], [resource], [prompt] = found.tools, found.resources, found.prompts
    done = Done(input={CANARY: CANARY}, error=CANARY)
    await ring.mcp.executions.record(tenant, tool.id, done)
    return {
        "servers": server.id,
        "tools": tool.id,
        "resources": resource.id,
        "prompts": prompt.id,
    }
