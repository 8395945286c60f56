"""`llmring-server mcp`: list and show servers, show a tool's history, re-encrypt secrets."""

from pathlib import Path
from uuid import UUID, uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.mcp import (
    CapabilityRefresh,
    McpServerUpdate,
    NewToolExecution,
    OfferedPrompt,
    OfferedResource,
    OfferedTool,
)
from tests.cli.test_access import PROD, prod
from tests.cli.test_db import check_output, run
from tests.support.mcp import NEW_SERVER

__all__ = ["prod"]

Project = tuple[str, ProjectId]


@pytest.fixture
async def project(ring: Ring) -> Project:
    name = f"project {uuid4().hex}"
    return name, await ring.projects.create(name, actor=LIBRARY)


async def make_server(ring: Ring, project_id: ProjectId, description: str) -> tuple[UUID, UUID]:
    """Register a server whose tool changes; return its id, and that of the tool."""
    server = await ring.mcp.servers.register(project_id, NEW_SERVER)
    for text in ("Adds", description):
        request = CapabilityRefresh(
            tools=[OfferedTool(name="add", description=text)],
            resources=[OfferedResource(uri="file:///README")],
            prompts=[OfferedPrompt(name="greet")],
        )
        result = await ring.mcp.capabilities.refresh(project_id, server.id, request)
    return server.id, result.tools[0].id


async def test_list_shows_active_servers_or_all(
    ring: Ring, project: Project, prod: dict[str, str]
) -> None:
    name, project_id = project
    id, _ = await make_server(ring, project_id, "x")
    other = await ring.mcp.servers.register(project_id, NEW_SERVER)
    await ring.mcp.servers.update(project_id, other.id, McpServerUpdate(is_active=False))
    output = check_output("mcp", "list", "--project", name, *PROD, **prod).replace("\n", "")
    assert "calc" in output
    assert "inactive" not in output
    assert "inactive" in check_output("mcp", "list", "--all", "--project", name, *PROD, **prod)
    assert str(id) in output


async def test_show_shows_capabilities_and_what_changed(
    ring: Ring, project: Project, prod: dict[str, str]
) -> None:
    name, project_id = project
    id, _ = await make_server(ring, project_id, "Sends [bold] mail\x1b[31m")
    output = check_output("mcp", "show", str(id), "--project", name, *PROD, **prod)
    for expected in ("add", "greet", "changed", "[bold]", "http://localhost:8080/mcp"):
        assert expected in output
    assert "\x1b" not in output
    await ring.mcp.capabilities.refresh(project_id, id, CapabilityRefresh())
    assert "inactive" in check_output("mcp", "show", str(id), "--project", name, *PROD, **prod)
    missing = run("mcp", "show", str(uuid4()), "--project", name, *PROD, **prod)
    assert (missing.returncode, "Server not found" in missing.stderr) == (1, True)


async def test_list_and_show_read_all_pages(
    ring: Ring, project: Project, prod: dict[str, str]
) -> None:
    name, project_id = project
    large = NEW_SERVER.model_copy(update={"capabilities": {"a": "x" * 65_000}})
    ids = [(await ring.mcp.servers.register(project_id, large)).id for _ in range(140)]
    output = check_output("mcp", "list", "--project", name, *PROD, **prod)
    assert all(str(id) in output for id in ids)
    for prefix in "ab":
        tools = [OfferedTool(name=f"{prefix}{number}") for number in range(600)]
        await ring.mcp.capabilities.refresh(project_id, ids[0], CapabilityRefresh(tools=tools))
    output = check_output("mcp", "show", str(ids[0]), "--project", name, *PROD, **prod)
    assert (output.count("tool a"), output.count("tool b")) == (600, 600)


async def test_history_shows_executions_and_statistics(
    ring: Ring, project: Project, prod: dict[str, str]
) -> None:
    name, project_id = project
    _, tool = await make_server(ring, project_id, "Adds")
    for execution in (
        NewToolExecution(input={"a": 1}, duration_ms=1234),
        NewToolExecution(input={}, error="Broke " + "x" * 300),
    ):
        await ring.mcp.executions.record(project_id, tool, execution)
    output = check_output("mcp", "history", str(tool), "--project", name, *PROD, **prod)
    assert "2 executions, 1 errors, p50 1,234 ms" in output
    for expected in ("error", '{"a":1}', "Broke"):
        assert expected in output
    last = check_output(
        "mcp", "history", str(tool), "--limit", "1", "--project", name, *PROD, **prod
    )
    assert '{"a":1}' not in last


def _words(text: str) -> str:
    """Return a message of the command line without its box."""
    return " ".join(text.replace("│", " ").split())


async def test_reseal_encrypts_secrets_with_the_first_key(
    db: AsyncDatabaseManager, project: Project, prod: dict[str, str], tmp_path: Path
) -> None:
    old, new = "d" * 64, "e" * 64
    _, project_id = project
    secret = {"token": "x"}
    ring = Ring(db, Settings.model_validate({"sealing_keys": [old]}))
    server = await ring.mcp.servers.register(
        project_id, NEW_SERVER.model_copy(update={"auth_config": secret})
    )
    run("mcp", "reseal", *PROD, **prod, LLMRING_SEALING_KEYS=f"{new},{old}")
    ring = Ring(db, Settings.model_validate({"sealing_keys": [new]}))
    assert await ring.mcp.servers.read_secret(project_id, server.id, actor=LIBRARY) == secret
    # It says where the key of a development server is.
    data_dir = ("--data-dir", str(tmp_path))
    other_key = run("mcp", "reseal", *PROD, *data_dir, **prod, LLMRING_SEALING_KEYS="f" * 64)
    assert other_key.returncode == 1
    assert "in the file sealing.key of its data directory" in _words(other_key.stderr)
    (tmp_path / "sealing.key").write_text(f"{new}\n")
    other_key = run("mcp", "reseal", *PROD, *data_dir, **prod, LLMRING_SEALING_KEYS="f" * 64)
    assert "Their key may be the one in" in _words(other_key.stderr)
    without_key = run("mcp", "reseal", *PROD, **prod)
    assert "LLMRING_SEALING_KEYS" in without_key.stderr
    invalid_key = run("mcp", "reseal", *PROD, **prod, LLMRING_SEALING_KEYS="canary")
    assert "64 hex digits" in invalid_key.stderr
    assert "canary" not in invalid_key.stderr
