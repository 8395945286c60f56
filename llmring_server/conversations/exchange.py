"""One exchange with a model, as clients report it: what was said, what came back, its price."""

from decimal import Decimal
from typing import Annotated, Any, Protocol, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field

from llmring_server.conversations.models import Content, Details, ExchangeMessage, List, NewMessage
from llmring_server.core.identity import ProjectId
from llmring_server.db.database import Database
from llmring_server.errors import InvalidRequest
from llmring_server.pricing.cost import MAX_COST
from llmring_server.usage.call_record import CallRecord
from llmring_server.usage.models import Count, Money, NewCall

LONGEST = 10_000

Name = Annotated[str, Field(max_length=255)]


def _named(value: object) -> object:
    return "llmring" if value is None else value


class ExchangeResponse(BaseModel, strict=True):
    """What the model answered."""

    content: Content = None
    model: Name | None = None
    finish_reason: Name | None = None
    usage: Details = Field(default_factory=dict)
    tool_calls: List | None = None


class ExchangeMetadata(BaseModel, strict=True):
    """Which model it was, and what it used."""

    provider: Annotated[str, Field(max_length=50, pattern=r"\S")]
    model: Annotated[str, Field(max_length=255, pattern=r"\S")]
    alias: Annotated[str, Field(max_length=128)] | None = None
    profile: Annotated[str, Field(max_length=64)] | None = None
    origin: Annotated[Name, BeforeValidator(_named, json_schema_input_type=Name | None)] = "llmring"
    cost: Money | None = None
    input_cost: Money | None = None
    output_cost: Money | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cached_tokens: Count | None = None

    def price(self) -> Decimal | None:
        """Return what the client says that it cost, in sum or in parts; None if it does not say."""
        given = [each for each in (self.input_cost, self.output_cost) if each is not None]
        total = self.cost or (sum(given, Decimal()) if given else self.cost)
        if total and total > MAX_COST:
            raise InvalidRequest("metadata: costs more than can be stored")
        return total


class Exchange(BaseModel, strict=True):
    """Messages, the reply to them, and its terms; in a conversation that is there, or a new one.

    `log_usage` says if this is the only report of the call, so that it is counted here. Unless it
    is said: clients that report the call apart, too, name its profile, be it null; the others,
    the decorators, do not.
    """

    messages: Annotated[list[ExchangeMessage], Field(max_length=LONGEST)]
    response: ExchangeResponse
    metadata: ExchangeMetadata
    conversation_id: Annotated[UUID, Field(strict=False)] | None = None
    log_usage: bool | None = None

    @property
    def is_sole_report(self) -> bool:
        told_apart = "profile" in self.metadata.model_fields_set
        return not told_apart if self.log_usage is None else self.log_usage

    @property
    def reply_at(self) -> int:
        """Which of its messages is the reply."""
        return len(self.messages)

    def heading(self) -> dict[str, Any]:
        """Return what a conversation that begins with this is called."""
        terms = self.metadata
        return {
            "title": f"{terms.alias or terms.model} conversation",
            "model_alias": terms.alias or f"{terms.provider}:{terms.model}",
            "origin": terms.origin,
        }

    def entry(self, conversation_id: UUID) -> NewCall:
        """Return the call that this is, as the log of calls takes it."""
        terms = self.metadata
        metadata = {
            "model_alias": f"{terms.provider}:{terms.model}",
            "finish_reason": self.response.finish_reason,
            "conversation_id": str(conversation_id),
        }
        return NewCall(
            provider=terms.provider,
            model=terms.model,
            alias=terms.alias,
            profile=terms.profile,
            origin=terms.origin,
            id_at_origin=str(conversation_id),
            input_tokens=terms.input_tokens,
            output_tokens=terms.output_tokens,
            cached_input_tokens=terms.cached_tokens,
            cost=self.metadata.price(),
            metadata=metadata,
        )

    def said(self, cost: Decimal | None) -> list[NewMessage]:
        """Return its messages: those that were sent, then the reply, which bears the cost."""
        reply, terms = self.response, self.metadata
        details = {
            "model": reply.model or terms.model,
            "finish_reason": reply.finish_reason,
            "usage": reply.usage,
            "provider": terms.provider,
            "cost": cost,
        }
        answer = NewMessage.model_construct(
            role="assistant",
            content=reply.content,
            tool_calls=reply.tool_calls,
            metadata=details,
            input_tokens=terms.input_tokens,
            output_tokens=terms.output_tokens,
            cost=cost,
        )
        # What was sent is no one's spending: its tokens are the reply's.
        return [*(each.model_copy(update=_UNPAID) for each in self.messages), answer]


_UNPAID: dict[str, Any] = {"input_tokens": None, "output_tokens": None, "cost": Decimal()}


class Recording(Protocol):
    """The log of calls, for those that are told here only."""

    async def price_call(self, project_id: ProjectId, call: NewCall, id: UUID) -> CallRecord: ...
    async def insert(self, record: CallRecord) -> None: ...
    def with_database(self, database: Database) -> Self: ...
