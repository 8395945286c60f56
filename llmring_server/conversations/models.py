"""Conversation models: conversations, their messages, and pages of both."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, cast
from uuid import UUID

import asyncpg
import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import FormerKeyId
from llmring_server.core.numbers import WHOLE, Count
from llmring_server.core.pagination import Limit, PageParams, Position
from llmring_server.core.strict_json import (
    MAX_DOCUMENT_DEPTH,
    NOT_BLANK,
    JsonRules,
    SmallFreeJsonObject,
    check_json,
    dump_json,
    json_default,
    load_json,
)
from llmring_server.core.warnings import RequestWarning
from llmring_server.pricing.cost import COST_QUANTUM
from llmring_server.receipts.models import Receipt
from llmring_server.usage.models import Money

# How much of a message is stored: nothing, all but its content, or everything.
ContentLevel = Literal["none", "metadata", "full"]

# In ascending order.
CONTENT_LEVELS: tuple[ContentLevel, ...] = ("none", "metadata", "full")

MAX_BATCH_MESSAGES = 1000

# To send a statement takes the event loop a millisecond for each MiB, and the database up to a
# second for four: it makes each word searchable.
MAX_STATEMENT_BYTES = 4 * 1024 * 1024

# Some providers put the signature of a thought into the id of a tool call.
MAX_TOOL_CALL_ID = 16 * 1024

# The members whose strings are no text, in the messages and parts of all providers: beside ids, the
# kinds of things, addresses, and encoded data.
NOT_TEXT = frozenset(
    {
        "bytes",
        "data",
        "encryptedContent",
        "encrypted_content",
        "file_data",
        "format",
        "mediaType",
        "media_type",
        "mimeType",
        "mime_type",
        "object",
        "role",
        "signature",
        "status",
        "thoughtSignature",
        "thought_signature",
        "type",
        "uri",
        "url",
    }
)
_ID = re.compile(r"(.*_)?ids?|.*[a-z]I[dD]s?|(file|image)_?ur[il]|fileUri")
# Data that is encoded in base64, or contained in an address.
_ENCODED = re.compile(r"data:.*|[A-Za-z0-9+/_=\r\n-]{512,}", re.DOTALL)

# Only the first part of a long message can be searched: more might not fit into a tsvector.
MAX_SEARCHABLE_CHARACTERS = 100_000

DEFAULT_MODEL_ALIAS = "default"
DEFAULT_TEMPERATURE = 0.7


def _empty_if_null(value: object) -> object:
    return {} if value is None else value


def _user_if_null(value: object) -> object:
    return "user" if value is None else value


def _default_alias_if_null(value: object) -> object:
    return DEFAULT_MODEL_ALIAS if value is None else value


def _temperature(value: object) -> object:
    """Convert the Decimal that our JSON parser returns; null means the default."""
    if value is None:
        return DEFAULT_TEMPERATURE
    return float(value) if isinstance(value, Decimal) else value


_FREE_JSON = JsonRules(free_text=True, max_depth=MAX_DOCUMENT_DEPTH)
JsonList = Annotated[list[Any], _FREE_JSON]
Content = Annotated[str | list[Any] | dict[str, Any] | None, _FREE_JSON]
MessageMetadata = Annotated[
    SmallFreeJsonObject,
    BeforeValidator(_empty_if_null, json_schema_input_type=dict[str, Any] | None),
]
# A constraint behind the validator would be missing from the JSON schema.
Role = Annotated[str, Field(max_length=50, pattern=NOT_BLANK), AfterValidator(check_json)]
ToolCallId = Annotated[str, Field(max_length=MAX_TOOL_CALL_ID), AfterValidator(check_json)]
Title = Annotated[str, Field(max_length=500), JsonRules(free_text=True)]
SystemPrompt = Annotated[str, Field(max_length=200_000), JsonRules(free_text=True)]
ModelAlias = Annotated[str, Field(max_length=255, pattern=NOT_BLANK), AfterValidator(check_json)]
Temperature = Annotated[float, Field(ge=0, le=2)]

_MONEY = TypeAdapter(Money)

_MEMBERS = JsonRules(free_text=True, max_depth=MAX_DOCUMENT_DEPTH + 1)


def check_members(members: dict[str, Any] | None) -> None:
    """Check the members that a model does not know; replace in them what cannot be stored."""
    if members:
        members.update(_MEMBERS.check(members))


class SentContent(BaseModel, strict=True, extra="allow"):
    """What has content that may have been sent in a form that cannot be stored."""

    _content_is_lost: bool = PrivateAttr(default=False)

    @property
    def content_is_lost(self) -> bool:
        """Whether content was sent that cannot be stored."""
        return self._content_is_lost

    @content_is_lost.setter
    def content_is_lost(self, value: bool) -> None:
        self._content_is_lost = value


class NewMessage(SentContent):
    """A message to store. `content` is text or a provider's parts; any `role` is accepted.

    All other members that the provider gave it (`parts`, `refusal`, `audio`, `reasoning_content`,
    `name`, ...) are kept as they are sent.
    """

    role: Role
    content: Content = None
    tool_calls: JsonList | None = None
    tool_results: JsonList | None = None
    tool_call_id: ToolCallId | None = None
    metadata: MessageMetadata = Field(default_factory=dict)
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost: Money | None = None

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        check_members(self.model_extra)
        return self

    @property
    def members(self) -> dict[str, Any]:
        """The members beyond the fields of this model."""
        return {} if self.model_extra is None else self.model_extra

    def reported_cost(self) -> Decimal | None:
        """Return `cost`, or else `metadata.cost` if that is an amount of money."""
        cost = self.cost
        if cost is None:
            try:
                cost = _MONEY.validate_python(self.metadata.get("cost"), strict=True)
            except ValidationError:
                return None
        return cost.quantize(COST_QUANTUM)


class ExchangeMessage(NewMessage):
    """A message that was sent to the model; without a role, it is the user's."""

    role: Annotated[Role, BeforeValidator(_user_if_null, json_schema_input_type=Role | None)] = (
        "user"
    )


class MessageBatch(BaseModel, strict=True):
    """Messages to add, all or none. `logging_level` can lower the server's content level."""

    # The id of the conversation is in the path; servers without receipts ignored the other.
    ignored_members: ClassVar = {"conversation_id", "create_receipt"}

    messages: Annotated[list[NewMessage], Field(max_length=MAX_BATCH_MESSAGES)]
    logging_level: ContentLevel = "full"


@with_config(extra="allow")
class MessageResponse(TypedDict):
    """A message, with the members that only its provider knows, as they were sent.

    `content_kept` is false if the server stores less than was sent: then `content` is an empty
    text. It is also empty if the message was sent without content, or with null. `receipt_id` is
    the receipt of the call that returned the message. `at_origin` has the members that were sent
    under names which mean something else here, such as the provider's `id` of the message.
    """

    id: UUID
    conversation_id: UUID
    timestamp: datetime
    role: str
    content_hash: str | None
    tool_call_id: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    content: Any
    content_kept: bool
    tool_calls: Any
    tool_results: Any
    metadata: dict[str, Any]
    receipt_id: str | None
    at_origin: dict[str, Any] | None


@with_config(extra="allow")
class AddedMessage(MessageResponse):
    """A message that was added. `warnings`: its parts that are not stored as they were sent."""

    warnings: list[RequestWarning]


# The names of our own members, in every response with a message.
OWN_NAMES = frozenset(AddedMessage.__annotations__)


@dataclass(slots=True)
class Message:
    """A stored message. `members` are those that only its provider knows.

    `content_kept` is false if the content was invalid, or if the level of the server or of the
    request kept `content`, `tool_results` or `members` from being stored: then `content` is empty.
    """

    id: UUID
    conversation_id: UUID
    timestamp: datetime
    role: str
    content_hash: str | None
    tool_call_id: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    content: Any
    content_kept: bool
    tool_calls: Any
    tool_results: Any
    metadata: dict[str, Any]
    members: dict[str, Any] = field(default_factory=dict)
    receipt_id: str | None = None

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        fields = dict(row)
        del fields["at_origin"]
        for name in ("content", "tool_calls", "tool_results", "metadata", "members"):
            if fields[name] is not None:
                fields[name] = load_json(fields[name])
        fields["members"] = fields["members"] or {}
        if not fields["content_kept"] or fields["content"] is None:
            fields["content"] = ""
        return cls(**fields)

    @classmethod
    def from_new(
        cls,
        message: NewMessage,
        id: UUID,
        timestamp: datetime,
        conversation_id: UUID,
        level: ContentLevel,
    ) -> Self:
        members = message.members
        is_kept = level == "full" or not (message.content or message.tool_results or members)
        return cls(
            id=id,
            conversation_id=conversation_id,
            timestamp=timestamp,
            role=message.role,
            content_hash=_content_hash(message.content),
            tool_call_id=message.tool_call_id,
            input_tokens=message.input_tokens,
            output_tokens=message.output_tokens,
            cost=message.reported_cost(),
            content=message.content if is_kept and message.content is not None else "",
            content_kept=is_kept and not message.content_is_lost,
            tool_calls=message.tool_calls,
            tool_results=message.tool_results if is_kept else None,
            metadata=message.metadata,
            members=members if is_kept else {},
        )

    def response(self) -> MessageResponse:
        """Return the message as its provider wrote it, with our own members beside."""
        own: dict[str, Any] = {name: getattr(self, name) for name in _STORED_NAMES}
        at_origin = {}
        for name, value in self.members.items():
            if name not in OWN_NAMES:
                own[name] = value
            elif value is not None:
                at_origin[name] = value
        own["at_origin"] = at_origin or None
        return cast("MessageResponse", own)


_STORED_NAMES = tuple(name for name in Message.__slots__ if name != "members")


def stored_message_response(row: asyncpg.Record) -> MessageResponse:
    """Return a stored message as `Message.response` does, with its JSON as it is, unparsed."""
    own: dict[str, Any] = dict(row)
    others, at_origin = own.pop("members"), own.pop("at_origin")
    for name in ("content", "tool_calls", "tool_results", "metadata"):
        if own[name] is not None:
            own[name] = orjson.Fragment(own[name])
    if not own["content_kept"] or own["content"] is None:
        own["content"] = ""
    own["at_origin"] = None if at_origin is None else orjson.Fragment(at_origin)
    if others is not None:
        # The other members follow the last value, so that they need not be parsed.
        own["at_origin"] = orjson.Fragment(b"%b,%b" % (at_origin or b"null", others))
    return cast("MessageResponse", own)


def with_consecutive_ids(
    messages: Sequence[NewMessage],
    first_id: UUID,
    timestamp: datetime,
    conversation_id: UUID,
    level: ContentLevel,
) -> list[Message]:
    """Return messages with ids that count up from `first_id`, so that ids give their order.

    A replayed request needs only the first id and its time to return the same messages again.
    """
    return [
        Message.from_new(message, UUID(int=first_id.int + index), timestamp, conversation_id, level)
        for index, message in enumerate(messages)
    ]


def message_arrays(messages: Sequence[Message], level: ContentLevel) -> Iterator[bytes]:
    """Yield messages as the JSON arrays that the statement `append` takes.

    An array has several messages only as long as it has at most `MAX_STATEMENT_BYTES`.
    """
    is_searchable = level == "full"
    rows: list[bytes] = []
    size = 0
    for message in messages:
        row = orjson.dumps(message_row(message, is_searchable=is_searchable), json_default)
        if rows and size + len(row) > MAX_STATEMENT_BYTES:
            yield _array(rows)
            rows, size = [], 0
        rows.append(row)
        size += len(row)
        del row  # so that a large one is not kept while the statement runs
    if rows:
        yield _array(rows)


def _array(rows: list[bytes]) -> bytes:
    """Return a JSON array; the rows are removed from the list."""
    array = b"[%b]" % (rows[0] if len(rows) == 1 else b",".join(rows))
    rows.clear()
    return array


def message_row(message: Message, *, is_searchable: bool) -> dict[str, Any]:
    """Return a message as statements take it, without its conversation."""
    json_columns = {
        "content": dump_json(message.content if message.content_kept else None, "message"),
        "tool_calls": dump_json(message.tool_calls, "message"),
        "tool_results": dump_json(message.tool_results, "message"),
        "metadata": dump_json(message.metadata, "message"),
        "members": dump_json(message.members or None, "message"),
    }
    row: dict[str, Any] = {
        "id": message.id,
        "created_at": message.timestamp,
        "role": message.role,
        "content_hash": message.content_hash,
        "tool_call_id": message.tool_call_id,
        "input_tokens": message.input_tokens,
        "output_tokens": message.output_tokens,
        "cost": message.cost,
        "content_kept": message.content_kept,
        "size_bytes": sum(len(text) for text in json_columns.values())
        + len(message.tool_call_id or ""),
        "searchable_text": _searchable_text(message) if is_searchable else None,
    }
    for name, text in json_columns.items():
        row[name] = orjson.Fragment(text)
    return row


def _content_hash(content: Any) -> str | None:
    if not content:
        return None
    text = content.encode() if isinstance(content, str) else dump_json(content, "message")
    return sha256(text).hexdigest()


def _searchable_text(message: Message) -> str | None:
    texts = []
    length = 0
    values = [message.content, message.tool_calls, message.tool_results, message.members]
    for text in _texts(values):
        # Arguments in JSON may contain U+0000 in escaped form, which PostgreSQL cannot store.
        texts.append(text[:MAX_SEARCHABLE_CHARACTERS].replace("\0", " "))
        length += len(texts[-1]) + 1
        if length > MAX_SEARCHABLE_CHARACTERS:
            break
    return "\n".join(texts)[:MAX_SEARCHABLE_CHARACTERS] or None


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, in order, whichever provider's message it is part of."""
    # Without recursion: the arguments of a tool may be JSON in JSON, of any depth.
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            # Of a long text, only so much can be searched.
            if not _ENCODED.fullmatch(value[:MAX_SEARCHABLE_CHARACTERS]):
                yield value
        elif isinstance(value, list):
            pending += reversed(value)
        elif isinstance(value, dict):
            pending += [
                _parsed(member) if name == "arguments" else member
                for name, member in reversed(value.items())
                if not isinstance(member, str) or _is_text(name, value)
            ]


def _is_text(name: str, parent: dict[str, Any]) -> bool:
    """Tell whether the string of this name in a part of a message is text."""
    if name == "data":
        # A document of Anthropic; all other data is encoded.
        return parent.get("type") == "text"
    return name not in NOT_TEXT and not _ID.fullmatch(name)


def _parsed(arguments: Any) -> Any:
    """Return the arguments of a tool, which most providers write as JSON in a string."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments


class NewConversation(BaseModel, strict=True):
    """A conversation to create, or the fields of one to change."""

    title: Title | None = None
    system_prompt: SystemPrompt | None = None
    model_alias: Annotated[
        ModelAlias,
        BeforeValidator(_default_alias_if_null, json_schema_input_type=ModelAlias | None),
    ] = DEFAULT_MODEL_ALIAS
    temperature: Annotated[
        Temperature, BeforeValidator(_temperature, json_schema_input_type=Temperature | None)
    ] = DEFAULT_TEMPERATURE
    max_tokens: Annotated[int, Field(gt=0, lt=2**31), WHOLE] | None = None


@dataclass(slots=True)
class Conversation:
    """A conversation. Its totals include messages that were deleted."""

    id: UUID
    title: str | None
    system_prompt: str | None
    model_alias: str
    temperature: float
    max_tokens: int | None
    origin: str | None
    message_count: int
    total_input_tokens: int
    total_output_tokens: int
    total_cost: Decimal
    created_at: datetime
    updated_at: datetime
    last_message_at: datetime | None
    project_id: ProjectId
    api_key_id: FormerKeyId = None

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        fields = dict(row)
        for name in ("total_input_tokens", "total_output_tokens"):
            fields[name] = int(fields[name])
        return cls(**fields)


@dataclass(slots=True)
class ConversationWithMessages(Conversation):
    """A conversation with its newest messages, oldest first."""

    messages: list[MessageResponse] = field(default_factory=list)

    @classmethod
    def of(cls, conversation: Conversation, messages: list[MessageResponse]) -> Self:
        fields = {name: getattr(conversation, name) for name in Conversation.__slots__}
        return cls(**fields, messages=messages)


class AppendResult(NamedTuple):
    """Stored messages. `replayed` means that an earlier request with the same key stored them."""

    conversation_id: UUID
    messages: list[Message]
    replayed: bool = False
    receipt: Receipt | None = None
    warnings: Sequence[RequestWarning] = ()


class ConversationPage(PageParams):
    """With `q`, only conversations that match this search in the title or in one message.

    A page is shorter than `limit` if the conversations are large.
    """

    limit: Limit = Field(20, ge=1, le=500)
    q: Annotated[str, Field(max_length=500)] | None = Field(
        None, description="A search in the title and in each message."
    )

    def next(self, project_id: ProjectId, last: Conversation) -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(project_id, Position(last.updated_at, last.id))


class MessagePage(PageParams):
    """`order` is `asc` (oldest first) or `desc` (newest first).

    A page is shorter than `limit` if the messages are large.
    """

    limit: Limit = Field(100, ge=1, le=1000)
    order: Literal["asc", "desc"] = Field(
        "asc", description="`asc`: oldest first; `desc`: newest first."
    )

    def next(self, project_id: ProjectId, last: Message) -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.next_after(project_id, last.conversation_id, last.timestamp, last.id)

    def next_after(
        self, project_id: ProjectId, conversation_id: UUID, timestamp: datetime, id: UUID
    ) -> str:
        """Return the same cursor, given the time and the id of the last message."""
        return self.following(project_id, Position(timestamp, id), conversation_id.bytes)


class MessageWindow(BaseModel):
    """The last `message_limit` messages are included, unless `include_messages` is false."""

    include_messages: bool = Field(default=True, description="Whether messages are included.")
    message_limit: int = Field(
        100, ge=1, le=1000, description="The largest number of messages, counted from the last."
    )
