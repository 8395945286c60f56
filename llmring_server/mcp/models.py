"""What an MCP server offers: tools, resources and prompts, as a client reports them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from uuid import UUID

import asyncpg
import orjson
import rfc8785
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import new_id
from llmring_server.core.strict_json import JsonObject, check_json, dump_bounded_json, json_default
from llmring_server.errors import InvalidRequest
from llmring_server.mcp.servers import ActiveFilter, Label, McpServer

Kind = Literal["tool", "resource", "prompt"]


MAX_CAPABILITIES, MAX_NAME_LENGTH = 1000, 2000


# Of a definition, of a content.
LARGEST, LONGEST = 64 * 1024, 2 * 1024 * 1024


_EXACT = 2**53


def _or_empty(value: object) -> object:
    return {} if value is None else value


def _short(name: str) -> str:
    if len(name.encode()) > MAX_NAME_LENGTH:
        raise ValueError(f"must be at most {MAX_NAME_LENGTH:,} bytes")
    return name


Short = Annotated[str, Field(max_length=255), AfterValidator(check_json)]


Text = Annotated[str, Field(max_length=50_000), AfterValidator(check_json)]


# No control characters: as JSON, in the cursor of a page, each is six.
_URI = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"


Uri = Annotated[str, Field(max_length=1000, pattern=_URI), AfterValidator(_short)]


Schema = Annotated[
    JsonObject, BeforeValidator(_or_empty, json_schema_input_type=dict[str, Any] | None)
]


# Of prompts: one text, or messages; of resources, whatever they hold.
Content = Annotated[str | list[Any] | dict[str, Any], AfterValidator(check_json)]


Arguments = Annotated[dict[str, Any] | list[dict[str, Any]], AfterValidator(check_json)]


class CapabilityRow(NamedTuple):
    """What is stored of a capability, whatever its kind."""

    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    definition: Any = None
    content: Any = None


class ToolIn(BaseModel, strict=True):
    """A tool that a server offers."""

    kind: ClassVar[Kind] = "tool"
    name: Label
    description: Text | None = None
    input_schema: Schema = Field({}, validation_alias=AliasChoices("inputSchema", "input_schema"))

    def stored(self) -> CapabilityRow:
        return CapabilityRow(self.name, None, self.description, None, self.input_schema)


class ResourceIn(BaseModel, strict=True):
    """A resource that a server offers, and perhaps what is in it."""

    kind: ClassVar[Kind] = "resource"
    uri: Uri
    name: Short | None = None
    description: Text | None = None
    mime_type: Short | None = Field(None, validation_alias=AliasChoices("mimeType", "mime_type"))
    content: Content | None = None

    def stored(self) -> CapabilityRow:
        told = self.name, self.description, self.mime_type
        return CapabilityRow(self.uri, *told, None, self.content)


class PromptIn(BaseModel, strict=True):
    """A prompt that a server offers, and perhaps what it says: a text, or messages."""

    kind: ClassVar[Kind] = "prompt"
    name: Label
    description: Text | None = None
    arguments: Arguments | None = None
    content: Content | None = None

    def stored(self) -> CapabilityRow:
        told = self.description, None, self.arguments, self.content
        return CapabilityRow(self.name, None, *told)


CapabilityIn = ToolIn | ResourceIn | PromptIn


def definition_digest(offer: CapabilityIn) -> bytes:
    """Return the SHA-256 of a definition as canonical JSON (RFC 8785), without its content."""
    definition = offer.model_dump(exclude={"content", "server_id"})
    return sha256(rfc8785.dumps(_exact(definition))).digest()


def _exact(value: Any) -> Any:
    """Take numbers as JSON has them everywhere: as those of 64 bits."""
    if isinstance(value, dict):
        return {key: _exact(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_exact(member) for member in value]
    large = type(value) is int and not -_EXACT < value < _EXACT
    return float(value) if large or isinstance(value, Decimal) else value


def capability_rows(offers: Sequence[CapabilityIn]) -> str:
    """Write what statements take of them; Invalid if two have the same name."""
    if len({(each.kind, each.stored().name) for each in offers}) < len(offers):
        raise InvalidRequest("tools, resources, prompts: two of a kind have the same name")
    return orjson.dumps([_row(each) for each in offers], json_default).decode()


def _row(offer: CapabilityIn) -> dict[str, Any]:
    row = offer.stored()._asdict()
    # What is too large is refused before its digest, which takes longer.
    definition = dump_bounded_json(row["definition"], "definition", LARGEST)
    size = len(definition.encode()) + len(orjson.dumps(offer.description))
    dump_bounded_json(row["content"], "content", LONGEST)
    made = {"id": str(new_id()), "kind": offer.kind, "digest": definition_digest(offer).hex()}
    return row | made | {"size": size}


class NewTool(ToolIn, strict=True):
    """A tool to add to what a server offers."""

    server_id: Annotated[UUID, Field(strict=False)]


class RefreshRequest(BaseModel, strict=True):
    """All that a server offers: what is not named here, it offers no longer."""

    tools: Annotated[list[ToolIn], Field(max_length=MAX_CAPABILITIES)] | None = None
    resources: Annotated[list[ResourceIn], Field(max_length=MAX_CAPABILITIES)] | None = None
    prompts: Annotated[list[PromptIn], Field(max_length=MAX_CAPABILITIES)] | None = None

    def all(self) -> list[CapabilityIn]:
        return [*(self.tools or ()), *(self.resources or ()), *(self.prompts or ())]

    def counts(self) -> dict[str, int]:
        return {name: len(getattr(self, name) or ()) for name in type(self).model_fields}


class NewContent(BaseModel, strict=True):
    """What is in a resource, or what a prompt says: a text, or messages."""

    content: Content


class Acknowledgement(BaseModel, strict=True):
    """The definition that someone has looked at."""

    definition_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class CapabilityPage(ActiveFilter):
    """Which of them: of a server, or of all."""

    cursor: str | None = Field(None, max_length=6000)
    server_id: UUID | None = None

    def place(self, project_id: ProjectId, kind: Kind) -> dict[str, Any]:
        """Return after which name and id the page begins."""
        name, id = self.last(project_id, kind.encode()) or (None, None)
        return {"last_name": name, "last_id": id and UUID(id)}

    def next(self, project_id: ProjectId, last: "Capability") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        name = last.uri if isinstance(last, Resource) else last.name
        return self.following(project_id, (name, last.id), last.kind.encode())


class ToolPage(CapabilityPage):
    """Which tools; `changed`: those whose definition asks for a look."""

    changed: bool = False


@dataclass(slots=True)
class ServerRef:
    """The server that offers something."""

    id: UUID
    name: str
    url: str


@dataclass(slots=True)
class CapabilityBase:
    """What is told of all that is offered."""

    id: UUID
    server_id: UUID
    description: str | None
    is_active: bool
    created_at: datetime
    project_id: ProjectId
    server: ServerRef
    api_key_id: None


@dataclass(slots=True)
class Tool(CapabilityBase):
    """What a server's tool does, and what it takes.

    A `definition_changed_at` asks for acknowledgement: it is not the definition that is pinned.
    """

    kind: ClassVar[Kind] = "tool"
    name: str
    input_schema: dict[str, Any]
    definition_sha256: str
    definition_changed_at: datetime | None


@dataclass(slots=True)
class Resource(CapabilityBase):
    """What a server has to read."""

    kind: ClassVar[Kind] = "resource"
    uri: str
    name: str | None
    mime_type: str | None


@dataclass(slots=True)
class Prompt(CapabilityBase):
    """What a server's prompt is for, and which arguments it takes."""

    kind: ClassVar[Kind] = "prompt"
    name: str
    arguments: dict[str, Any] | list[dict[str, Any]] | None


Capability = Tool | Resource | Prompt


def capability_of_row(
    project_id: ProjectId, kind: Kind, row: asyncpg.Record, server: ServerRef
) -> Any:
    """Tell what is stored of a capability, in the words of its kind."""
    names = "id", "server_id", "name", "description", "is_active", "created_at"
    common: dict[str, Any] = {name: row[name] for name in names}
    common |= {"project_id": project_id, "server": server, "api_key_id": None}
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


class CapabilityContent(NamedTuple):
    """A capability, and what was recorded of its content; `at` is None where nothing was."""

    capability: Any
    content: Any
    at: datetime | None


@dataclass(slots=True)
class CapabilityNames:
    """Tools and prompts by name, resources by URI."""

    tools: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class RefreshResult:
    """What a server offers now, and how that differs from before."""

    server: McpServer
    tools: list[Tool] = field(default_factory=list)
    resources: list[Resource] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    added: CapabilityNames = field(default_factory=CapabilityNames)
    changed: CapabilityNames = field(default_factory=CapabilityNames)
    removed: CapabilityNames = field(default_factory=CapabilityNames)
