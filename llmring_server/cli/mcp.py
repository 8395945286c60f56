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
from llmring_server.mcp.executions import Execution, ExecutionPage, ToolStats
from llmring_server.mcp.models import Capability, CapabilityPage, Kind, Resource, Tool
from llmring_server.mcp.servers import McpServer, ServerPage
from llmring_server.ring import Ring

PAGE, LONGEST = 1000, 200


@click.group()
def mcp() -> None:
    """List MCP servers, their capabilities and tool executions."""


@mcp.command("list")
@project_options
@click.option("--all", "every", is_flag=True, help="Include inactive servers.")
def list_(env: str, data_dir: Path, project: str, *, every: bool) -> None:
    """List MCP servers, newest first."""
    page = ServerPage(limit=PAGE, all=every)
    for each in with_project(
        env,
        data_dir,
        project,
        lambda ring, project_id: all_pages(
            partial(ring.mcp.servers.list, project_id), project_id, page
        ),
    ):
        entry(each.id, each.name, *_facts(each))


@mcp.command()
@project_options
@click.argument("id", type=click.UUID)
def show(env: str, data_dir: Path, project: str, id: UUID) -> None:
    """Show an MCP server and its tools, resources and prompts.

    A tool marked `changed` no longer matches the definition that was reviewed.
    """

    async def work(ring: Ring, project_id: ProjectId) -> tuple[McpServer, list[Capability]]:
        server, offered = await ring.mcp.servers.get(project_id, id), list[Capability]()
        for kind in get_args(Kind):
            pages = partial(ring.mcp.capabilities.list, project_id, kind)
            offered += await all_pages(pages, project_id, CapabilityPage(server_id=id, all=True))
        return server, offered

    server, offered = with_project(env, data_dir, project, work)
    entry(server.id, server.name, *_facts(server))
    for each in offered:
        name = each.uri if isinstance(each, Resource) else each.name
        told = _state(each), each.description
        entry(each.id, f"{each.kind} {name}", *(text for text in told if text))


@mcp.command()
@project_options
@click.argument("tool_id", type=click.UUID)
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(1, PAGE),
    help="Maximum number of executions.",
)
def history(env: str, data_dir: Path, project: str, tool_id: UUID, limit: int) -> None:
    """Show the executions of a tool, newest first, and their statistics."""

    async def work(ring: Ring, project_id: ProjectId) -> tuple[ToolStats, list[Execution]]:
        executions = ring.mcp.executions
        found = await executions.history(project_id, tool_id, ExecutionPage(limit=limit))
        return await executions.stats(project_id, tool_id), found

    summary, found = with_project(env, data_dir, project, work)
    counts = f"{summary.count:,} executions, {summary.errors:,} errors"
    times = f"p50 {_ms(summary.p50_ms)}, p95 {_ms(summary.p95_ms)}"
    CONSOLE.print(f"Last {summary.days} days: {counts}, {times}")
    for each in found:
        title = f"{each.executed_at:%Y-%m-%d %H:%M:%S}, {each.status}, {_ms(each.duration_ms)}"
        entry(
            each.id,
            title,
            f"{brief(each.input, LONGEST)} → {each.error or brief(each.output, LONGEST)}",
        )


@mcp.command()
@environment.options
def reseal(env: str, data_dir: Path) -> None:
    """Encrypt all credentials with the first key of LLMRING_SEALING_KEYS.

    The server can keep running.
    """
    actor = environment.operator()
    resealed, stuck = environment.with_ring(
        env, data_dir, lambda ring: ring.mcp.servers.reseal(actor=actor)
    )
    click.echo(f"Encrypted again: {resealed:,}")
    if stuck:
        raise click.ClickException(f"No key decrypts {stuck:,} others.")


def _facts(server: McpServer) -> Iterator[str]:
    yield server.url
    if not server.is_active:
        yield "inactive"
    known = (server.capabilities or {}).items()
    yield from (f"{n} {kind}" for kind, n in known if isinstance(n, int))
    if server.auth_config:
        yield "with credentials"
    if server.refreshed_at:
        yield f"refreshed {server.refreshed_at:%Y-%m-%d %H:%M}"


def _state(capability: Capability) -> str:
    if not capability.is_active:
        return "inactive"
    changed = isinstance(capability, Tool) and capability.definition_changed_at
    return "changed" if changed else ""


def _ms(duration: int | None) -> str:
    return "-" if duration is None else f"{duration:,} ms"
