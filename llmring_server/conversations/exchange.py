"""Exchange: a request to a model and the model's reply, as clients report both in one request."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
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
    SentContent,
    check_members,
)
from llmring_server.core.free_text import replace_in_free_text
from llmring_server.core.numbers import Count, Milliseconds
from llmring_server.core.strict_json import NOT_BLANK, SmallFreeJsonObject, check_json
from llmring_server.core.validation import errors_of
from llmring_server.core.warnings import RequestWarning, unknown_field_warnings
from llmring_server.errors import InvalidRequest
from llmring_server.pricing.cost import MAX_COST
from llmring_server.usage.models import DETAILS, CallDetails, Money, NewCall, Status
from llmring_server.usage.provider_usage import UsageError, with_canonical_fields

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
    errors: Any = errors_of(exc) if isinstance(exc, ValidationError) else exc.errors
    return str(errors[0]["msg"]) if errors else str(exc)


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
    model: type[Model],
    value: object,
    field: str,
    warnings: list[RequestWarning],
    required: Mapping[str, Any] = MappingProxyType({}),
) -> Model | None:
    """Read a `model` from the members of `value` that it accepts; those `required` are valid.

    Warn of each other member; return None if `value` is not an object.
    """
    if not isinstance(value, dict):
        _not_kept(warnings, field, "Input should be an object")
        return None
    try:
        return _read(model, value, field, warnings)
    except (ValidationError, InvalidRequest):
        valid = dict(required)
    for name, member in value.items():
        one = {**required, name: member}
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
    messages = []
    for index, sent in enumerate(value[first:], first):
        message = _with_valid_members(ExchangeMessage, sent, f"messages.{index}", warnings)
        if message is not None:
            message.content_is_lost = _has_content(sent) and message.content is None
            messages.append(message)
    if (more := len(warnings) - MAX_WARNINGS) > 0:
        del warnings[MAX_WARNINGS:]
        warnings[-1]["detail"] += f" Nor are {more:,} more members."
    return messages


def _has_content(value: object) -> bool:
    return isinstance(value, dict) and value.get("content") is not None


def _keep_valid_response(value: object, info: ValidationInfo) -> object:
    if info.context is None:
        return value
    response = _with_valid_members(ExchangeResponse, value, "response", info.context)
    if response is None:
        response = ExchangeResponse()
        response.content_is_lost = value is not None
    else:
        response.content_is_lost = _has_content(value) and response.content is None
    return response


def _keep_valid_metadata(value: object, info: ValidationInfo) -> object:
    warnings = info.context
    if warnings is None or not isinstance(value, dict):
        return value
    # Without them there is no call.
    required = {name: value[name] for name in ("provider", "model") if name in value}
    replace_in_free_text(ExchangeMetadata, required, ("metadata",))
    try:
        ExchangeMetadata.model_validate(required)
    except ValidationError:
        return required
    metadata = _with_valid_members(ExchangeMetadata, value, "metadata", warnings, required)
    if metadata is None:
        return required
    changes: dict[str, Any] = {}
    if "profile" in value:
        # Also an invalid one says that the call is reported by itself.
        changes["profile"] = metadata.profile
    try:
        metadata.reported_cost()
    except InvalidRequest as exc:
        _not_kept(warnings, "metadata.cost", str(exc).removeprefix("metadata: "))
        changes |= dict.fromkeys(_COSTS)
    metadata = metadata.model_copy(update=changes)
    sent = {name for name in _COUNTS if value.get(name) is not None}
    metadata.usage_is_lost = any(getattr(metadata, name) is None for name in sent)
    return metadata


def _keep_valid_id(value: object, info: ValidationInfo) -> object:
    if info.context is None or value is None:
        return value
    try:
        return UUID(str(value))
    except ValueError:
        _not_kept(info.context, "conversation_id", "Input should be a valid UUID")
        return None


class ExchangeResponse(SentContent):
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


_COSTS = ("cost", "input_cost", "output_cost")


class ExchangeMetadata(CallDetails, strict=True):
    """The model that was called, its token usage and its cost. All fields but two are optional.

    Those of `POST /api/v1/log` mean the same here; `cached_tokens` is `cached_input_tokens`.
    """

    provider: Annotated[str, Field(max_length=50, pattern=NOT_BLANK)]
    model: Annotated[str, Field(max_length=255, pattern=NOT_BLANK)]
    alias: Annotated[str, Field(max_length=128)] | None = None
    profile: Annotated[str, Field(max_length=64)] | None = None
    origin: Annotated[
        Name, BeforeValidator(_default_origin_if_null, json_schema_input_type=Name | None)
    ] = DEFAULT_ORIGIN
    id_at_origin: Annotated[str, Field(max_length=1024)] | None = None
    status: Status | None = None
    latency_ms: Milliseconds | None = None
    cost: Money | None = None
    input_cost: Money | None = None
    output_cost: Money | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cached_tokens: Count | None = None
    cached_input_tokens: Count | None = None
    usage: SmallFreeJsonObject | None = Field(
        None, description="The usage object of the provider, if `response` does not have it."
    )

    _usage_is_lost: bool = PrivateAttr(default=False)

    @property
    def usage_is_lost(self) -> bool:
        """Whether a count was sent that is invalid: with the others alone, the cost were wrong."""
        return self._usage_is_lost

    @usage_is_lost.setter
    def usage_is_lost(self, value: bool) -> None:
        self._usage_is_lost = value

    def reported_cost(self) -> Decimal | None:
        """Return `cost`, or if it is absent or zero, the sum of its parts; None if none is set."""
        parts = [part for part in (self.input_cost, self.output_cost) if part is not None]
        cost = self.cost
        if parts and not cost:
            cost = sum(parts, Decimal())
        if cost and cost > MAX_COST:
            raise InvalidRequest("metadata: the cost exceeds the maximum that can be stored")
        return cost

    def reported_usage(self) -> dict[str, Any]:
        """Return the fields of the call that say what it used, as far as they are set."""
        usage = self.model_dump(include=_USAGE_FIELDS, exclude_none=True)
        cached = usage.pop("cached_tokens", None)
        # The published client sends 0 if it found no count.
        if cached and not usage.get("cached_input_tokens"):
            usage["cached_input_tokens"] = cached
        return usage


_USAGE_FIELDS = {"input_tokens", "output_tokens", "cached_tokens", "cached_input_tokens", *DETAILS}
_COUNTS = _USAGE_FIELDS - {"service_tier"}

# The published client sends 0 for each of these that it did not find.
_ZERO_IF_UNKNOWN = {"input_tokens", "output_tokens", "cached_input_tokens"}


class ExchangeCall(NamedTuple):
    """The call of an exchange. `warnings` say which reported numbers it does not have."""

    call: NewCall
    warnings: list[RequestWarning]


class Exchange(BaseModel, strict=True):
    """Messages sent to a model, its reply and metadata; for a new or an existing conversation.

    `log_usage` says whether to log the call, too. By default it is logged if `metadata` has no
    field `profile`: clients that also report the call by itself send one, even if it is null;
    decorators, for which this is the only report, do not.

    Only an invalid `provider` or `model` in `metadata`, or `log_usage`, makes an exchange invalid.
    Whatever else cannot be stored is named in `warnings`, and the rest is stored.
    """

    lenient_fields: ClassVar = ("messages", "response", "metadata", "conversation_id")

    messages: Annotated[
        list[ExchangeMessage],
        Field(max_length=MAX_EXCHANGE_MESSAGES),
        BeforeValidator(_keep_valid_messages, json_schema_input_type=list[ExchangeMessage] | Any),
    ] = Field(None, validate_default=True)
    response: Annotated[
        ExchangeResponse,
        BeforeValidator(_keep_valid_response, json_schema_input_type=ExchangeResponse | Any),
    ] = Field(None, validate_default=True)
    metadata: Annotated[
        ExchangeMetadata,
        BeforeValidator(_keep_valid_metadata, json_schema_input_type=ExchangeMetadata),
    ]
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

    def new_calls(self, conversation_id: UUID) -> list[ExchangeCall]:
        """Return the call of this exchange, as the usage log takes it.

        The first has all reported numbers. Each following one has fewer, the last has none: for the
        case that the numbers contradict each other.
        """
        metadata = self.metadata
        labels: dict[str, Any] = {
            "provider": metadata.provider,
            "model": metadata.model,
            "alias": metadata.alias,
            "profile": metadata.profile,
            "origin": metadata.origin,
            "id_at_origin": metadata.id_at_origin or str(conversation_id),
            "status": metadata.status or "ok",
            "latency_ms": metadata.latency_ms,
            "cost": metadata.reported_cost(),
            "metadata": {
                "model_alias": f"{metadata.provider}:{metadata.model}",
                "finish_reason": self.response.finish_reason,
                "conversation_id": str(conversation_id),
            },
        }
        unknown = {"input_tokens": None, "output_tokens": None}
        reported = metadata.reported_usage()
        calls = []
        warnings: list[RequestWarning] = []
        path, usage = self._usage_object()
        if usage:
            try:
                fields, unknown_members = _with_details(reported, usage)
                calls.append(
                    ExchangeCall(
                        NewCall(**unknown | fields | _without_nulls(labels)),
                        unknown_field_warnings(
                            [f"{path}.{name}" for name in unknown_members], frozenset()
                        ),
                    )
                )
                _not_kept(warnings, path, "its numbers contradict each other")
            except UsageError as exc:
                _not_kept(warnings, path + exc.path.removeprefix("usage"), exc.detail)
            except ValidationError as exc:
                _not_kept(warnings, path, _reason(exc))
        if not metadata.usage_is_lost:
            calls.append(ExchangeCall(NewCall(**unknown | reported | labels), [*warnings]))
            _not_kept(warnings, "metadata", "the numbers of tokens contradict each other")
        calls.append(ExchangeCall(NewCall(**unknown | labels), warnings))
        return calls

    def _usage_object(self) -> tuple[str, Any]:
        """Return the usage object of the provider and its path, wherever the exchange has it."""
        members = self.response.model_extra or {}
        for path, usage in (
            ("metadata.usage", self.metadata.usage),
            ("response.usage", self.response.usage),
            ("response.usageMetadata", members.get("usageMetadata")),
            ("response.usage_metadata", members.get("usage_metadata")),
        ):
            if usage:
                return path, usage
        return "", None

    def new_messages(self, call: NewCall, cost: Decimal | None) -> Sequence[NewMessage]:
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
            input_tokens=_first(call.input_tokens, metadata.input_tokens),
            output_tokens=_first(call.output_tokens, metadata.output_tokens),
            cost=cost,
        )
        reply.content_is_lost = response.content_is_lost
        # Not as arguments: a member may have the name of a field, which is ours.
        reply.members.update(response.model_extra or {})
        # The reply's tokens and cost are those of the whole exchange: counted once, there.
        no_usage = {"input_tokens": None, "output_tokens": None, "cost": Decimal()}
        return [*(message.model_copy(update=no_usage) for message in self.messages), reply]


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)


def _without_nulls(labels: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in labels.items() if value is not None}


def _with_details(reported: dict[str, Any], usage: Any) -> tuple[dict[str, Any], Sequence[str]]:
    """Add to the usage that is reported by itself what a usage object says.

    Return it with the members of the object that are not understood. UsageError if the two
    contradict each other.
    """
    fields = with_canonical_fields({"usage": usage})
    unknown = fields.pop("usage").unknown
    fields = _without_nulls(fields)
    for name, value in reported.items():
        is_default = name in _ZERO_IF_UNKNOWN and value == 0
        if fields.setdefault(name, value) != value and not is_default:
            raise UsageError("usage", f"it contradicts metadata.{name}, which is used")
    # The published client calls the tokens of all providers as OpenAI does; whether its numbers
    # include cached tokens depends on the provider, as for those that are reported by themselves.
    is_plain = "prompt_tokens" in usage and "prompt_tokens_details" not in usage
    if is_plain and "input_tokens" in reported and "cache_tokens_included" not in reported:
        fields.pop("cache_tokens_included", None)
    return fields, unknown
