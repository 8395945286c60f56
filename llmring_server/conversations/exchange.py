"""Exchange: a request to a model and the model's reply, as clients report both in one request."""

from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field

from llmring_server.conversations.models import (
    DEFAULT_TEMPERATURE,
    Content,
    ExchangeMessage,
    JsonList,
    MessageMetadata,
    NewMessage,
)
from llmring_server.core.numbers import Count
from llmring_server.core.strict_json import NOT_BLANK
from llmring_server.errors import InvalidRequest
from llmring_server.pricing.cost import MAX_COST
from llmring_server.usage.models import Money, NewCall

MAX_EXCHANGE_MESSAGES = 10_000
DEFAULT_ORIGIN = "llmring"

Name = Annotated[str, Field(max_length=255)]


def _default_origin_if_null(value: object) -> object:
    return DEFAULT_ORIGIN if value is None else value


class ExchangeResponse(BaseModel, strict=True):
    """The model's reply."""

    content: Content = None
    model: Name | None = None
    finish_reason: Name | None = None
    usage: MessageMetadata = Field(default_factory=dict)
    tool_calls: JsonList | None = None


class ExchangeMetadata(BaseModel, strict=True):
    """The model that was called, its token usage and its cost."""

    provider: Annotated[str, Field(max_length=50, pattern=NOT_BLANK)]
    model: Annotated[str, Field(max_length=255, pattern=NOT_BLANK)]
    alias: Annotated[str, Field(max_length=128)] | None = None
    profile: Annotated[str, Field(max_length=64)] | None = None
    origin: Annotated[
        Name, BeforeValidator(_default_origin_if_null, json_schema_input_type=Name | None)
    ] = DEFAULT_ORIGIN
    cost: Money | None = None
    input_cost: Money | None = None
    output_cost: Money | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cached_tokens: Count | None = None

    def reported_cost(self) -> Decimal | None:
        """Return `cost`, or if it is absent or zero, the sum of its parts; None if none is set."""
        parts = [part for part in (self.input_cost, self.output_cost) if part is not None]
        cost = self.cost
        if parts and not cost:
            cost = sum(parts, Decimal())
        if cost and cost > MAX_COST:
            raise InvalidRequest("metadata: the cost exceeds the maximum that can be stored")
        return cost


class Exchange(BaseModel, strict=True):
    """Messages sent to a model, its reply and metadata; for a new or an existing conversation.

    `log_usage` says whether to log the call, too. By default it is logged if `metadata` has no
    field `profile`: clients that also report the call by itself send one, even if it is null;
    decorators, for which this is the only report, do not.
    """

    messages: Annotated[list[ExchangeMessage], Field(max_length=MAX_EXCHANGE_MESSAGES)]
    response: ExchangeResponse
    metadata: ExchangeMetadata
    conversation_id: Annotated[UUID, Field(strict=False)] | None = None
    log_usage: bool | None = None

    @property
    def logs_call(self) -> bool:
        """Whether to log the call, because nothing else reports it."""
        if self.log_usage is not None:
            return self.log_usage
        return "profile" not in self.metadata.model_fields_set

    @property
    def reply_index(self) -> int:
        """The index of the reply in `new_messages`."""
        return len(self.messages)

    def new_conversation(self) -> dict[str, Any]:
        """Return the columns of a conversation that starts with this exchange."""
        metadata = self.metadata
        return {
            "title": f"{metadata.alias or metadata.model} conversation",
            "system_prompt": None,
            "model_alias": metadata.alias or f"{metadata.provider}:{metadata.model}",
            "temperature": DEFAULT_TEMPERATURE,
            "max_tokens": None,
            "origin": metadata.origin,
        }

    def new_call(self, conversation_id: UUID) -> NewCall:
        """Return the call of this exchange, as the usage log takes it."""
        metadata = self.metadata
        return NewCall(
            provider=metadata.provider,
            model=metadata.model,
            alias=metadata.alias,
            profile=metadata.profile,
            origin=metadata.origin,
            id_at_origin=str(conversation_id),
            input_tokens=metadata.input_tokens,
            output_tokens=metadata.output_tokens,
            cached_input_tokens=metadata.cached_tokens,
            cost=metadata.reported_cost(),
            metadata={
                "model_alias": f"{metadata.provider}:{metadata.model}",
                "finish_reason": self.response.finish_reason,
                "conversation_id": str(conversation_id),
            },
        )

    def new_messages(self, cost: Decimal | None) -> list[NewMessage]:
        """Return the messages that were sent, then the reply, which carries the cost."""
        metadata, response = self.metadata, self.response
        reply = NewMessage.model_construct(
            role="assistant",
            content=response.content,
            tool_calls=response.tool_calls,
            metadata={
                "model": response.model or metadata.model,
                "finish_reason": response.finish_reason,
                "usage": response.usage,
                "provider": metadata.provider,
                "cost": cost,
            },
            input_tokens=metadata.input_tokens,
            output_tokens=metadata.output_tokens,
            cost=cost,
        )
        # The reply's tokens and cost are those of the whole exchange: counted once, there.
        no_usage = {"input_tokens": None, "output_tokens": None, "cost": Decimal()}
        return [*(message.model_copy(update=no_usage) for message in self.messages), reply]
