"""A message: as it is said, as it is written, as it is read back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.core.pagination import PageParams, Position
from llmring_server.core.strict_json import check_json, dump_json, json_default
from llmring_server.pricing.cost import COST_QUANTUM
from llmring_server.receipts.models import Receipt
from llmring_server.usage.call_record import MAX_METADATA_BYTES
from llmring_server.usage.models import Count, Money

Level = Literal["none", "metadata", "full"]


LEVELS: tuple[Level, ...] = ("none", "metadata", "full")


# So much of a message can be searched for: more might not fit into a tsvector.
SEARCHABLE = 100_000


_MONEY = TypeAdapter(Money)


Text = Annotated[str, AfterValidator(check_json)]


List = Annotated[list[Any], AfterValidator(check_json)]


Content = Annotated[str | list[Any] | dict[str, Any] | None, AfterValidator(check_json)]


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(dump_json(check_json(value), "message")) > MAX_METADATA_BYTES:
        raise ValueError("must be at most 64 KiB of JSON")
    return value


def _or_empty(value: object) -> object:
    return {} if value is None else value


def _or_user(value: object) -> object:
    return "user" if value is None else value


Details = Annotated[
    dict[str, Any],
    BeforeValidator(_or_empty, json_schema_input_type=dict[str, Any] | None),
    AfterValidator(_small),
]


Role = Annotated[str, Field(max_length=50, pattern=r"\S"), AfterValidator(check_json)]


class NewMessage(BaseModel, strict=True):
    """One message as a client gives it: content is text, or parts; any role will do."""

    role: Role
    content: Content = None
    tool_calls: List | None = None
    tool_results: List | None = None
    tool_call_id: Annotated[str, Field(max_length=255), AfterValidator(check_json)] | None = None
    metadata: Details = Field(default_factory=dict)
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost: Money | None = None

    def price(self) -> Decimal | None:
        """Return what it cost; metadata may say so, too, as long as it is an amount of money."""
        found = self.cost
        if found is None:
            try:
                found = _MONEY.validate_python(self.metadata.get("cost"), strict=True)
            except ValidationError:
                return None
        return found.quantize(COST_QUANTUM)


class ExchangeMessage(NewMessage):
    """A message of an exchange: where no one is named, the user spoke."""

    role: Annotated[Role, BeforeValidator(_or_user, json_schema_input_type=Role | None)] = "user"


@dataclass(slots=True)
class Message:
    """One message as it is stored: `content` is null where only the fact of it is kept."""

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
    tool_calls: Any
    tool_results: Any
    metadata: dict[str, Any]

    @classmethod
    def of(cls, row: asyncpg.Record, conversation_id: UUID) -> Self:
        id, *told, content, calls, results, metadata = row
        parts = (part and orjson.loads(part) for part in (content, calls, results, metadata))
        return cls(id, conversation_id, *told, *parts)

    @classmethod
    def made(cls, said: NewMessage, id: UUID, conversation_id: UUID, level: Level) -> Self:
        full = level == "full"
        return cls(
            id=id,
            conversation_id=conversation_id,
            timestamp=moment_of(id),
            role=said.role,
            content_hash=_hash(said.content),
            tool_call_id=said.tool_call_id,
            input_tokens=said.input_tokens,
            output_tokens=said.output_tokens,
            cost=said.price(),
            content=said.content if full else None,
            tool_calls=said.tool_calls,
            tool_results=said.tool_results if full else None,
            metadata=said.metadata,
        )


def numbered(first: UUID, messages: Sequence[NewMessage], to: UUID, level: Level) -> list[Message]:
    """Give messages ids that follow each other: the first tells all, and their order is theirs."""
    return [
        Message.made(each, UUID(int=first.int + place), to, level)
        for place, each in enumerate(messages)
    ]


def rows(messages: Sequence[Message]) -> str:
    """Return messages as the statement that stores them takes them."""
    return f"[{b','.join(_row(each) for each in messages).decode()}]"


def _row(message: Message) -> bytes:
    told = {name: getattr(message, name) for name in _TOLD}
    parts = {name: dump_json(getattr(message, name), "message") for name in _PARTS}
    size = sum(map(len, parts.values()))
    words = "\n".join(_texts(message.content))[:SEARCHABLE] or None
    more = {"created_at": message.timestamp, "size": size, "words": words}
    fragments = {name: orjson.Fragment(part) for name, part in parts.items()}
    return orjson.dumps(told | fragments | more, json_default)


_PARTS = ("content", "tool_calls", "tool_results", "metadata")


_TOLD = (
    "id", "role", "content_hash", "tool_call_id", "input_tokens", "output_tokens", "cost",
)  # fmt: skip


def _hash(content: Any) -> str | None:
    if not content:
        return None
    text = content.encode() if isinstance(content, str) else dump_json(content, "message")
    return sha256(text).hexdigest()


def _texts(content: Any) -> Iterator[str]:
    """Yield what can be read in a message, whichever provider's parts it is made of."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from _texts(part)
    elif isinstance(content, dict):
        for name in ("text", "content", "parts"):
            yield from _texts(content.get(name))


MAX_BATCH = 500


ALIAS, TEMPERATURE = "default", 0.7


Alias = Annotated[str, Field(max_length=255, pattern=r"\S"), AfterValidator(check_json)]


Temperature = Annotated[float, Field(ge=0, le=2)]


def _usual_alias(value: object) -> object:
    return ALIAS if value is None else value


def _temperature(value: object) -> object:
    """Take the number that was written; none means the usual one."""
    if value is None:
        return TEMPERATURE
    return float(value) if isinstance(value, Decimal) else value


class NewConversation(BaseModel, strict=True):
    """What a conversation is called, and whom it is with."""

    title: Annotated[str, Field(max_length=500), AfterValidator(check_json)] | None = None
    system_prompt: Annotated[str, Field(max_length=200_000), AfterValidator(check_json)] | None = (
        None
    )
    model_alias: Annotated[
        Alias,
        BeforeValidator(_usual_alias, json_schema_input_type=Alias | None),
    ] = ALIAS
    temperature: Annotated[
        Temperature, BeforeValidator(_temperature, json_schema_input_type=Temperature | None)
    ] = TEMPERATURE
    max_tokens: Annotated[int, Field(gt=0, lt=2**31)] | None = None


class MessageBatch(BaseModel, strict=True):
    """Messages to add at once, all or none; a level may keep less of them than the server would."""

    messages: Annotated[list[NewMessage], Field(min_length=1, max_length=MAX_BATCH)]
    logging_level: Level = "full"


@dataclass(slots=True)
class Conversation:
    """A conversation, and what its messages add up to, those included that are gone."""

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

    @classmethod
    def of(cls, row: asyncpg.Record) -> Self:
        found = dict(row)
        for name in ("total_input_tokens", "total_output_tokens"):
            found[name] = int(found[name])
        return cls(**found)


@dataclass(slots=True)
class ConversationSummary(Conversation):
    """A conversation in the words of the wire."""

    project_id: UUID
    api_key_id: None

    @classmethod
    def to(cls, project_id: ProjectId, conversation: Conversation) -> Self:
        told = {name: getattr(conversation, name) for name in Conversation.__slots__}
        return cls(**told, project_id=project_id, api_key_id=None)


@dataclass(slots=True)
class ConversationWithMessages(ConversationSummary):
    """A conversation with its last messages, in their order."""

    messages: list[Message] = field(default_factory=list)


class AppendResult(NamedTuple):
    """What became of messages; `replayed` if their key had stored them before."""

    conversation_id: UUID
    messages: list[Message]
    replayed: bool = False
    receipt: Receipt | None = None


class ConversationPage(PageParams):
    """A page of conversations, the last to change first; `q`: those that have these words."""

    limit: int = Field(20, ge=1, le=500)
    q: Annotated[str, Field(max_length=500)] | None = None

    def next(self, project_id: ProjectId, last: Conversation) -> str:
        return self.following(project_id, Position(last.updated_at, last.id))


class MessagePage(PageParams):
    """A page of a conversation, from its start on, or (`desc`) from its end."""

    limit: int = Field(100, ge=1, le=1000)
    order: Literal["asc", "desc"] = "asc"

    def next(self, project_id: ProjectId, last: Message) -> str:
        place = Position(last.timestamp, last.id)
        return self.following(project_id, place, last.conversation_id.bytes)


class MessageWindow(BaseModel):
    """How much of a conversation to show with it: its last so many messages."""

    include_messages: bool = True
    message_limit: int = Field(100, ge=1, le=1000)
