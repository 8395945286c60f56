"""What MCP servers offer, over HTTP."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import RootModel
from typing_extensions import TypedDict

from llmring_server.core.strict_json import JsonObject
from llmring_server.errors import Conflict, NotFound
from llmring_server.mcp.executions import (
    Execution,
    ExecutionPage,
    NewExecution,
    ToolStats,
    ToolStatsQuery,
)
from llmring_server.mcp.models import (
    Acknowledgement,
    CapabilityContent,
    CapabilityPage,
    Kind,
    NewContent,
    NewTool,
    Prompt,
    RefreshRequest,
    RefreshResult,
    Resource,
    Tool,
    ToolPage,
)
from llmring_server.mcp.servers import McpServer, NewServer, ServerChange, ServerPage
from llmring_server.usage.api import REPLAYED
from llmring_server.web.request import IdempotencyKeyHeader, Request, link

LIVE = (
    "Nobody has recorded this content: only the MCP server itself can tell it, and a client must"
    " ask it there. PUT .../content records it here."
)


class PromptArguments(RootModel[JsonObject]):
    """What to put into a prompt, by name."""


class ContentSource(TypedDict):
    """Where the answer is: here, as it was recorded, or only at the MCP server (`live`)."""

    source: Literal["recorded", "live"]
    recorded_at: datetime | None
    detail: str | None


class ResourceContent(ContentSource):
    """What is in a resource."""

    resource: Resource
    content: Any


class PromptContent(ContentSource):
    """What a prompt says, before it is filled in."""

    prompt: Prompt
    content: Any


class RenderedPrompt(ContentSource):
    """A prompt, filled in: a text where a text was recorded, messages where messages were."""

    prompt: Prompt
    arguments: dict[str, Any]
    rendered: Any


def _source(found: CapabilityContent) -> ContentSource:
    if found.at is None:
        return {"source": "live", "recorded_at": None, "detail": LIVE}
    return {"source": "recorded", "recorded_at": found.at, "detail": None}


def _resource(found: CapabilityContent) -> ResourceContent:
    return {"resource": found.capability, "content": found.content, **_source(found)}


def _prompt(found: CapabilityContent) -> PromptContent:
    return {"prompt": found.capability, "content": found.content, **_source(found)}


async def _listed(request: Request, kind: Kind, query: CapabilityPage) -> list[Any]:
    found = await request.ring.mcp.capabilities.list(request.project_id, kind, query)
    # A page may end early where definitions are large.
    if found:
        request.response_headers = link(query, query.next(request.project_id, found[-1]))
    return found


async def list_tools(request: Request, query: ToolPage) -> Annotated[list[Tool], "Link"]:
    """List tools in the order of their names, a page at a time."""
    return await _listed(request, "tool", query)


async def list_resources(
    request: Request, query: CapabilityPage
) -> Annotated[list[Resource], "Link"]:
    """List resources in the order of their URIs, a page at a time."""
    return await _listed(request, "resource", query)


async def list_prompts(request: Request, query: CapabilityPage) -> Annotated[list[Prompt], "Link"]:
    """List prompts in the order of their names, a page at a time."""
    return await _listed(request, "prompt", query)


async def add_tool(request: Request, body: NewTool) -> Annotated[Tool, NotFound, Conflict]:
    """Add a tool to what a server offers."""
    return await request.ring.mcp.capabilities.add(request.project_id, body)


async def get_tool(request: Request, id: UUID) -> Tool:
    """Show a tool."""
    tool: Tool = await request.ring.mcp.capabilities.get(request.project_id, "tool", id)
    return tool


async def get_resource(request: Request, id: UUID) -> Resource:
    """Show a resource, without what is in it."""
    resource: Resource = await request.ring.mcp.capabilities.get(request.project_id, "resource", id)
    return resource


async def get_prompt(request: Request, id: UUID) -> Prompt:
    """Show a prompt, without what it says."""
    prompt: Prompt = await request.ring.mcp.capabilities.get(request.project_id, "prompt", id)
    return prompt


async def acknowledge_tool(
    request: Request, id: UUID, body: Acknowledgement
) -> Annotated[Tool, Conflict]:
    """Agree to a definition that has changed, if it is still the one that you have seen."""
    return await request.ring.mcp.capabilities.acknowledge(
        request.project_id, id, body.definition_sha256, actor=request.actor
    )


async def get_resource_content(request: Request, id: UUID) -> ResourceContent:
    """Tell what is in a resource, if it was recorded."""
    return _resource(await request.ring.mcp.capabilities.stored(request.project_id, "resource", id))


async def put_resource_content(request: Request, id: UUID, body: NewContent) -> ResourceContent:
    """Record what is in a resource."""
    return _resource(
        await request.ring.mcp.capabilities.keep(request.project_id, "resource", id, body.content)
    )


async def get_prompt_content(request: Request, id: UUID) -> PromptContent:
    """Tell what a prompt says, if it was recorded."""
    return _prompt(await request.ring.mcp.capabilities.stored(request.project_id, "prompt", id))


async def put_prompt_content(request: Request, id: UUID, body: NewContent) -> PromptContent:
    """Record what a prompt says: a text, or messages."""
    return _prompt(
        await request.ring.mcp.capabilities.keep(request.project_id, "prompt", id, body.content)
    )


async def render_prompt(request: Request, id: UUID, body: PromptArguments) -> RenderedPrompt:
    """Fill a prompt in, if what it says was recorded."""
    found = await request.ring.mcp.capabilities.render(request.project_id, id, body.root)
    return {
        "prompt": found.capability,
        "arguments": body.root,
        "rendered": found.content,
        **_source(found),
    }


async def record_execution(
    request: Request, id: UUID, body: NewExecution, key: IdempotencyKeyHeader
) -> Execution:
    """Record what a tool did, once if it brings an Idempotency-Key; we never execute any."""
    execution, replayed = await request.ring.mcp.executions.record(
        request.project_id, id, body, key
    )
    if replayed:
        request.response_headers = REPLAYED
    return execution


async def list_executions(
    request: Request, id: UUID, query: ExecutionPage
) -> Annotated[list[Execution], "Link"]:
    """List what a tool did, the newest first, a page at a time; fewer where they are large."""
    found = await request.ring.mcp.executions.history(request.project_id, id, query)
    if found:
        request.response_headers = link(query, query.next(request.project_id, found[-1]))
    return found


async def tool_stats(request: Request, id: UUID, query: ToolStatsQuery) -> ToolStats:
    """Tell how often a tool was used, how often it failed, and how long it took."""
    return await request.ring.mcp.executions.stats(request.project_id, id, query.days)


class DeletedServer(TypedDict):
    """That a server is gone."""

    message: str


class ServerSecret(TypedDict):
    """What a client must show to a server."""

    auth_config: dict[str, Any] | None


async def register_server(request: Request, body: NewServer) -> McpServer:
    """Register an MCP server; we never call it."""
    return await request.ring.mcp.servers.register(request.project_id, body)


async def list_servers(request: Request, query: ServerPage) -> Annotated[list[McpServer], "Link"]:
    """List MCP servers, the newest first, a page at a time; fewer where they are large."""
    found = await request.ring.mcp.servers.list(request.project_id, query)
    if found:
        request.response_headers = link(query, query.next(request.project_id, found[-1]))
    return found


async def get_server(request: Request, id: UUID) -> McpServer:
    """Show an MCP server, without what opens it."""
    return await request.ring.mcp.servers.get(request.project_id, id)


async def replace_server(request: Request, id: UUID, body: ServerChange) -> McpServer:
    """Change what is given and not null."""
    return await request.ring.mcp.servers.change(request.project_id, id, body)


async def update_server(request: Request, id: UUID, body: ServerChange) -> McpServer:
    """Change what is given; null clears what can be nothing."""
    return await request.ring.mcp.servers.amend(request.project_id, id, body)


async def delete_server(request: Request, id: UUID) -> DeletedServer:
    """Delete a server, what it offers, and what its tools did."""
    await request.ring.mcp.servers.delete(request.project_id, id)
    return {"message": "Server deleted successfully"}


async def get_secret(request: Request, id: UUID) -> ServerSecret:
    """Show what opens a server; the audit is told."""
    return {
        "auth_config": await request.ring.mcp.servers.secret(
            request.project_id, id, actor=request.actor
        )
    }


async def refresh_server(request: Request, id: UUID, body: RefreshRequest) -> RefreshResult:
    """Replace all that a server offers, or nothing; what stays keeps its id and its history."""
    return await request.ring.mcp.capabilities.refresh(request.project_id, id, body)
