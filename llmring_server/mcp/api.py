"""HTTP handlers of MCP: servers, capabilities, contents and executions."""

from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import orjson
from pydantic import Field, RootModel
from typing_extensions import TypedDict

from llmring_server.core.strict_json import JsonObject
from llmring_server.core.time_slices import TimeSlices
from llmring_server.core.warnings import RequestWarning
from llmring_server.errors import Conflict, NotFound, QuotaExceeded
from llmring_server.mcp.capabilities import McpCapabilities
from llmring_server.mcp.models import (
    Acknowledgement,
    Capability,
    CapabilityContent,
    CapabilityKind,
    CapabilityPage,
    CapabilityRefresh,
    CapabilityRefreshResult,
    ExecutionPage,
    McpPrompt,
    McpResource,
    McpServer,
    McpServerUpdate,
    McpTool,
    NewContent,
    NewMcpServer,
    NewTool,
    NewToolExecution,
    ServerPage,
    ToolExecution,
    ToolPage,
    ToolStats,
    ToolStatsQuery,
)
from llmring_server.mcp.servers import McpServers
from llmring_server.usage.api import REPLAYED
from llmring_server.web.request import IdempotencyKeyHeader, IdOf, Request, link, render

NOT_RECORDED = (
    "This content has not been recorded: read it from the MCP server itself, or record it here with"
    " PUT .../content."
)

ServerId = Annotated[UUID, IdOf("Server")]
ToolId = Annotated[UUID, IdOf("Tool")]
ResourceId = Annotated[UUID, IdOf("Resource")]
PromptId = Annotated[UUID, IdOf("Prompt")]


class DeletedMcpServer(TypedDict):
    """Confirms the deletion of a server."""

    message: str


class McpServerSecret(TypedDict):
    """The credentials of a server; null if it has none."""

    auth_config: dict[str, Any] | None


class PromptArguments(RootModel[JsonObject]):
    """The arguments of a prompt, by name."""


@dataclass(slots=True)
class AddedMcpTool(McpTool):
    """A tool that was added. `warnings`: its parts that are not stored as they were sent."""

    warnings: list[RequestWarning]


class ContentSource(TypedDict):
    """Where the content is: recorded here, or only at the live MCP server."""

    source: Annotated[
        Literal["recorded", "live"],
        Field(
            description="`recorded`: the content was recorded here. `live`: it was not, and has to"
            " be read from the MCP server itself."
        ),
    ]
    recorded_at: datetime | None
    detail: str | None


@dataclass(slots=True)
class McpResourceOfServer(McpResource):
    """A resource, and its server's name and URL beside it, where older clients read them."""

    server_name: str
    server_url: str


@dataclass(slots=True)
class McpPromptOfServer(McpPrompt):
    """A prompt, and its server's name and URL beside it, where older clients read them."""

    server_name: str
    server_url: str


class ResourceContent(ContentSource):
    """A resource and its content. `warnings`: parts that are not stored as they were sent."""

    resource: McpResourceOfServer
    content: Any
    warnings: list[RequestWarning]


class PromptContent(ContentSource):
    """A prompt and its content, before rendering.

    `warnings`: parts that are not stored as they were sent.
    """

    prompt: McpPromptOfServer
    content: Any
    warnings: list[RequestWarning]


class RenderedPrompt(ContentSource):
    """A rendered prompt: a text or messages, as its content was recorded."""

    prompt: McpPromptOfServer
    arguments: dict[str, Any]
    rendered: Any


def _source(content: CapabilityContent) -> ContentSource:
    if content.recorded_at is None:
        return {"source": "live", "recorded_at": None, "detail": NOT_RECORDED}
    return {"source": "recorded", "recorded_at": content.recorded_at, "detail": None}


def _servers(request: Request) -> McpServers:
    return request.ring.mcp.servers.with_unparsed_json()


def _capabilities(request: Request) -> McpCapabilities:
    return request.ring.mcp.capabilities.with_unparsed_json()


def _response(capability: Capability, **others: Any) -> Any:
    """Return what is written for a capability: its members, its fields and `others`.

    Members that are not parsed are the bytes of an object.
    """
    own = {field.name: getattr(capability, field.name) for field in fields(capability)} | others
    members = own.pop("members")
    if isinstance(members, dict):
        return members | own
    if members == b"{}":
        return own
    return orjson.Fragment(members[:-1] + b"," + render(own)[1:])


async def _responses(capabilities: list[Any]) -> list[Any]:
    """Replace capabilities by their responses, one at a time.

    So both forms of all are never in memory at once.
    """
    slices = TimeSlices()
    for index, capability in enumerate(capabilities):
        capabilities[index] = _response(capability)
        await slices.pause()
    return capabilities


def _with_server(capability: McpResource | McpPrompt) -> Any:
    server = capability.server
    return _response(capability, server_name=server.name, server_url=server.url)


def _resource_content(request: Request, content: CapabilityContent) -> ResourceContent:
    return {
        "resource": _with_server(content.capability),
        "content": content.content,
        "warnings": request.warnings,
        **_source(content),
    }


def _prompt_content(request: Request, content: CapabilityContent) -> PromptContent:
    return {
        "prompt": _with_server(content.capability),
        "content": content.content,
        "warnings": request.warnings,
        **_source(content),
    }


# Servers.


async def register_mcp_server(
    request: Request, body: NewMcpServer
) -> Annotated[McpServer, QuotaExceeded]:
    """Register an MCP server. This server never connects to it."""
    return await _servers(request).register(request.project_id, body)


async def list_mcp_servers(
    request: Request, query: ServerPage
) -> Annotated[list[McpServer], "Link"]:
    """List MCP servers, newest first. A page of large servers ends early."""
    servers = await _servers(request).list(request.project_id, query)
    if servers:
        request.response_headers = link(query, query.next(request.project_id, servers[-1]))
    return servers


async def get_mcp_server(request: Request, id: ServerId) -> McpServer:
    """Get an MCP server, without its credentials."""
    return await _servers(request).get(request.project_id, id)


async def update_mcp_server(request: Request, id: ServerId, body: McpServerUpdate) -> McpServer:
    """Update an MCP server. Null fields are ignored."""
    return await _servers(request).update(request.project_id, id, body)


async def patch_mcp_server(request: Request, id: ServerId, body: McpServerUpdate) -> McpServer:
    """Update an MCP server. Null clears `auth_config` or `capabilities`."""
    return await _servers(request).patch(request.project_id, id, body)


async def delete_mcp_server(request: Request, id: ServerId) -> DeletedMcpServer:
    """Delete an MCP server with its capabilities and their executions."""
    await _servers(request).delete(request.project_id, id)
    return {"message": "Server deleted successfully"}


async def get_mcp_server_secret(request: Request, id: ServerId) -> McpServerSecret:
    """Get the credentials of an MCP server. The request is recorded in the audit log."""
    auth_config = await _servers(request).read_secret(request.project_id, id, actor=request.actor)
    return {"auth_config": auth_config}


async def refresh_mcp_server(
    request: Request, id: ServerId, body: CapabilityRefresh
) -> Annotated[CapabilityRefreshResult, QuotaExceeded]:
    """Replace all capabilities of an MCP server. Those that stay keep their ids and executions."""
    result = await _capabilities(request).refresh(request.project_id, id, body)
    request.warnings += result.warnings
    return replace(
        result,
        tools=await _responses(result.tools),
        resources=await _responses(result.resources),
        prompts=await _responses(result.prompts),
        warnings=request.warnings,
    )


# Capabilities.


async def _list(request: Request, kind: CapabilityKind, query: CapabilityPage) -> list[Any]:
    capabilities = await _capabilities(request).list(request.project_id, kind, query)
    # Also after a page that is not full: it may have ended early.
    if capabilities and not query.is_complete:
        request.response_headers = link(query, query.next(request.project_id, capabilities[-1]))
    return await _responses(capabilities)


async def list_tools(request: Request, query: ToolPage) -> Annotated[list[McpTool], "Link"]:
    """List tools by name: all of a server, or a page. A page of large tools ends early."""
    return await _list(request, "tool", query)


async def list_resources(
    request: Request, query: CapabilityPage
) -> Annotated[list[McpResource], "Link"]:
    """List resources by URI: all of a server, or a page. A page has at most about 8 MiB."""
    return await _list(request, "resource", query)


async def list_prompts(
    request: Request, query: CapabilityPage
) -> Annotated[list[McpPrompt], "Link"]:
    """List prompts by name: all of a server, or a page. A page has at most about 8 MiB."""
    return await _list(request, "prompt", query)


async def add_tool(request: Request, body: NewTool) -> Annotated[AddedMcpTool, NotFound, Conflict]:
    """Add a tool to an MCP server's capabilities."""
    tool = await _capabilities(request).add_tool(request.project_id, body)
    request.warnings += body.not_kept()
    return cast("AddedMcpTool", _response(tool, warnings=request.warnings))


async def get_tool(request: Request, id: ToolId) -> McpTool:
    """Get a tool."""
    tool: McpTool = await _capabilities(request).get(request.project_id, "tool", id)
    return cast("McpTool", _response(tool))


async def get_resource(request: Request, id: ResourceId) -> McpResource:
    """Get a resource, without its content."""
    resource: McpResource = await _capabilities(request).get(request.project_id, "resource", id)
    return cast("McpResource", _response(resource))


async def get_prompt(request: Request, id: PromptId) -> McpPrompt:
    """Get a prompt, without its content."""
    prompt: McpPrompt = await _capabilities(request).get(request.project_id, "prompt", id)
    return cast("McpPrompt", _response(prompt))


async def acknowledge_tool(
    request: Request, id: ToolId, body: Acknowledgement
) -> Annotated[McpTool, Conflict]:
    """Acknowledge a tool's changed definition. It must still be the one that was reviewed."""
    tool = await _capabilities(request).acknowledge(
        request.project_id, id, body.definition_sha256, actor=request.actor
    )
    return cast("McpTool", _response(tool))


async def get_resource_content(request: Request, id: ResourceId) -> ResourceContent:
    """Get the recorded content of a resource."""
    return _resource_content(
        request, await _capabilities(request).get_content(request.project_id, "resource", id)
    )


async def set_resource_content(
    request: Request, id: ResourceId, body: NewContent
) -> ResourceContent:
    """Record the content of a resource."""
    return _resource_content(
        request,
        await _capabilities(request).set_content(request.project_id, "resource", id, body.content),
    )


async def get_prompt_content(request: Request, id: PromptId) -> PromptContent:
    """Get the recorded content of a prompt, before rendering."""
    return _prompt_content(
        request, await _capabilities(request).get_content(request.project_id, "prompt", id)
    )


async def set_prompt_content(request: Request, id: PromptId, body: NewContent) -> PromptContent:
    """Record the content of a prompt: a text or messages."""
    return _prompt_content(
        request,
        await _capabilities(request).set_content(request.project_id, "prompt", id, body.content),
    )


async def render_prompt(request: Request, id: PromptId, body: PromptArguments) -> RenderedPrompt:
    """Render a prompt with arguments, if its content was recorded."""
    content = await request.ring.mcp.capabilities.render_prompt(request.project_id, id, body.root)
    return {
        "prompt": _with_server(content.capability),
        "arguments": body.root,
        "rendered": content.content,
        **_source(content),
    }


# Executions.


@dataclass(slots=True)
class RecordedToolExecution(ToolExecution):
    """An execution that was recorded. `warnings`: parts that are not stored as they were sent."""

    warnings: list[RequestWarning]


async def record_execution(
    request: Request, id: ToolId, body: NewToolExecution, key: IdempotencyKeyHeader
) -> RecordedToolExecution:
    """Record an execution of a tool. This server never executes it."""
    execution, is_replay = await request.ring.mcp.executions.record(
        request.project_id, id, body, key
    )
    if is_replay:
        request.response_headers = REPLAYED
    stored = {field.name: getattr(execution, field.name) for field in fields(execution)}
    return RecordedToolExecution(**stored, warnings=request.warnings)


async def list_executions(
    request: Request, id: ToolId, query: ExecutionPage
) -> Annotated[list[ToolExecution], "Link"]:
    """List a tool's executions, newest first. A page of large executions ends early."""
    unparsed = request.ring.mcp.executions.with_unparsed_json()
    executions = await unparsed.history(request.project_id, id, query)
    if executions:
        request.response_headers = link(query, query.next(request.project_id, executions[-1]))
    return executions


async def get_tool_stats(request: Request, id: ToolId, query: ToolStatsQuery) -> ToolStats:
    """Summarize a tool's executions: count, errors, and percentiles of their durations."""
    return await request.ring.mcp.executions.stats(request.project_id, id, query.days)
