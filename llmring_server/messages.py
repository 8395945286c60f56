"""A message: as it is said, as it is written, as it is read back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from llmring_server.bounded import check, dumped, plain
from llmring_server.entry import Count, Money
from llmring_server.ids import moment_of
from llmring_server.rates import UNIT
from llmring_server.record import METADATA_BYTES

Level = Literal["none", "metadata", "full"]
LEVELS: tuple[Level, ...] = ("none", "metadata", "full")

# So much of a message can be searched for: more might not fit into a tsvector.
SEARCHABLE = 100_000

_MONEY = TypeAdapter(Money)

Text = Annotated[str, AfterValidator(check)]
List = Annotated[list[Any], AfterValidator(check)]
Content = Annotated[str | list[Any] | dict[str, Any] | None, AfterValidator(check)]


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(dumped(check(value), "message")) > METADATA_BYTES:
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
Role = Annotated[str, Field(max_length=50, pattern=r"\S"), AfterValidator(check)]


class Said(BaseModel, strict=True):
    """One message as a client gives it: content is text, or parts; any role will do."""

    role: Role
    content: Content = None
    tool_calls: List | None = None
    tool_results: List | None = None
    tool_call_id: Annotated[str, Field(max_length=255), AfterValidator(check)] | None = None
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
        return found.quantize(UNIT)


class Uttered(Said):
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
    def made(cls, said: Said, id: UUID, conversation_id: UUID, level: Level) -> Self:
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


def numbered(first: UUID, messages: Sequence[Said], to: UUID, level: Level) -> list[Message]:
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
    parts = {name: dumped(getattr(message, name), "message") for name in _PARTS}
    size = sum(map(len, parts.values()))
    words = "\n".join(_texts(message.content))[:SEARCHABLE] or None
    more = {"created_at": message.timestamp, "size": size, "words": words}
    fragments = {name: orjson.Fragment(part) for name, part in parts.items()}
    return orjson.dumps(told | fragments | more, plain)


_PARTS = ("content", "tool_calls", "tool_results", "metadata")
_TOLD = (
    "id", "role", "content_hash", "tool_call_id", "input_tokens", "output_tokens", "cost",
)  # fmt: skip


def _hash(content: Any) -> str | None:
    if not content:
        return None
    text = content.encode() if isinstance(content, str) else dumped(content, "message")
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
