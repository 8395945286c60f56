"""Projects: created, found, renamed, and erased with all of their data."""

from uuid import uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.aliases import BindAlias
from llmring_server.cli.environment import all_projects
from llmring_server.conversations.models import NewMessage
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import Conflict, InvalidRequest, NotFound, RingError
from llmring_server.mcp import CapabilityRefresh, NewToolExecution, OfferedTool
from llmring_server.receipts.models import ReceiptRequest
from llmring_server.templates.models import NewTemplate, TemplateUpdate
from tests.pricing.test_pricing import NOW, call, override
from tests.pricing.test_rerating import rerate
from tests.support.mcp import NEW_SERVER
from tests.support.signing import keyring

# Events in the audit log stay.
LEFT = {"audit_events"}


@pytest.fixture(autouse=True)
def without_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmring_server.access.projects.ERASE_GRACE_SECONDS", 0)


async def count_rows(db: AsyncDatabaseManager, project_id: ProjectId) -> dict[str, int]:
    """Count the rows of a project in every table."""
    tables = await db.fetch_all(
        "SELECT table_name AS name, format('SELECT count(*) FROM %I.%I WHERE project_id = $1',"
        " table_schema, table_name) AS query"
        " FROM information_schema.columns JOIN information_schema.tables"
        " USING (table_schema, table_name)"
        " WHERE table_schema IN ($1::text, $1::text || '_mcp') AND column_name = 'project_id'"
        " AND table_type = 'BASE TABLE' AND table_name !~ '^usage_logs_'",
        db.schema,
    )
    return {row["name"]: await db.fetch_value(row["query"], project_id) for row in tables}


async def create_full_project(ring: Ring) -> ProjectId:
    """Create a project with rows in every table."""
    project_id = (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).project_id
    model = f"m-{uuid4().hex}"
    await ring.usage.log_many(project_id, [call(model) for _ in range(7)], "key")
    conversation = await ring.conversations.create(project_id)
    await ring.conversations.append(project_id, conversation.id, [NewMessage(role="user")] * 7)
    await ring.pricing.override(override(model, 1), actor=LIBRARY)
    await rerate(ring, model)
    await ring.pricing.withdraw("acme", model, actor=LIBRARY)
    template = await ring.templates.create(
        project_id, NewTemplate(name="t", created_by="ada"), actor=LIBRARY, may_share=True
    )
    await ring.templates.update(
        project_id, template.id, TemplateUpdate(model=model), actor=LIBRARY, may_share=True
    )
    await ring.aliases.bind(project_id, BindAlias(alias="fast", model=f"acme:{model}"))
    await Ring(ring.db, Settings(), keyring()).receipts.generate(
        project_id, ReceiptRequest(since_last_receipt=True)
    )
    server = await ring.mcp.servers.register(project_id, NEW_SERVER)
    offers = CapabilityRefresh(tools=[OfferedTool(name=f"t{number}") for number in range(7)])
    tool = (await ring.mcp.capabilities.refresh(project_id, server.id, offers)).tools[0]
    for _ in range(7):
        await ring.mcp.executions.record(project_id, tool.id, NewToolExecution(input={}))
    return project_id


async def test_erase_deletes_all_data_of_one_project_only(
    owner: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Ring(owner)
    monkeypatch.setattr("llmring_server.access.projects.BATCH_SIZE", 3)
    mine, other = await create_full_project(ring), await create_full_project(ring)
    before = await count_rows(owner, other)
    assert min(before.values()) > 0, "a table without rows: extend `create_full_project`"
    batches: list[tuple[str, int]] = []
    erased = await ring.projects.erase(mine, actor=LIBRARY, progress=batches.append)
    assert erased["calls"] == 7
    assert [rows for kind, rows in batches if kind == "calls"] == [3, 3, 1]
    assert sum(rows for _, rows in batches) == sum(erased.values())
    left = await count_rows(owner, mine)
    assert {name for name, count in left.items() if count} == LEFT
    assert await count_rows(owner, other) == before
    assert (await ring.audit.events(NOW, mine))[0].action == "project.erase"
    assert await ring.projects.erase(mine, actor=LIBRARY) == {}


async def test_projects_are_created_found_and_renamed(ring: Ring) -> None:
    name, other = f"project {uuid4()}", f"project {uuid4()}"
    project_id = await ring.projects.create(name, actor=LIBRARY)
    with pytest.raises(Conflict):
        await ring.projects.create(name, actor=LIBRARY)
    await ring.projects.rename(project_id, other, actor=LIBRARY)
    assert (
        await ring.projects.find(other) == await ring.projects.find(str(project_id)) == project_id
    )
    with pytest.raises(NotFound):
        await ring.projects.find(name)
    await ring.keys.issue(other, actor=LIBRARY)
    [found] = [project for project in await all_projects(ring) if project.project_id == project_id]
    assert (found.name, found.keys) == (other, 1)


@pytest.mark.parametrize("name", ["", "  ", "x" * 129])
async def test_an_invalid_name_is_rejected(ring: Ring, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await ring.projects.create(name, actor=LIBRARY)


async def test_no_key_is_issued_for_an_erased_project(owner: AsyncDatabaseManager) -> None:
    ring = Ring(owner)
    project_id = (await ring.keys.issue(f"project {uuid4()}", actor=LIBRARY)).project_id
    await ring.projects.erase(project_id, actor=LIBRARY)
    with pytest.raises(RingError):
        await ring.keys.issue_for(project_id, actor=LIBRARY)
