"""What MCP servers offer, over HTTP."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import RootModel
from typing_extensions import TypedDict

from llmring_server.bounded import Json
from llmring_server.errors import Conflict, NotFound
from llmring_server.mcp_capability import Capabilities, Prompt, Resource, Stored, Tool, Tools
from llmring_server.mcp_offer import Contents, Kind, NewTool, Seen
from llmring_server.web.call import Call
from llmring_server.web.paging import link

LIVE = (
    "Nobody has recorded this content: only the MCP server itself can tell it, and a client must"
    " ask it there. PUT .../content records it here."
)


class Arguments(RootModel[Json]):
    """What to put into a prompt, by name."""


class Source(TypedDict):
    """Where the answer is: here, as it was recorded, or only at the MCP server (`live`)."""

    source: Literal["recorded", "live"]
    recorded_at: datetime | None
    detail: str | None


class ResourceContent(Source):
    """What is in a resource."""

    resource: Resource
    content: Any


class PromptContent(Source):
    """What a prompt says, before it is filled in."""

    prompt: Prompt
    content: Any


class RenderedPrompt(Source):
    """A prompt, filled in: a text where a text was recorded, messages where messages were."""

    prompt: Prompt
    arguments: dict[str, Any]
    rendered: Any


def _source(found: Stored) -> Source:
    if found.at is None:
        return {"source": "live", "recorded_at": None, "detail": LIVE}
    return {"source": "recorded", "recorded_at": found.at, "detail": None}


def _resource(found: Stored) -> ResourceContent:
    return {"resource": found.capability, "content": found.content, **_source(found)}


def _prompt(found: Stored) -> PromptContent:
    return {"prompt": found.capability, "content": found.content, **_source(found)}


async def _listed(call: Call, kind: Kind, query: Capabilities) -> list[Any]:
    found = await call.ring.mcp.capabilities.list(call.tenant, kind, query)
    # A page may end early where definitions are large.
    if found:
        call.says = link(query, query.next(call.tenant, found[-1]))
    return found


async def list_tools(call: Call, query: Tools) -> Annotated[list[Tool], "Link"]:
    """List tools in the order of their names, a page at a time."""
    return await _listed(call, "tool", query)


async def list_resources(call: Call, query: Capabilities) -> Annotated[list[Resource], "Link"]:
    """List resources in the order of their URIs, a page at a time."""
    return await _listed(call, "resource", query)


async def list_prompts(call: Call, query: Capabilities) -> Annotated[list[Prompt], "Link"]:
    """List prompts in the order of their names, a page at a time."""
    return await _listed(call, "prompt", query)


async def add_tool(call: Call, body: NewTool) -> Annotated[Tool, NotFound, Conflict]:
    """Add a tool to what a server offers."""
    return await call.ring.mcp.capabilities.add(call.tenant, body)


async def get_tool(call: Call, id: UUID) -> Tool:
    """Show a tool."""
    tool: Tool = await call.ring.mcp.capabilities.get(call.tenant, "tool", id)
    return tool


async def get_resource(call: Call, id: UUID) -> Resource:
    """Show a resource, without what is in it."""
    resource: Resource = await call.ring.mcp.capabilities.get(call.tenant, "resource", id)
    return resource


async def get_prompt(call: Call, id: UUID) -> Prompt:
    """Show a prompt, without what it says."""
    prompt: Prompt = await call.ring.mcp.capabilities.get(call.tenant, "prompt", id)
    return prompt


async def acknowledge_tool(call: Call, id: UUID, body: Seen) -> Annotated[Tool, Conflict]:
    """Agree to a definition that has changed, if it is still the one that you have seen."""
    return await call.ring.mcp.capabilities.acknowledge(
        call.tenant, id, body.definition_sha256, actor=call.actor
    )


async def get_resource_content(call: Call, id: UUID) -> ResourceContent:
    """Tell what is in a resource, if it was recorded."""
    return _resource(await call.ring.mcp.capabilities.stored(call.tenant, "resource", id))


async def keep_resource_content(call: Call, id: UUID, body: Contents) -> ResourceContent:
    """Record what is in a resource."""
    return _resource(
        await call.ring.mcp.capabilities.keep(call.tenant, "resource", id, body.content)
    )


async def get_prompt_content(call: Call, id: UUID) -> PromptContent:
    """Tell what a prompt says, if it was recorded."""
    return _prompt(await call.ring.mcp.capabilities.stored(call.tenant, "prompt", id))


async def keep_prompt_content(call: Call, id: UUID, body: Contents) -> PromptContent:
    """Record what a prompt says: a text, or messages."""
    return _prompt(await call.ring.mcp.capabilities.keep(call.tenant, "prompt", id, body.content))


async def render_prompt(call: Call, id: UUID, body: Arguments) -> RenderedPrompt:
    """Fill a prompt in, if what it says was recorded."""
    found = await call.ring.mcp.capabilities.render(call.tenant, id, body.root)
    return {
        "prompt": found.capability,
        "arguments": body.root,
        "rendered": found.content,
        **_source(found),
    }
