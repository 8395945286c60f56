"""`llmring-server mcp`, as an operator uses it."""

from uuid import UUID, uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.mcp.executions import NewExecution
from llmring_server.mcp.models import PromptIn, RefreshRequest, ResourceIn, ToolIn
from llmring_server.mcp.servers import ServerChange
from tests.cli.test_access import PROD, prod
from tests.cli.test_db import done, run
from tests.mcp.test_servers import SERVER

__all__ = ["prod"]

Project = tuple[str, ProjectId]


@pytest.fixture
async def project(ring: Ring) -> Project:
    name = f"project {uuid4().hex}"
    return name, await ring.projects.create(name, actor=LIBRARY)


async def offered(ring: Ring, project_id: ProjectId, description: str) -> tuple[UUID, UUID]:
    """Make a server; return its id, and that of its tool."""
    server = await ring.mcp.servers.register(project_id, SERVER)
    for each in ("Adds", description):
        offers = RefreshRequest(
            tools=[ToolIn(name="add", description=each)],
            resources=[ResourceIn(uri="file:///README")],
            prompts=[PromptIn(name="greet")],
        )
        found = await ring.mcp.capabilities.refresh(project_id, server.id, offers)
    return server.id, found.tools[0].id


async def test_servers_are_listed(ring: Ring, project: Project, prod: dict[str, str]) -> None:
    name, project_id = project
    id, _ = await offered(ring, project_id, "x")
    other = await ring.mcp.servers.register(project_id, SERVER)
    await ring.mcp.servers.change(project_id, other.id, ServerChange(is_active=False))
    listed = done("mcp", "list", "--project", name, *PROD, **prod).replace("\n", "")
    assert "calc" in listed
    assert "inactive" not in listed
    assert "inactive" in done("mcp", "list", "--all", "--project", name, *PROD, **prod)
    assert str(id) in listed


async def test_a_server_is_shown_with_what_has_changed(
    ring: Ring, project: Project, prod: dict[str, str]
) -> None:
    name, project_id = project
    id, _ = await offered(ring, project_id, "Sends [bold] mail\x1b[31m")
    shown = done("mcp", "show", str(id), "--project", name, *PROD, **prod)
    for told in ("add", "greet", "changed", "[bold]", "http://localhost:8080/mcp"):
        assert told in shown
    assert "\x1b" not in shown
    await ring.mcp.capabilities.refresh(project_id, id, RefreshRequest())
    assert "inactive" in done("mcp", "show", str(id), "--project", name, *PROD, **prod)
    missing = run("mcp", "show", str(uuid4()), "--project", name, *PROD, **prod)
    assert (missing.returncode, "Not found" in missing.stderr) == (1, True)


async def test_all_is_listed_and_shown_however_many_pages_that_are(
    ring: Ring, project: Project, prod: dict[str, str]
) -> None:
    name, project_id = project
    large = SERVER.model_copy(update={"capabilities": {"a": "x" * 65_000}})
    ids = [(await ring.mcp.servers.register(project_id, large)).id for _ in range(140)]
    listed = done("mcp", "list", "--project", name, *PROD, **prod)
    assert all(str(id) in listed for id in ids)
    for turn in "ab":
        tools = [ToolIn(name=f"{turn}{number}") for number in range(600)]
        await ring.mcp.capabilities.refresh(project_id, ids[0], RefreshRequest(tools=tools))
    shown = done("mcp", "show", str(ids[0]), "--project", name, *PROD, **prod)
    assert (shown.count("tool a"), shown.count("tool b")) == (600, 600)


async def test_a_tool_s_history_is_shown(
    ring: Ring, project: Project, prod: dict[str, str]
) -> None:
    name, project_id = project
    _, tool = await offered(ring, project_id, "Adds")
    await ring.mcp.executions.record(
        project_id, tool, NewExecution(input={"a": 1}, duration_ms=1234)
    )
    await ring.mcp.executions.record(
        project_id, tool, NewExecution(input={}, error="Broke " + "x" * 300)
    )
    shown = done("mcp", "history", str(tool), "--project", name, *PROD, **prod)
    assert "2 executions, 1 errors, p50 1,234 ms" in shown
    for told in ("error", '{"a":1}', "Broke"):
        assert told in shown
    last = done("mcp", "history", str(tool), "--limit", "1", "--project", name, *PROD, **prod)
    assert '{"a":1}' not in last


async def test_secrets_are_sealed_again(
    db: AsyncDatabaseManager, project: Project, prod: dict[str, str]
) -> None:
    old, new = "d" * 64, "e" * 64
    ring = Ring(db, Settings.model_validate({"sealing_keys": [old]}))
    secret = {"token": "x"}
    server = await ring.mcp.servers.register(
        project[1], SERVER.model_copy(update={"auth_config": secret})
    )
    run("mcp", "reseal", *PROD, **prod, LLMRING_SEALING_KEYS=f"{new},{old}")
    ring = Ring(db, Settings.model_validate({"sealing_keys": [new]}))
    assert await ring.mcp.servers.secret(project[1], server.id, actor=LIBRARY) == secret
    keyless = run("mcp", "reseal", *PROD, **prod)
    assert "LLMRING_SEALING_KEYS" in keyless.stderr
    wrong = run("mcp", "reseal", *PROD, **prod, LLMRING_SEALING_KEYS="canary")
    assert "64 hex digits" in wrong.stderr
    assert "canary" not in wrong.stderr
