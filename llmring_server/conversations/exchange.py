"""Exchange: a request to a model and the model's reply, as clients report both in one request."""

from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from llmring_server.conversations.models import (
    DEFAULT_TEMPERATURE,
    Content,
    ExchangeMessage,
    JsonList,
    MessageMetadata,
    NewMessage,
    Role,
    check_members,
)
from llmring_server.core.free_text import replace_in_free_text
from llmring_server.core.numbers import Count
from llmring_server.core.strict_json import NOT_BLANK, check_json
from llmring_server.core.warnings import RequestWarning
from llmring_server.errors import InvalidRequest
from llmring_server.pricing.cost import MAX_COST
from llmring_server.usage.models import Money, NewCall

# Of more messages, the last ones are kept.
MAX_EXCHANGE_MESSAGES = 10_000
DEFAULT_ORIGIN = "llmring"

# A warning for each of 10,000 messages would tell nobody more.
MAX_WARNINGS = 100
MAX_WARNING_FIELD = 200

Name = Annotated[str, Field(max_length=255), AfterValidator(check_json)]

Model = TypeVar("Model", bound=BaseModel)


def _default_origin_if_null(value: object) -> object:
    return DEFAULT_ORIGIN if value is None else value


def _not_kept(warnings: list[RequestWarning], field: str, reason: str) -> None:
    detail = f"Not kept: {reason}"
    warnings.append({"code": "not_kept", "field": field[:MAX_WARNING_FIELD], "detail": detail})


def _reason(exc: ValidationError | InvalidRequest) -> str:
    """Return what is wrong, without the client's values."""
    errors: Any = exc.errors() if isinstance(exc, ValidationError) else exc.errors
    return str(errors[0]["msg"])


def _read(
    model: type[Model], value: dict[str, Any], field: str, warnings: list[RequestWarning]
) -> Model:
    """Read a model; replace in its free text what cannot be stored, and warn of that."""
    replaced = replace_in_free_text(model, value)
    for warning in replaced:
        warning["field"] = f"{field}.{warning['field']}"
    warnings += replaced
    return model.model_validate(value)


def _with_valid_members(
    model: type[Model], value: object, field: str, warnings: list[RequestWarning]
) -> Model | None:
    """Read a `model` that requires no member from those of `value` that it accepts.

    Warn of each other member; return None if `value` is not an object.
    """
    if not isinstance(value, dict):
        _not_kept(warnings, field, "Input should be an object")
        return None
    try:
        return _read(model, value, field, warnings)
    except (ValidationError, InvalidRequest):
        valid: dict[str, Any] = {}
    for name, member in value.items():
        one = {name: member}
        try:
            _read(model, one, field, warnings)
        except (ValidationError, InvalidRequest) as exc:
            _not_kept(warnings, f"{field}.{name}", _reason(exc))
        else:
            valid |= one
    return model.model_validate(valid)


# A request from the wire is validated with the list of its warnings as context: whatever of an
# exchange is invalid, its call is logged. A program that embeds the server gets a ValidationError.


def _keep_valid_messages(value: object, info: ValidationInfo) -> object:
    warnings = info.context
    if warnings is None:
        return value
    if not isinstance(value, list):
        _not_kept(warnings, "messages", "Input should be a list")
        return []
    first = max(0, len(value) - MAX_EXCHANGE_MESSAGES)
    if first:
        reason = f"An exchange has at most {MAX_EXCHANGE_MESSAGES:,} messages; the last are stored"
        _not_kept(warnings, f"messages.0 to messages.{first - 1}", reason)
    messages = [
        _with_valid_members(ExchangeMessage, message, f"messages.{index}", warnings)
        for index, message in enumerate(value[first:], first)
    ]
    if (more := len(warnings) - MAX_WARNINGS) > 0:
        del warnings[MAX_WARNINGS:]
        warnings[-1]["detail"] += f" Nor are {more:,} more members."
    return [message for message in messages if message is not None]


def _keep_valid_response(value: object, info: ValidationInfo) -> object:
    if info.context is None:
        return value
    response = _with_valid_members(ExchangeResponse, value, "response", info.context)
    return response or ExchangeResponse()


def _keep_valid_id(value: object, info: ValidationInfo) -> object:
    if info.context is None or value is None:
        return value
    try:
        return UUID(str(value))
    except ValueError:
        _not_kept(info.context, "conversation_id", "Input should be a valid UUID")
        return None


class ExchangeResponse(BaseModel, strict=True, extra="allow"):
    """The model's reply. All other members that it has at its provider are kept as they are."""

    role: Role | None = None
    content: Content = None
    model: Name | None = None
    finish_reason: Name | None = None
    usage: MessageMetadata = Field(default_factory=dict)
    tool_calls: JsonList | None = None

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        check_members(self.model_extra)
        return self


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

    Only `metadata` and `log_usage` can make an exchange invalid. Whatever else cannot be stored is
    named in `warnings`, and the rest is stored.
    """

    lenient_fields: ClassVar = ("messages", "response", "conversation_id")

    messages: Annotated[
        list[ExchangeMessage],
        Field(max_length=MAX_EXCHANGE_MESSAGES),
        BeforeValidator(_keep_valid_messages, json_schema_input_type=list[ExchangeMessage] | Any),
    ]
    response: Annotated[
        ExchangeResponse,
        BeforeValidator(_keep_valid_response, json_schema_input_type=ExchangeResponse | Any),
    ]
    metadata: ExchangeMetadata
    conversation_id: Annotated[
        Annotated[UUID, Field(strict=False)] | None,
        BeforeValidator(_keep_valid_id, json_schema_input_type=UUID | Any),
    ] = None
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
        call: dict[str, Any] = {
            "provider": metadata.provider,
            "model": metadata.model,
            "alias": metadata.alias,
            "profile": metadata.profile,
            "origin": metadata.origin,
            "id_at_origin": str(conversation_id),
            "cost": metadata.reported_cost(),
            "metadata": {
                "model_alias": f"{metadata.provider}:{metadata.model}",
                "finish_reason": self.response.finish_reason,
                "conversation_id": str(conversation_id),
            },
        }
        if metadata.input_tokens is None and metadata.output_tokens is None and self.response.usage:
            # A usage object that is not understood leaves the usage unknown, and is no reason to
            # lose the call.
            with suppress(ValidationError):
                return NewCall(**call, usage=self.response.usage)
        return NewCall(
            **call,
            input_tokens=metadata.input_tokens,
            output_tokens=metadata.output_tokens,
            cached_input_tokens=metadata.cached_tokens,
        )

    def new_messages(self, cost: Decimal | None) -> Sequence[NewMessage]:
        """Return the messages that were sent, then the reply, which carries the cost."""
        metadata, response = self.metadata, self.response
        reply = NewMessage.model_construct(
            role=response.role or "assistant",
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
        # Not as arguments: a member may have the name of a field, which is ours.
        reply.members.update(response.model_extra or {})
        # The reply's tokens and cost are those of the whole exchange: counted once, there.
        no_usage = {"input_tokens": None, "output_tokens": None, "cost": Decimal()}
        return [*(message.model_copy(update=no_usage) for message in self.messages), reply]
