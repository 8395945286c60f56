"""Conversations: how they are begun and changed, listed, and read in pages."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple, Self
from uuid import UUID

import asyncpg
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from llmring_server.bounded import check
from llmring_server.messages import Level, Message, Said
from llmring_server.pages import Paged, Place
from llmring_server.receipt import Receipt
from llmring_server.tenant import Tenant

MOST_AT_ONCE = 500

ALIAS, TEMPERATURE = "default", 0.7

Alias = Annotated[str, Field(max_length=255, pattern=r"\S"), AfterValidator(check)]
Temperature = Annotated[float, Field(ge=0, le=2)]


def _usual_alias(value: object) -> object:
    return ALIAS if value is None else value


def _temperature(value: object) -> object:
    """Take the number that was written; none means the usual one."""
    if value is None:
        return TEMPERATURE
    return float(value) if isinstance(value, Decimal) else value


class Heading(BaseModel, strict=True):
    """What a conversation is called, and whom it is with."""

    title: Annotated[str, Field(max_length=500), AfterValidator(check)] | None = None
    system_prompt: Annotated[str, Field(max_length=200_000), AfterValidator(check)] | None = None
    model_alias: Annotated[
        Alias,
        BeforeValidator(_usual_alias, json_schema_input_type=Alias | None),
    ] = ALIAS
    temperature: Annotated[
        Temperature, BeforeValidator(_temperature, json_schema_input_type=Temperature | None)
    ] = TEMPERATURE
    max_tokens: Annotated[int, Field(gt=0, lt=2**31)] | None = None


class Batch(BaseModel, strict=True):
    """Messages to add at once, all or none; a level may keep less of them than the server would."""

    messages: Annotated[list[Said], Field(min_length=1, max_length=MOST_AT_ONCE)]
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
class Shown(Conversation):
    """A conversation in the words of the wire."""

    project_id: UUID
    api_key_id: None

    @classmethod
    def to(cls, tenant: Tenant, conversation: Conversation) -> Self:
        told = {name: getattr(conversation, name) for name in Conversation.__slots__}
        return cls(**told, project_id=tenant, api_key_id=None)


@dataclass(slots=True)
class Whole(Shown):
    """A conversation with its last messages, in their order."""

    messages: list[Message] = field(default_factory=list)


class Added(NamedTuple):
    """What became of messages; `replayed` if their key had stored them before."""

    conversation_id: UUID
    messages: list[Message]
    replayed: bool = False
    receipt: Receipt | None = None


class Recent(Paged):
    """A page of conversations, the last to change first; `q`: those that have these words."""

    limit: int = Field(20, ge=1, le=500)
    q: Annotated[str, Field(max_length=500)] | None = None

    def next(self, tenant: Tenant, last: Conversation) -> str:
        return self.following(tenant, Place(last.updated_at, last.id))


class Stretch(Paged):
    """A page of a conversation, from its start on, or (`desc`) from its end."""

    limit: int = Field(100, ge=1, le=1000)
    order: Literal["asc", "desc"] = "asc"

    def next(self, tenant: Tenant, last: Message) -> str:
        place = Place(last.timestamp, last.id)
        return self.following(tenant, place, last.conversation_id.bytes)


class Window(BaseModel):
    """How much of a conversation to show with it: its last so many messages."""

    include_messages: bool = True
    message_limit: int = Field(100, ge=1, le=1000)
