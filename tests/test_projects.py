"""Projects: what owns data, and how all of it goes."""

from uuid import uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.aliases import Bind
from llmring_server.caller import LIBRARY
from llmring_server.errors import Conflict, Invalid, NotFound, RingError
from llmring_server.mcp_executions import Done
from llmring_server.mcp_offer import Offers, ToolOffer
from llmring_server.messages import Said
from llmring_server.template import Change, New
from llmring_server.tenant import Tenant
from llmring_server.wanted import Wanted
from tests.signers import keyring
from tests.test_mcp_servers import SERVER
from tests.test_prices import NOW, call, override
from tests.test_rerating import rerate

# What an erasure leaves: that it happened.
LEFT = {"audit_events"}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmring_server.projects.LATECOMERS", 0)


async def owned(db: AsyncDatabaseManager, tenant: Tenant) -> dict[str, int]:
    """Count what every table has of a tenant."""
    tables = await db.fetch_all(
        "SELECT table_name AS name, format('SELECT count(*) FROM %I.%I WHERE tenant = $1',"
        " table_schema, table_name) AS question"
        " FROM information_schema.columns JOIN information_schema.tables"
        " USING (table_schema, table_name)"
        " WHERE table_schema IN ($1::text, $1::text || '_mcp') AND column_name = 'tenant'"
        " AND table_type = 'BASE TABLE' AND table_name !~ '^usage_logs_'",
        db.schema,
    )
    return {row["name"]: await db.fetch_value(row["question"], tenant) for row in tables}


async def filled(ring: Ring) -> Tenant:
    """Make a project with something in every table."""
    tenant = (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).tenant
    model = f"m-{uuid4().hex}"
    await ring.usage.log_many(tenant, [call(model) for _ in range(7)], "key")
    conversation = await ring.conversations.create(tenant)
    await ring.conversations.append(tenant, conversation.id, [Said(role="user")] * 7)
    await ring.prices.override(override(model, 1), actor=LIBRARY)
    await rerate(ring, model)
    await ring.prices.withdraw("acme", model, actor=LIBRARY)
    template = await ring.templates.create(
        tenant, New(name="t", created_by="ada"), actor=LIBRARY, may_share=True
    )
    await ring.templates.change(
        tenant, template.id, Change(model=model), actor=LIBRARY, may_share=True
    )
    await ring.aliases.bind(tenant, Bind(alias="fast", model=f"acme:{model}"))
    await Ring(ring.db, Settings(), keyring()).receipts.generate(
        tenant, Wanted(since_last_receipt=True)
    )
    server = await ring.mcp.servers.register(tenant, SERVER)
    offers = Offers(tools=[ToolOffer(name=f"t{number}") for number in range(7)])
    tool = (await ring.mcp.capabilities.refresh(tenant, server.id, offers)).tools[0]
    for _ in range(7):
        await ring.mcp.executions.record(tenant, tool.id, Done(input={}))
    return tenant


async def test_erasing_a_project_leaves_nothing_of_it_and_all_of_the_others(
    owner: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Ring(owner)
    monkeypatch.setattr("llmring_server.projects.AT_ONCE", 3)
    mine, other = await filled(ring), await filled(ring)
    before = await owned(owner, other)
    assert min(before.values()) > 0, "a table that no test fills"
    batches: list[tuple[str, int]] = []
    gone = await ring.projects.erase(mine, actor=LIBRARY, progress=batches.append)
    assert gone["calls"] == 7
    assert [rows for what, rows in batches if what == "calls"] == [3, 3, 1]
    assert sum(rows for _, rows in batches) == sum(gone.values())
    left = await owned(owner, mine)
    assert {name for name, count in left.items() if count} == LEFT
    assert await owned(owner, other) == before
    assert (await ring.audit.events(NOW, mine))[0].action == "project.erase"
    assert await ring.projects.erase(mine, actor=LIBRARY) == {}


async def test_projects_are_made_found_and_renamed(ring: Ring) -> None:
    name, other = f"project {uuid4()}", f"project {uuid4()}"
    tenant = await ring.projects.create(name, actor=LIBRARY)
    with pytest.raises(Conflict):
        await ring.projects.create(name, actor=LIBRARY)
    await ring.projects.rename(tenant, other, actor=LIBRARY)
    assert await ring.projects.find(other) == await ring.projects.find(str(tenant)) == tenant
    with pytest.raises(NotFound):
        await ring.projects.find(name)
    await ring.keys.issue(other, actor=LIBRARY)
    [found] = [each for each in await ring.projects.list() if each.tenant == tenant]
    assert (found.name, found.keys) == (other, 1)


@pytest.mark.parametrize("name", ["", "  ", "x" * 129])
async def test_a_project_has_a_name(ring: Ring, name: str) -> None:
    with pytest.raises(Invalid):
        await ring.projects.create(name, actor=LIBRARY)


async def test_no_key_is_made_for_a_project_that_is_gone(owner: AsyncDatabaseManager) -> None:
    ring = Ring(owner)
    tenant = (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).tenant
    await ring.projects.erase(tenant, actor=LIBRARY)
    with pytest.raises(RingError):
        await ring.keys.issue_for(tenant, actor=LIBRARY)
