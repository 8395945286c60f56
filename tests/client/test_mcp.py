"""The published client's MCP, every method and command of it, against a running server."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest
from llmring.mcp.apply import ensure_from_manifest  # type: ignore[import-untyped]
from llmring.mcp.http_client import MCPHttpClient  # type: ignore[import-untyped]
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Server, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.mcp import CapabilityPage, ServerPage
from llmring_server.mcp.models import Capability, CapabilityKind
from tests.support.client_cli import Run, llmring
from tests.support.mcp import json_bytes

__all__ = ["llmring"]

MANIFEST: dict[str, Any] = {
    "servers": [
        {
            "name": "calc",
            "url": "stdio://python -m calc",
            "transport": "stdio",
            "tools": [{"name": "add", "input_schema": {"type": "object"}}, {"name": "sub"}],
            "resources": [{"uri": "file:///README", "mimeType": "text/plain"}],
            "prompts": [{"name": "greet", "arguments": [{"name": "who", "required": True}]}],
        },
        {"name": "empty", "url": "http://localhost:8081"},
    ]
}
IDS = r"id=([0-9a-f-]{36})"


@pytest.fixture
async def server(db: AsyncDatabaseManager) -> AsyncIterator[Server]:
    settings = Settings.model_validate({"auth": "open", "sealing_keys": ["a" * 64]})
    async with Server(Ring(db, settings), port=0) as server:
        yield server


@pytest.fixture
async def remote(server: Server, key: str) -> AsyncIterator[MCPHttpClient]:
    async with MCPHttpClient(server.url, key) as remote:
        yield remote


async def test_servers_are_registered_changed_and_deleted(
    remote: MCPHttpClient, ring: Ring, project_id: ProjectId
) -> None:
    secret = {"token": "x"}
    project = uuid4()
    made = await remote.register_server("n", "http://u", "http", secret, {"a": 1}, project)
    id = UUID(made["id"])
    assert made["auth_config"] == {"configured": True}
    assert await remote.list_servers() == await remote.list_servers(project) == [made]
    assert await remote.get_server(id) == made
    changed = await remote.update_server(
        id, "other", "http://v", {"token": "y"}, {"b": 2}, is_active=False
    )
    changes = {"name": "other", "url": "http://v", "capabilities": {"b": 2}, "is_active": False}
    assert changed == made | changes | {"updated_at": changed["updated_at"]}
    assert await remote.list_servers() == []
    assert await remote.list_servers(is_active=False) == [changed]
    assert await remote.delete_server(id) is True
    assert await ring.mcp.servers.list(project_id, ServerPage(all=True)) == []


async def test_capabilities_are_refreshed_and_read(remote: MCPHttpClient) -> None:
    id = UUID((await remote.register_server("n", "http://u"))["id"])
    tools = [{"name": "add", "inputSchema": {"type": "object"}}, {"name": "sub"}]
    resources, prompts = [{"uri": "r", "mimeType": "text/plain"}], [{"name": "p", "arguments": {}}]
    found = await remote.refresh_server_capabilities(id, tools, resources, prompts)
    assert await remote.list_tools() == await remote.list_tools(id, uuid4()) == found["tools"]
    assert await remote.list_resources(id) == found["resources"]
    assert await remote.list_prompts(id) == found["prompts"]
    [add, _], [resource], [prompt] = found["tools"], found["resources"], found["prompts"]
    assert await remote.get_tool(UUID(add["id"])) == add
    assert await remote.get_tool_by_name("add", id) == add
    assert await remote.get_tool_by_name("mul") is None
    assert await remote.get_resource(UUID(resource["id"])) == resource
    assert await remote.get_prompt(UUID(prompt["id"])) == prompt
    server = {"server_name": "n", "server_url": "http://u"}
    content = await remote.get_resource_content(UUID(resource["id"]))
    assert (content["resource"], content["content"]) == (resource | server, None)
    rendered = await remote.render_prompt(UUID(prompt["id"]), {"x": 1})
    assert (rendered["prompt"], rendered["arguments"]) == (prompt | server, {"x": 1})
    assert rendered["rendered"] is None
    assert await remote.list_tools(is_active=False) == []


async def test_executions_are_recorded_and_read(remote: MCPHttpClient) -> None:
    id = UUID((await remote.register_server("n", "http://u"))["id"])
    found = await remote.refresh_server_capabilities(id, [{"name": "add"}], [], [])
    tool = UUID(found["tools"][0]["id"])
    conversation = await remote.create_conversation("t")
    await remote.add_message(conversation, "user", "1 + 1?")
    assert len(await remote.get_conversation_messages(conversation)) == 1
    done = await remote.record_tool_execution(tool, {"a": 1}, {"b": 2}, None, 7, conversation)
    failed = await remote.record_tool_execution(tool, {}, error="It broke")
    assert done.pop("warnings") == failed.pop("warnings") == []
    assert await remote.get_tool_history(tool) == [failed, done]
    assert (done["conversation_id"], done["duration_ms"]) == (str(conversation), 7)
    assert (done["status"], failed["status"]) == ("ok", "error")


async def test_applying_a_manifest_is_idempotent(
    remote: MCPHttpClient, ring: Ring, project_id: ProjectId
) -> None:
    first = await ensure_from_manifest(remote, MANIFEST)
    tools = await ring.mcp.capabilities.list(project_id, "tool")
    assert [tool.name for tool in tools] == ["add", "sub"]
    second = await ensure_from_manifest(remote, MANIFEST)
    assert [each["id"] for each in first] == [each["id"] for each in second]
    assert await ring.mcp.capabilities.list(project_id, "tool") == tools


async def test_command_line_applies_and_lists_a_manifest(
    llmring: Run, tmp_path: Path, ring: Ring, project_id: ProjectId
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    assert "2 server(s)" in await llmring("mcp", "apply", "-f", "manifest.json")
    listed = await llmring("mcp", "servers", "list")
    assert "url=stdio://python -m calc" in listed
    assert re.findall(IDS, listed) == [
        str(each.id) for each in await ring.mcp.servers.list(project_id)
    ]
    assert "- add" in (tools := await llmring("mcp", "tools"))
    assert "server=calc" in tools
    assert "file:///README" in await llmring("mcp", "resources")
    assert "- greet" in await llmring("mcp", "prompts")


async def test_command_line_adds_to_the_existing_registrations(
    llmring: Run, ring: Ring, project_id: ProjectId
) -> None:
    registered = await llmring(
        "mcp", "servers", "register", "--name", "n", "--url", "http://localhost:1"
    )
    id = json.loads(registered.partition("\n")[2])["id"]
    add = ("--server-id", id, "--name")
    arguments = '[{"name": "who"}]'
    assert "Registered" in await llmring(
        "mcp", "prompts", "register", *add, "p", "--arguments", arguments
    )
    await llmring("mcp", "prompts", "register", *add, "q", "--description", "Asks")
    resource = ("--server-id", id, "--uri", "file:///x", "--mime-type", "text/plain")
    assert "Registered" in await llmring("mcp", "resources", "register", *resource)
    prompts = await ring.mcp.capabilities.list(project_id, "prompt")
    assert [(prompt.name, prompt.arguments) for prompt in prompts] == [
        ("p", [{"name": "who"}]),
        ("q", {}),
    ]
    assert "mime=text/plain" in await llmring("mcp", "resources", "--server-id", id)


async def test_command_line_registers_on_a_server_at_the_bound(
    llmring: Run, remote: MCPHttpClient, ring: Ring, project_id: ProjectId
) -> None:
    """The client sends back the three lists that it read: a list that ends early would remove."""
    id = UUID((await remote.register_server("n", "http://localhost:1"))["id"])
    schema, arguments, mime_type = {"type": "object"}, [{"name": "who"}], "text/plain"
    tools: list[dict[str, Any]] = [{"name": f"t{n:03}", "inputSchema": schema} for n in range(1000)]
    resources: list[dict[str, Any]] = [
        {"uri": f"file:///{n:03}", "mimeType": mime_type} for n in range(1000)
    ]
    prompts: list[dict[str, Any]] = [
        {"name": f"p{n:03}", "arguments": arguments} for n in range(999)
    ]
    # All that is counted but the descriptions, with the prompt that is registered below.
    counted = (
        1000 * json_bytes("t000", schema, {})
        + 1000 * json_bytes("file:///000", mime_type, None, {})
        + 999 * json_bytes("p000", arguments, {})
        + json_bytes("last", {}, {})
    )
    lengths = [(4 * 1024**2 - counted) // 3000 - json_bytes("")] * 3000
    lengths[0] += 4 * 1024**2 - counted - sum(lengths) - 3000 * json_bytes("")
    for offered, length in zip([*tools, *resources, *prompts], lengths, strict=False):
        offered["description"] = "é" * (length // 2) + "x" * (length % 2)
    await remote.refresh_server_capabilities(id, tools, resources, prompts)
    register = ("mcp", "prompts", "register", "--server-id", str(id), "--name")
    too_long = ("last", "--description", "x" * (lengths[-1] + 1))
    before = await stored_of(ring, project_id, id)
    assert len(before) == 2999
    with pytest.raises(AssertionError, match="409 Conflict"):
        await llmring(*register, *too_long)
    assert await stored_of(ring, project_id, id) == before
    await llmring(*register, "last", "--description", "x" * lengths[-1])
    after = await stored_of(ring, project_id, id)
    assert {key: after[key] for key in before} == before
    assert after.keys() - before.keys() == {("prompt", "last")}


async def stored_of(
    ring: Ring, project_id: ProjectId, server_id: UUID
) -> dict[tuple[str, str], Capability]:
    """Return what a server offers, by kind and name."""
    page = CapabilityPage(server_id=server_id)
    return {
        (kind, capability.uri if kind == "resource" else capability.name): capability
        for kind in get_args(CapabilityKind)
        for capability in await ring.mcp.capabilities.list(project_id, kind, page)
    }
