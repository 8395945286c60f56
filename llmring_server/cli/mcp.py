"""`llmring-server mcp`: MCP servers, their capabilities and tool executions."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import get_args
from uuid import UUID

import rich_click as click

from llmring_server.cli import environment
from llmring_server.cli.environment import all_pages, project_options, with_project
from llmring_server.cli.output import CONSOLE, brief, entry
from llmring_server.core.identity import ProjectId
from llmring_server.mcp import (
    CapabilityPage,
    ExecutionPage,
    McpResource,
    McpServer,
    McpTool,
    ServerPage,
    ToolExecution,
    ToolStats,
)
from llmring_server.mcp.models import Capability, CapabilityKind
from llmring_server.mcp.secrets import LOCAL_KEY_NAME
from llmring_server.ring import Ring

PAGE_SIZE = 1000
# Of an input or an output, as JSON.
MAX_PAYLOAD_LENGTH = 200


@click.group()
def mcp() -> None:
    """List MCP servers, their capabilities and tool executions."""


@mcp.command("list")
@project_options
@click.option("--all", "include_inactive", is_flag=True, help="Include inactive servers.")
def list_servers(env: str, data_dir: Path, project: str, *, include_inactive: bool) -> None:
    """List MCP servers, newest first."""
    page = ServerPage(limit=PAGE_SIZE, all=include_inactive)
    servers = with_project(
        env,
        data_dir,
        project,
        lambda ring, project_id: all_pages(
            partial(ring.mcp.servers.list, project_id), project_id, page
        ),
    )
    for server in servers:
        entry(server.id, server.name, *_facts(server))


@mcp.command("show")
@project_options
@click.argument("id", type=click.UUID)
def show_server(env: str, data_dir: Path, project: str, id: UUID) -> None:
    """Show an MCP server and its tools, resources and prompts.

    A tool marked `changed` no longer matches the definition that was reviewed.
    """

    async def load(ring: Ring, project_id: ProjectId) -> tuple[McpServer, list[Capability]]:
        server = await ring.mcp.servers.get(project_id, id)
        page = CapabilityPage(server_id=id, all=True)
        capabilities: list[Capability] = []
        for kind in get_args(CapabilityKind):
            pages = partial(ring.mcp.capabilities.list, project_id, kind)
            capabilities += await all_pages(pages, project_id, page)
        return server, capabilities

    server, capabilities = with_project(env, data_dir, project, load)
    entry(server.id, server.name, *_facts(server))
    for capability in capabilities:
        name = capability.uri if isinstance(capability, McpResource) else capability.name
        facts = [_state(capability), capability.description]
        entry(capability.id, f"{capability.kind} {name}", *(fact for fact in facts if fact))


@mcp.command("history")
@project_options
@click.argument("tool_id", type=click.UUID)
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(1, PAGE_SIZE),
    help="Maximum number of executions.",
)
def show_history(env: str, data_dir: Path, project: str, tool_id: UUID, limit: int) -> None:
    """Show the executions of a tool, newest first, and their statistics."""

    async def load(ring: Ring, project_id: ProjectId) -> tuple[list[ToolExecution], ToolStats]:
        page = ExecutionPage(limit=limit)
        executions = await ring.mcp.executions.history(project_id, tool_id, page)
        return executions, await ring.mcp.executions.stats(project_id, tool_id)

    executions, stats = with_project(env, data_dir, project, load)
    CONSOLE.print(
        f"Last {stats.days} days: {stats.count:,} executions, {stats.errors:,} errors,"
        f" p50 {_milliseconds(stats.p50_ms)}, p95 {_milliseconds(stats.p95_ms)}"
    )
    for execution in executions:
        title = (
            f"{execution.executed_at:%Y-%m-%d %H:%M:%S}, {execution.status},"
            f" {_milliseconds(execution.duration_ms)}"
        )
        result = execution.error or brief(execution.output, MAX_PAYLOAD_LENGTH)
        entry(execution.id, title, f"{brief(execution.input, MAX_PAYLOAD_LENGTH)} → {result}")


@mcp.command("reseal")
@environment.options
def reencrypt_secrets(env: str, data_dir: Path) -> None:
    """Encrypt all credentials with the first key of LLMRING_SEALING_KEYS.

    The server can keep running.
    """
    actor = environment.operator()
    reencrypted, undecryptable = environment.with_ring(
        env, data_dir, lambda ring: ring.mcp.servers.reencrypt_secrets(actor=actor)
    )
    click.echo(f"Encrypted again: {reencrypted:,}")
    if undecryptable:
        raise click.ClickException(
            f"No key decrypts {undecryptable:,} others. {_where_keys_are(data_dir)}"
        )


def _where_keys_are(data_dir: Path) -> str:
    """Say where the key of a secret may be that a development server stored."""
    path = data_dir / LOCAL_KEY_NAME
    if path.exists():
        return f"Their key may be the one in {path}: add it to LLMRING_SEALING_KEYS."
    return (
        f"A development server keeps its key in the file {LOCAL_KEY_NAME} of its data directory;"
        f" there is none in {data_dir}."
    )


def _facts(server: McpServer) -> Iterator[str]:
    yield server.url
    if not server.is_active:
        yield "inactive"
    for kind, count in (server.capabilities or {}).items():
        # A refresh stores counts; a client may have registered other values.
        if isinstance(count, int):
            yield f"{count} {kind}"
    if server.auth_config:
        yield "with credentials"
    if server.refreshed_at:
        yield f"refreshed {server.refreshed_at:%Y-%m-%d %H:%M}"


def _state(capability: Capability) -> str | None:
    if not capability.is_active:
        return "inactive"
    if isinstance(capability, McpTool) and capability.definition_changed_at:
        return "changed"
    return None


def _milliseconds(duration: int | None) -> str:
    return "-" if duration is None else f"{duration:,} ms"
