"""What an MCP server offers: tools, resources and prompts, as they are told."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import asyncpg
import orjson
from pydantic import Field

from llmring_server.mcp_offer import Kind
from llmring_server.mcp_server import Server, Wanted
from llmring_server.tenant import Tenant


class Capabilities(Wanted):
    """Which of them: of a server, or of all."""

    cursor: str | None = Field(None, max_length=6000)
    server_id: UUID | None = None

    def place(self, tenant: Tenant, kind: Kind) -> dict[str, Any]:
        """Return after which name and id the page begins."""
        name, id = self.last(tenant, kind.encode()) or (None, None)
        return {"last_name": name, "last_id": id and UUID(id)}

    def next(self, tenant: Tenant, last: "Capability") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        name = last.uri if isinstance(last, Resource) else last.name
        return self.following(tenant, (name, last.id), last.kind.encode())


class Tools(Capabilities):
    """Which tools; `changed`: those whose definition asks for a look."""

    changed: bool = False


@dataclass(slots=True)
class Whose:
    """The server that offers something."""

    id: UUID
    name: str
    url: str


@dataclass(slots=True)
class Offered:
    """What is told of all that is offered."""

    id: UUID
    server_id: UUID
    description: str | None
    is_active: bool
    created_at: datetime
    project_id: Tenant
    server: Whose
    api_key_id: None


@dataclass(slots=True)
class Tool(Offered):
    """What a server's tool does, and what it takes.

    A `definition_changed_at` asks for acknowledgement: it is not the definition that is pinned.
    """

    kind: ClassVar[Kind] = "tool"
    name: str
    input_schema: dict[str, Any]
    definition_sha256: str
    definition_changed_at: datetime | None


@dataclass(slots=True)
class Resource(Offered):
    """What a server has to read."""

    kind: ClassVar[Kind] = "resource"
    uri: str
    name: str | None
    mime_type: str | None


@dataclass(slots=True)
class Prompt(Offered):
    """What a server's prompt is for, and which arguments it takes."""

    kind: ClassVar[Kind] = "prompt"
    name: str
    arguments: dict[str, Any] | list[dict[str, Any]] | None


Capability = Tool | Resource | Prompt


def told(tenant: Tenant, kind: Kind, row: asyncpg.Record, server: Whose) -> Any:
    """Tell what is stored of a capability, in the words of its kind."""
    names = "id", "server_id", "name", "description", "is_active", "created_at"
    common: dict[str, Any] = {name: row[name] for name in names}
    common |= {"project_id": tenant, "server": server, "api_key_id": None}
    definition = row["definition"] and orjson.loads(row["definition"])
    match kind:
        case "tool":
            common |= {"definition_changed_at": row["definition_changed_at"]}
            digest = row["digest"].hex()
            return Tool(**common, input_schema=definition, definition_sha256=digest)
        case "resource":
            common |= {"uri": row["name"], "name": row["title"]}
            return Resource(**common, mime_type=row["mime_type"])
        case "prompt":
            return Prompt(**common, arguments=definition)


class Stored(NamedTuple):
    """A capability, and what was recorded of its content; `at` is None where nothing was."""

    capability: Any
    content: Any
    at: datetime | None


@dataclass(slots=True)
class Names:
    """Tools and prompts by name, resources by URI."""

    tools: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Refreshed:
    """What a server offers now, and how that differs from before."""

    server: Server
    tools: list[Tool] = field(default_factory=list)
    resources: list[Resource] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    added: Names = field(default_factory=Names)
    changed: Names = field(default_factory=Names)
    removed: Names = field(default_factory=Names)
