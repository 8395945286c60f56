"""Another project, with one of everything: what the tests of isolation look for."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from starlette.routing import Route

from llmring_server import Ring, Settings
from llmring_server.aliases import Bind
from llmring_server.caller import ALL
from llmring_server.entry import Entry
from llmring_server.keys import Issued, Wanted
from llmring_server.messages import Said
from llmring_server.template import New
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

    def id_for(self, route: Route) -> str:
        """Return the id of something of theirs that `route` would find for them."""
        ids = {
            "logs": self.log_id,
            "keys": self.issued.id,
            "templates": self.template_id,
            "conversations": self.conversation_id,
            "receipts": self.receipt_id,
        }
        return str(ids[route.path.removeprefix("/api/v1").split("/")[1]])

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
        ]


async def victim_of(ring: Ring) -> Victim:
    """Make one."""
    issued = await ring.keys.issue(f"{CANARY} {uuid4()}", Wanted(f"{CANARY}", ALL))
    labels = dict.fromkeys(("model", "alias", "profile", "origin", "id_at_origin"), CANARY)
    entry = Entry.model_validate(CALL | labels | {"metadata": {CANARY: CANARY}})
    log_id = (await ring.usage.log(issued.tenant, entry)).log_id
    new = New(name=CANARY, created_by=CANARY, system_prompt=CANARY)
    template = await ring.templates.create(issued.tenant, new)
    bind = Bind(alias="fast", model=f"openai:{CANARY}", metadata={CANARY: CANARY})
    await ring.aliases.bind(issued.tenant, bind)
    id = (await ring.conversations.create(issued.tenant, Heading(title=CANARY))).id
    said = Said(role=CANARY[:50], content=CANARY, metadata={CANARY: CANARY})
    await ring.conversations.append(issued.tenant, id, [said])
    signing = Ring(ring.db, Settings(), keyring()).receipts
    wanted = Certified(log_ids=[log_id], description=CANARY, tags=[CANARY[:100]])
    receipt = (await signing.generate(issued.tenant, wanted))["receipt"]
    return Victim(issued, log_id, template.id, id, receipt["receipt_id"])
