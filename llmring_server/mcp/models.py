"""MCP models: servers, their capabilities (tools, resources and prompts), and executions."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_type_hints
from uuid import UUID

import asyncpg
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import FormerKeyId
from llmring_server.core.numbers import Milliseconds
from llmring_server.core.pagination import Cursor, Limit, PageParams, Position
from llmring_server.core.strict_json import (
    MAX_DOCUMENT_DEPTH,
    NOT_BLANK,
    JsonObject,
    JsonReader,
    JsonRules,
    check_json,
    encode_json,
    load_json,
)
from llmring_server.core.warnings import RequestWarning
from llmring_server.errors import QuotaExceeded
from llmring_server.mcp.urls import URL_PATTERN, check_url
from llmring_server.usage.models import Status

# Of each kind, of one server. A page of a list holds as many: clients refresh with what they read.
MAX_CAPABILITIES = 1000
MAX_URI_BYTES = 2000
# A response repeats it with each capability of the server.
MAX_URL_JSON_BYTES = 2000

Transport = Literal["stdio", "http", "websocket"]
CapabilityKind = Literal["tool", "resource", "prompt"]

# Responses show this in place of a secret; a client that sends it back changes nothing.
SECRET_PLACEHOLDER = {"configured": True}

# PATCH clears these fields of a server with null.
CLEARABLE_FIELDS = {"auth_config", "capabilities"}


def _empty_if_null(value: object) -> object:
    return {} if value is None else value


def _check_uri_length(uri: str) -> str:
    if len(uri.encode()) > MAX_URI_BYTES:
        raise ValueError(f"must be at most {MAX_URI_BYTES:,} bytes")
    return uri


def _check_url_length(url: str) -> str:
    if len(encode_json(url)) > MAX_URL_JSON_BYTES:
        raise ValueError(f"must be at most {MAX_URL_JSON_BYTES:,} bytes of JSON")
    return url


def too_many(kinds: str, count: int, maximum: int) -> QuotaExceeded:
    """Return the error for a server with too many `tools`, `resources` or `prompts`."""
    return QuotaExceeded(
        f"An MCP server can offer at most {maximum:,} {kinds}, and this one would offer {count:,}:"
        " remove some, register another server for some of them, or let the operator raise"
        " LLMRING_MAX_MCP_CAPABILITIES."
    )


Name = Annotated[str, Field(max_length=255, pattern=NOT_BLANK), AfterValidator(check_json)]
ShortText = Annotated[str, Field(max_length=255), AfterValidator(check_json)]
Description = Annotated[str, Field(max_length=50_000), JsonRules(free_text=True)]

# The pattern is for the OpenAPI document only: the validator's message is easier to read.
ServerUrl = Annotated[
    str,
    Field(max_length=1000, json_schema_extra={"pattern": URL_PATTERN}),
    AfterValidator(check_url),
    AfterValidator(_check_url_length),
]

# No control characters: in a cursor, as JSON, each of them would take six bytes.
ResourceUri = Annotated[
    str,
    Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"),
    AfterValidator(_check_uri_length),
]

InputSchema = Annotated[
    dict[str, Any],
    JsonRules(free_text=True, max_depth=MAX_DOCUMENT_DEPTH),
    BeforeValidator(_empty_if_null, json_schema_input_type=dict[str, Any] | None),
]

# Of a prompt: a text or a list of messages. Of a resource: any text or JSON.
Content = Annotated[
    str | list[Any] | dict[str, Any], JsonRules(free_text=True, max_depth=MAX_DOCUMENT_DEPTH)
]

DeclaredArguments = Annotated[
    dict[str, Any] | list[dict[str, Any]], JsonRules(free_text=True, max_depth=MAX_DOCUMENT_DEPTH)
]

# A member of a capability that this server does not interpret.
Member = Annotated[Any, JsonRules(free_text=True, max_depth=MAX_DOCUMENT_DEPTH)]
MAX_NAME_IN_ERROR = 100

# A SHA-256, in hexadecimal digits.
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

# What a tool was given, and what it returned.
Payload = Annotated[dict[str, Any], JsonRules(free_text=True, max_depth=MAX_DOCUMENT_DEPTH)]


# Servers.


class NewMcpServer(BaseModel, strict=True):
    """An MCP server to register; its `auth_config` holds credentials and is stored encrypted."""

    name: Name
    url: ServerUrl
    transport_type: Transport
    auth_config: JsonObject | None = None
    capabilities: JsonObject | None = None


class McpServerUpdate(BaseModel, strict=True):
    """Fields to change. Null is ignored, except that PATCH clears `auth_config`, `capabilities`."""

    name: Name | None = None
    url: ServerUrl | None = None
    transport_type: Transport | None = None
    auth_config: JsonObject | None = None
    capabilities: JsonObject | None = None
    is_active: bool | None = None

    def changed_fields(self, *, null_clears: bool) -> list[str]:
        """Return the names of the fields to change."""
        names = []
        for name in sorted(self.model_fields_set):
            value = getattr(self, name)
            # A client that sends back what it read has not seen the secret.
            is_placeholder = name == "auth_config" and value == SECRET_PLACEHOLDER
            is_cleared = null_clears and name in CLEARABLE_FIELDS
            if not is_placeholder and (value is not None or is_cleared):
                names.append(name)
        return names


class ActiveFilter(PageParams):
    """Active entries, inactive ones, or `all`."""

    limit: Limit = Field(MAX_CAPABILITIES, ge=1, le=MAX_CAPABILITIES)
    is_active: bool = Field(
        default=True, description="Active entries, or inactive ones if it is false."
    )
    all: bool = Field(
        default=False, description="Active and inactive entries; `is_active` is ignored."
    )


class ServerPage(ActiveFilter):
    """A page of servers, newest first."""

    ignored_members: ClassVar = {"project_id"}

    def next(self, project_id: ProjectId, last: "McpServer") -> str:
        """Return the cursor of the page after the one that ends with `last`."""
        return self.following(project_id, Position(last.created_at, last.id), b"servers")


class SecretPresence(BaseModel):
    """Says that a secret is stored. Only `GET .../secret` returns it."""

    configured: Literal[True] = True


@dataclass(slots=True)
class McpServer:
    """An MCP server that a project's clients connect to; this server never does."""

    id: UUID
    name: str
    url: str
    transport_type: Transport
    auth_config: SecretPresence | None
    capabilities: dict[str, Any] | None
    is_active: bool
    created_at: datetime
    updated_at: datetime
    refreshed_at: datetime | None
    project_id: ProjectId
    api_key_id: FormerKeyId = None

    @classmethod
    def from_row(
        cls, project_id: ProjectId, row: asyncpg.Record, read_json: JsonReader = load_json
    ) -> Self:
        fields = dict(row)
        fields["auth_config"] = SecretPresence() if fields.pop("has_secret") else None
        if fields["capabilities"] is not None:
            fields["capabilities"] = read_json(fields["capabilities"])
        return cls(**fields, project_id=project_id)


# Capabilities, as clients report them.


class CapabilityRow(NamedTuple):
    """The columns of a capability that its kind fills in differently."""

    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    definition: Any = None
    content: Any = None


class OfferedCapabilityBase(BaseModel, strict=True, extra="allow"):
    """What all capabilities have in common: members beyond their own are kept as they are."""

    kind: ClassVar[CapabilityKind]
    # The members by which errors name it: the first that is a text.
    names_in_errors: ClassVar[tuple[str, ...]] = ("name",)
    # Fields that have another name in MCP, which is not a member beside them.
    mcp_names: ClassVar[dict[str, str]] = {}
    __pydantic_extra__: dict[str, Member] = Field(init=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_it_in_errors(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            capability = handler(value)
        except ValidationError as exc:
            label = cls.label_in_errors(value)
            if label is None:
                raise
            raise ValidationError.from_exception_data(
                cls.__name__, [_labelled(error, label) for error in exc.errors()]
            ) from exc
        capability._reject_ambiguity()
        return capability

    @classmethod
    def label_in_errors(cls, value: Any) -> str | None:
        """Return how errors name the capability that `value` describes, if it has a name."""
        if isinstance(value, dict):
            for member in cls.names_in_errors:
                if isinstance(name := value.get(member), str):
                    return label_of(cls.kind, name)
        return None

    def _reject_ambiguity(self) -> None:
        """Raise ValueError if a member is there under both of its names, with two values."""
        extra = self.model_extra or {}
        for name, mcp_name in self.mcp_names.items():
            for other in {name, mcp_name} & extra.keys():
                if extra[other] not in (None, getattr(self, name)):
                    label = label_of(self.kind, self.to_row().name)
                    raise ValueError(f"{mcp_name} and {name} differ: send one ({label})")

    @property
    def members(self) -> dict[str, Any]:
        """The members beyond those that have a field. Null says the same as no member."""
        own = {*self.mcp_names, *self.mcp_names.values(), *ANSWERED_MEMBERS[self.kind]}
        return {
            name: value
            for name, value in (self.model_extra or {}).items()
            if value is not None and name not in own
        }

    def not_kept(self, at: str = "") -> list[RequestWarning]:
        """Warn of members that have the name of one of ours, and are not what we answered.

        `at` is the path of the capability in the request.
        """
        answered = ANSWERED_MEMBERS[self.kind]
        return [
            {"code": "not_kept", "field": f"{at}{name}", "detail": NOT_A_MEMBER}
            for name, value in (self.model_extra or {}).items()
            if name in answered and value is not None and not _is_answer(answered[name], value)
        ]

    def to_row(self) -> CapabilityRow:
        raise NotImplementedError


def label_of(kind: CapabilityKind, name: str) -> str:
    """Return how errors name a capability, without what could forge a line of a log."""
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return f'{kind} "{shown[:MAX_NAME_IN_ERROR]}"'


def _labelled(error: ErrorDetails, label: str) -> InitErrorDetails:
    message = PydanticCustomError(
        error["type"], "{message}", {"message": f"{error['msg']} ({label})"}
    )
    return {"type": message, "loc": error["loc"], "input": error["input"]}


class OfferedTool(OfferedCapabilityBase, strict=True):
    """A tool that a server offers, with any other members that MCP has or will have for it."""

    kind: ClassVar[CapabilityKind] = "tool"
    mcp_names: ClassVar = {"input_schema": "inputSchema"}
    name: Name
    description: Description | None = None
    input_schema: InputSchema = Field(
        {}, validation_alias=AliasChoices("inputSchema", "input_schema")
    )

    def to_row(self) -> CapabilityRow:
        return CapabilityRow(
            name=self.name, description=self.description, definition=self.input_schema
        )


class NewTool(OfferedTool, strict=True):
    """A tool to add to a server's capabilities."""

    server_id: Annotated[UUID, Field(strict=False)]


class OfferedResource(OfferedCapabilityBase, strict=True):
    """A resource that a server offers, or a template of resources: its `uriTemplate` is the `uri`.

    It may have its content, and other members that MCP has or will have for it.
    """

    kind: ClassVar[CapabilityKind] = "resource"
    names_in_errors: ClassVar = ("uri", "uriTemplate", "name")
    mcp_names: ClassVar = {"mime_type": "mimeType"}
    uri: ResourceUri
    name: ShortText | None = None
    description: Description | None = None
    mime_type: ShortText | None = Field(
        None, validation_alias=AliasChoices("mimeType", "mime_type")
    )
    content: Content | None = None

    @model_validator(mode="before")
    @classmethod
    def _template_has_a_uri(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("uri") is None and "uriTemplate" in value:
            return {**value, "uri": value["uriTemplate"]}
        return value

    def to_row(self) -> CapabilityRow:
        return CapabilityRow(
            name=self.uri,
            title=self.name,
            description=self.description,
            mime_type=self.mime_type,
            content=self.content,
        )


class OfferedPrompt(OfferedCapabilityBase, strict=True):
    """A prompt that a server offers, with or without its content: a text or messages.

    It may have other members that MCP has or will have for it.
    """

    kind: ClassVar[CapabilityKind] = "prompt"
    name: Name
    description: Description | None = None
    arguments: DeclaredArguments | None = None
    content: Content | None = None

    def to_row(self) -> CapabilityRow:
        return CapabilityRow(
            name=self.name,
            description=self.description,
            definition=self.arguments,
            content=self.content,
        )


OfferedCapability = OfferedTool | OfferedResource | OfferedPrompt


# The members of a refresh in which each kind of capability is.
REFRESHED_MEMBERS = {
    "tools": ("tools",),
    "resources": ("resources", "resourceTemplates", "resource_templates"),
    "prompts": ("prompts",),
}


class CapabilityRefresh(BaseModel, strict=True):
    """All capabilities of a server. Those that are missing here are no longer offered.

    Resource templates, which MCP lists separately, count as resources.
    """

    tools: Annotated[list[OfferedTool], Field(max_length=MAX_CAPABILITIES)] | None = None
    resources: Annotated[list[OfferedResource], Field(max_length=MAX_CAPABILITIES)] | None = None
    resource_templates: (
        Annotated[list[OfferedResource], Field(max_length=MAX_CAPABILITIES)] | None
    ) = Field(None, validation_alias=AliasChoices("resourceTemplates", "resource_templates"))
    prompts: Annotated[list[OfferedPrompt], Field(max_length=MAX_CAPABILITIES)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_counts(cls, value: Any) -> Any:
        """Refuse more than any server may offer before they are validated, which takes long."""
        if isinstance(value, dict):
            for kinds, members in REFRESHED_MEMBERS.items():
                lists = [value[name] for name in members if isinstance(value.get(name), list)]
                if (count := sum(map(len, lists))) > MAX_CAPABILITIES:
                    raise too_many(kinds, count, MAX_CAPABILITIES)
        return value

    def not_kept(self) -> list[RequestWarning]:
        """Warn of members that have the name of one of ours, and are not what we answered."""
        return [
            warning
            for name in ("tools", "resources", "resource_templates", "prompts")
            for index, capability in enumerate(getattr(self, name) or ())
            for warning in capability.not_kept(f"{name}.{index}.")
        ][:MAX_WARNINGS]

    def capabilities(self) -> list[OfferedCapability]:
        resources = [*(self.resources or ()), *(self.resource_templates or ())]
        return [*(self.tools or ()), *resources, *(self.prompts or ())]

    def counts(self) -> dict[str, int]:
        return {
            "tools": len(self.tools or ()),
            "resources": len(self.resources or ()) + len(self.resource_templates or ()),
            "prompts": len(self.prompts or ()),
        }


class NewContent(BaseModel, strict=True):
    """The content of a resource, or of a prompt: a text or messages."""

    content: Content


class Acknowledgement(BaseModel, strict=True):
    """The definition that was reviewed."""

    definition_sha256: Digest


class CapabilityPage(ActiveFilter):
    """A page of capabilities, of one server or of all.

    All that one server offers, unless a page is asked for: clients refresh with what they read.
    """

    ignored_members: ClassVar = {"project_id"}
    # It holds a name, and a resource's URI may be long.
    cursor: Cursor = Field(None, max_length=6000)
    server_id: UUID | None = Field(None, description="Only capabilities of this server.")

    @property
    def is_complete(self) -> bool:
        """Whether this is all that one server offers, however much it is."""
        is_page = {"limit", "offset", "cursor"} & self.model_fields_set
        return bool(self.server_id and self.is_active and not self.all and not is_page)

    def position(self, project_id: ProjectId, kind: CapabilityKind) -> dict[str, Any]:
        """Return the name and the id after which the page begins."""
        name, id = self.last(project_id, kind.encode()) or (None, None)
        return {"last_name": name, "last_id": id and UUID(id)}

    def next(self, project_id: ProjectId, last: "Capability") -> str:
        """Return the cursor of the page after the one that ends with `last`."""
        name = last.uri if isinstance(last, McpResource) else last.name
        return self.following(project_id, (name, last.id), last.kind.encode())


class ToolPage(CapabilityPage):
    """A page of tools; with `changed`, of those whose definition needs review."""

    changed: bool = Field(
        default=False,
        description="Only tools whose definition has changed and is not yet acknowledged.",
    )


# Capabilities, as they are stored.


@dataclass(slots=True)
class McpServerRef:
    """The server that offers a capability."""

    id: UUID
    name: str
    url: str

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(row["server_id"], row["server_name"], row["server_url"])


@dataclass(slots=True)
class CapabilityBase:
    """The fields that all capabilities have; a response also has the `members`, by their names.

    If JSON is not parsed, `members` are the bytes of an object: they are written beside the fields.
    """

    id: UUID
    server_id: UUID
    description: str | None
    is_active: bool
    created_at: datetime
    project_id: ProjectId
    server: McpServerRef
    api_key_id: FormerKeyId
    members: Annotated[dict[str, Any], Field(exclude=True)]


@dataclass(slots=True)
class McpTool(CapabilityBase):
    """A tool and its input schema, with the other members that its server sent.

    `definition_changed_at` is set while the definition differs from the one that was acknowledged.
    `definition_sha256` is the digest of the whole definition, or in version 1, which is from before
    other members were kept, of `name`, `description` and `input_schema`.
    """

    kind: ClassVar[CapabilityKind] = "tool"
    name: str
    input_schema: dict[str, Any]
    definition_sha256: str
    definition_version: Literal[1, 2]
    definition_changed_at: datetime | None


@dataclass(slots=True)
class McpResource(CapabilityBase):
    """A resource, without its content, with the other members that its server sent."""

    kind: ClassVar[CapabilityKind] = "resource"
    uri: str
    name: str | None
    mime_type: str | None


@dataclass(slots=True)
class McpPrompt(CapabilityBase):
    """A prompt and the arguments that it declares, without its content.

    It has the other members that its server sent.
    """

    kind: ClassVar[CapabilityKind] = "prompt"
    name: str
    arguments: dict[str, Any] | list[dict[str, Any]] | None


Capability = McpTool | McpResource | McpPrompt


def _answered_members(kind: type[Capability], *, others: dict[str, Any]) -> dict[str, Any]:
    """Return a validator for each member of a response that is none of the capability's own."""
    offered = OFFERED_KINDS[kind.kind].model_fields.keys() | {"members"}
    types = get_type_hints(kind, include_extras=True) | others
    return {name: TypeAdapter(types[name]) for name in types if name not in offered | {"kind"}}


OFFERED_KINDS: dict[CapabilityKind, type[OfferedCapabilityBase]] = {
    "tool": OfferedTool,
    "resource": OfferedResource,
    "prompt": OfferedPrompt,
}

# Members of responses, by kind. A client that reports what it read sends them back: then they are
# ignored. A member of another name is the capability's own.
_OF_SERVER: dict[str, Any] = {"server_name": str, "server_url": str}
ANSWERED_MEMBERS: dict[CapabilityKind, dict[str, TypeAdapter[Any]]] = {
    "tool": _answered_members(
        McpTool, others={"definition_sha256": Digest, "warnings": list[RequestWarning]}
    ),
    "resource": _answered_members(McpResource, others=_OF_SERVER),
    "prompt": _answered_members(McpPrompt, others=_OF_SERVER),
}
NOT_A_MEMBER = "Responses have a member of this name with another meaning: it is ignored."
# Of one request: more members are ignored, but not reported one by one.
MAX_WARNINGS = 100


def _is_answer(validator: TypeAdapter[Any], value: Any) -> bool:
    """Return whether a response may have had this value."""
    try:
        validator.validate_json(encode_json(value), strict=True)
    except ValidationError:
        return False
    return True


class JsonReaders(NamedTuple):
    """How a capability's JSON is read: its definition and content, and its other members."""

    value: JsonReader = load_json
    members: JsonReader = load_json


def capability_from_row(
    project_id: ProjectId,
    kind: CapabilityKind,
    row: asyncpg.Record,
    server: McpServerRef,
    read: JsonReaders,
) -> Any:
    """Return the capability of this kind that a row holds."""
    common: dict[str, Any] = {
        "id": row["id"],
        "server_id": row["server_id"],
        "description": row["description"],
        "is_active": row["is_active"],
        "created_at": row["created_at"],
        "project_id": project_id,
        "server": server,
        "api_key_id": None,
        "members": read.members(row["members"] or b"{}"),
    }
    # A tool has a definition; a prompt may have one, a resource never.
    definition: Any = None
    if row["definition"] is not None:
        definition = read.value(row["definition"])
    match kind:
        case "tool":
            return McpTool(
                **common,
                name=row["name"],
                input_schema=definition,
                definition_sha256=row["digest"].hex(),
                definition_version=1 if row["digest_v1"] is None else 2,
                definition_changed_at=row["definition_changed_at"],
            )
        case "resource":
            return McpResource(
                **common, uri=row["name"], name=row["title"], mime_type=row["mime_type"]
            )
        case "prompt":
            return McpPrompt(**common, name=row["name"], arguments=definition)


class CapabilityContent(NamedTuple):
    """A capability and its content; `recorded_at` is None if none was recorded."""

    capability: Any
    content: Any
    recorded_at: datetime | None


@dataclass(slots=True)
class CapabilityNames:
    """Names of tools and prompts, URIs of resources."""

    tools: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class CapabilityRefreshResult:
    """A server's capabilities after a refresh, and what it changed.

    `warnings`: the parts of the request that are not stored as they were sent.
    """

    server: McpServer
    tools: list[McpTool]
    resources: list[McpResource]
    prompts: list[McpPrompt]
    added: CapabilityNames
    changed: CapabilityNames
    removed: CapabilityNames
    warnings: list[RequestWarning] = field(default_factory=list)


# Executions.


class NewToolExecution(BaseModel, strict=True):
    """An execution of a tool; without a `status`, it is `error` if there is an `error`."""

    # The id of the tool is in the path.
    ignored_members: ClassVar = {"tool_id"}

    # Idempotency fingerprints cover these field names: they must not change.
    input: Payload
    output: Payload | None = None
    error: Annotated[str, Field(max_length=10_000), JsonRules(free_text=True)] | None = None
    duration_ms: Milliseconds | None = None
    status: Status | None = None
    conversation_id: Annotated[UUID, Field(strict=False)] | None = None
    log_id: Annotated[UUID, Field(strict=False)] | None = None


@dataclass(slots=True)
class ToolExecution:
    """An execution of a tool; `log_id` is the LLM call that requested it."""

    id: UUID
    tool_id: UUID
    conversation_id: UUID | None
    log_id: UUID | None
    input: dict[str, Any]
    output: dict[str, Any] | None
    error: str | None
    status: Status
    duration_ms: int | None
    executed_at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record, read_json: JsonReader = load_json) -> Self:
        fields = dict(row)
        fields["input"] = read_json(fields["input"])
        if fields["output"] is not None:
            fields["output"] = read_json(fields["output"])
        return cls(**fields)


class ExecutionPage(PageParams):
    """A page of a tool's executions, newest first."""

    limit: Limit = Field(100, ge=1, le=1000)

    def next(self, project_id: ProjectId, last: ToolExecution) -> str:
        """Return the cursor of the page after the one that ends with `last`."""
        return self.following(project_id, Position(last.executed_at, last.id), last.tool_id.bytes)


class ToolStatsQuery(BaseModel):
    """The number of days that statistics cover."""

    days: int = Field(
        30, ge=1, le=400, description="The number of days, up to now, that are counted."
    )


@dataclass(slots=True)
class ToolStats:
    """Executions and errors of a tool, and percentiles of the durations."""

    tool_id: UUID
    days: int
    count: int
    errors: int
    p50_ms: int | None
    p95_ms: int | None
