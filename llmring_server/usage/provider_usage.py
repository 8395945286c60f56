"""Provider usage: the usage objects of providers, read as the fields of a call.

`SHAPES` is the whole mapping: one row for each kind of usage object, recognised by its members. A
member that is not in its row is reported by its path and changes nothing.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from llmring_server.core.numbers import MAX_COUNT, whole_number
from llmring_server.pricing.service_tiers import normal_tier
from llmring_server.pricing.token_semantics import counts_reasoning_beside

# What a member of a usage object says: the field of a call that it is another name of; or what each
# unit that it counts adds to fields; or nothing that other members do not say.
Meaning: TypeAlias = str | Mapping[str, int] | None
Members: TypeAlias = Mapping[str, Meaning]


class UsageShape(NamedTuple):
    """A kind of usage object. Paths of members are dotted; lists are keyed by `LIST_LABELS`.

    An object has the first shape with a member that begins as one of `recognised_by` does.
    `cache_tokens_included`: input tokens include those that were read from a cache or written to
    it; None if the model's API decides. `reasoning_tokens_included`: output tokens include
    reasoning; None if the total decides, since servers differ. A path that ends with `.*` stands
    for everything below it. `spellings` are other names of parts of paths.
    """

    name: str
    recognised_by: tuple[str, ...]
    cache_tokens_included: bool | None
    reasoning_tokens_included: bool | None
    members: Members
    spellings: Mapping[str, str] = MappingProxyType({})


# The members of an item of a list that tell it from the others.
LIST_LABELS = ("modality", "ttl", "type")

# What is not a field of a call: the part of cache writes that is kept for five minutes, and a cost
# in 10^-10 USD.
_CACHE_WRITES_5M = "cache_creation_5m_input_tokens"
_COST_TICKS = "cost_in_usd_ticks"


def _below(path: str, members: Members) -> dict[str, Meaning]:
    return {f"{path}.{name}": meaning for name, meaning in members.items()}


_ANTHROPIC_CACHE: Members = {
    "cache_read_input_tokens": "cached_input_tokens",
    "cache_creation_input_tokens": "cache_creation_input_tokens",
    "cache_creation.ephemeral_5m_input_tokens": _CACHE_WRITES_5M,
    "cache_creation.ephemeral_1h_input_tokens": "cache_creation_1h_input_tokens",
}

_ANTHROPIC_TOOLS: Members = {
    "server_tool_use.web_search_requests": "web_searches",
    # What is fetched counts as input; the fetch itself is free.
    "server_tool_use.web_fetch_requests": None,
}

_OPENAI_INPUT_DETAILS: Members = {
    "cached_tokens": "cached_input_tokens",
    "cached_tokens_details.audio_tokens": "cached_audio_input_tokens",
    "cached_tokens_details.image_tokens": "cached_image_input_tokens",
    "cached_tokens_details.text_tokens": None,
    "audio_tokens": "audio_input_tokens",
    "image_tokens": "image_input_tokens",
    "video_tokens": "video_input_tokens",
    "text_tokens": None,
    # OpenRouter
    "cache_write_tokens": "cache_creation_input_tokens",
    # LiteLLM
    "cache_creation_tokens": "cache_creation_input_tokens",
    "cache_creation_token_details.ephemeral_5m_input_tokens": _CACHE_WRITES_5M,
    "cache_creation_token_details.ephemeral_1h_input_tokens": "cache_creation_1h_input_tokens",
    "web_search_requests": "web_searches",
    # LangChain
    "cache_read": "cached_input_tokens",
    "cache_creation": "cache_creation_input_tokens",
    "ephemeral_5m_input_tokens": _CACHE_WRITES_5M,
    "ephemeral_1h_input_tokens": "cache_creation_1h_input_tokens",
    "audio": "audio_input_tokens",
}

_OPENAI_OUTPUT_DETAILS: Members = {
    "reasoning_tokens": "reasoning_output_tokens",
    "audio_tokens": "audio_output_tokens",
    "image_tokens": "image_output_tokens",
    "text_tokens": None,
    # Both are billed as output, which includes them.
    "accepted_prediction_tokens": None,
    "rejected_prediction_tokens": None,
    # LangChain
    "reasoning": "reasoning_output_tokens",
    "audio": "audio_output_tokens",
}

# Members that gateways add to the usage objects of others.
_GATEWAYS: Members = {
    "total_tokens": None,
    "service_tier": "service_tier",
    # OpenRouter, in USD
    "cost": "cost",
    "cost_details.*": None,
    "is_byok": None,
    # Perplexity, in USD
    "cost.total_cost": "cost",
    "cost.*": None,
    # xAI: https://docs.x.ai/developers/cost-tracking. The cost includes that of its tools.
    "cost_in_usd_ticks": _COST_TICKS,
    "num_sources_used": None,
    "num_server_side_tools_used": None,
    "server_side_tool_usage_details.*": None,
    "context_details.*": None,
    # The published client
    "cost_breakdown.*": None,
}

_OPENAI_COMMON: Members = {
    **_GATEWAYS,
    # LiteLLM adds the names of Anthropic to those of OpenAI.
    **_ANTHROPIC_CACHE,
    **_ANTHROPIC_TOOLS,
    # Transcriptions; Mistral has the last
    "type": None,
    "seconds": "audio_seconds",
    "prompt_audio_seconds": "audio_seconds",
    # DeepSeek
    "prompt_cache_hit_tokens": "cached_input_tokens",
    "prompt_cache_miss_tokens": None,
    # Moonshot
    "cached_tokens": "cached_input_tokens",
    # Groq, in seconds
    "queue_time": None,
    "prompt_time": None,
    "completion_time": None,
    "total_time": None,
}

_GEMINI: Members = {
    "promptTokenCount": {"input_tokens": 1},
    "toolUsePromptTokenCount": {"input_tokens": 1},
    "cachedContentTokenCount": {"cached_input_tokens": 1},
    "candidatesTokenCount": {"output_tokens": 1},
    # The Live API
    "responseTokenCount": {"output_tokens": 1},
    "thoughtsTokenCount": {"reasoning_output_tokens": 1},
    "totalTokenCount": None,
    "trafficType": "service_tier",
    "serviceTier": "service_tier",
    "promptTokensDetails.AUDIO.tokenCount": {"audio_input_tokens": 1},
    "promptTokensDetails.IMAGE.tokenCount": {"image_input_tokens": 1},
    "promptTokensDetails.VIDEO.tokenCount": {"video_input_tokens": 1},
    "promptTokensDetails.*": None,
    "toolUsePromptTokensDetails.AUDIO.tokenCount": {"audio_input_tokens": 1},
    "toolUsePromptTokensDetails.IMAGE.tokenCount": {"image_input_tokens": 1},
    "toolUsePromptTokensDetails.VIDEO.tokenCount": {"video_input_tokens": 1},
    "toolUsePromptTokensDetails.*": None,
    "cacheTokensDetails.AUDIO.tokenCount": {"cached_audio_input_tokens": 1},
    "cacheTokensDetails.IMAGE.tokenCount": {"cached_image_input_tokens": 1},
    # No provider has a price for cached video: it is cached input like any other.
    "cacheTokensDetails.VIDEO.tokenCount": {"video_input_tokens": -1},
    "cacheTokensDetails.*": None,
    "candidatesTokensDetails.AUDIO.tokenCount": {"audio_output_tokens": 1},
    "candidatesTokensDetails.IMAGE.tokenCount": {"image_output_tokens": 1},
    "candidatesTokensDetails.*": None,
    "responseTokensDetails.AUDIO.tokenCount": {"audio_output_tokens": 1},
    "responseTokensDetails.IMAGE.tokenCount": {"image_output_tokens": 1},
    "responseTokensDetails.*": None,
}

_OPENTELEMETRY: Members = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "total_tokens": None,
    "cache_read.input_tokens": "cached_input_tokens",
    "cache_creation.input_tokens": "cache_creation_input_tokens",
    "reasoning.output_tokens": "reasoning_output_tokens",
    # Names of earlier conventions, and of instrumentations
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "cache_read_input_tokens": "cached_input_tokens",
    "cache_creation_input_tokens": "cache_creation_input_tokens",
    "reasoning_tokens": "reasoning_output_tokens",
    "input_tokens.cached": "cached_input_tokens",
    "input_tokens.cache_write": "cache_creation_input_tokens",
    "output_tokens.reasoning": "reasoning_output_tokens",
    "cost": "cost",
}

# The Python SDK of Gemini writes these in snake case.
_GEMINI_SPELLINGS = {
    re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name): name
    for name in ("tokenCount", *(path.partition(".")[0] for path in _GEMINI))
}

SHAPES = (
    UsageShape(
        name="OpenTelemetry",
        recognised_by=(
            "gen_ai.usage.",
            "cache_read.input_tokens",
            "cache_creation.input_tokens",
            "reasoning.output_tokens",
        ),
        cache_tokens_included=True,
        reasoning_tokens_included=True,
        members={**_OPENTELEMETRY, **_below("gen_ai.usage", _OPENTELEMETRY)},
    ),
    UsageShape(
        name="Gemini usageMetadata",
        recognised_by=(
            "promptTokenCount",
            "candidatesTokenCount",
            "responseTokenCount",
            "thoughtsTokenCount",
            "cachedContentTokenCount",
            "totalTokenCount",
            "prompt_token_count",
            "candidates_token_count",
            "response_token_count",
            "thoughts_token_count",
            "cached_content_token_count",
            "total_token_count",
        ),
        cache_tokens_included=True,
        reasoning_tokens_included=False,
        members=_GEMINI,
        spellings=_GEMINI_SPELLINGS,
    ),
    UsageShape(
        # The published client, of Anthropic's usage: OpenAI's names, but input without cache.
        name="llmring",
        recognised_by=(
            "cache_creation_tokens",
            "cache_creation_5m_tokens",
            "cache_creation_1h_tokens",
        ),
        cache_tokens_included=None,
        reasoning_tokens_included=None,
        members={
            "prompt_tokens": "input_tokens",
            "completion_tokens": "output_tokens",
            "cache_creation_tokens": "cache_creation_input_tokens",
            "cache_creation_5m_tokens": _CACHE_WRITES_5M,
            "cache_creation_1h_tokens": "cache_creation_1h_input_tokens",
            **_OPENAI_COMMON,
        },
    ),
    UsageShape(
        name="OpenAI Chat Completions",
        recognised_by=("prompt_tokens", "completion_tokens"),
        cache_tokens_included=True,
        reasoning_tokens_included=None,
        members={
            "prompt_tokens": "input_tokens",
            "completion_tokens": "output_tokens",
            **_OPENAI_COMMON,
            **_below("prompt_tokens_details", _OPENAI_INPUT_DETAILS),
            **_below("completion_tokens_details", _OPENAI_OUTPUT_DETAILS),
        },
    ),
    UsageShape(
        name="Vercel AI SDK",
        recognised_by=(
            "cachedInputTokens",
            "reasoningTokens",
            "inputTokenDetails.",
            "outputTokenDetails.",
        ),
        cache_tokens_included=True,
        reasoning_tokens_included=None,
        members={
            "inputTokens": "input_tokens",
            "outputTokens": "output_tokens",
            "totalTokens": None,
            "cachedInputTokens": "cached_input_tokens",
            "reasoningTokens": "reasoning_output_tokens",
            "inputTokenDetails.noCacheTokens": None,
            "inputTokenDetails.cacheReadTokens": "cached_input_tokens",
            "inputTokenDetails.cacheWriteTokens": "cache_creation_input_tokens",
            "outputTokenDetails.textTokens": None,
            "outputTokenDetails.reasoningTokens": "reasoning_output_tokens",
            # The object of the provider, which says the same again
            "raw.*": None,
        },
    ),
    UsageShape(
        name="Bedrock Converse",
        recognised_by=("inputTokens", "outputTokens", "cacheReadInput", "cacheWriteInput"),
        cache_tokens_included=False,
        reasoning_tokens_included=True,
        members={
            "inputTokens": "input_tokens",
            "outputTokens": "output_tokens",
            "totalTokens": None,
            "cacheReadInputTokens": "cached_input_tokens",
            "cacheReadInputTokenCount": "cached_input_tokens",
            "cacheWriteInputTokens": "cache_creation_input_tokens",
            "cacheWriteInputTokenCount": "cache_creation_input_tokens",
            "cacheDetails.5m.inputTokens": _CACHE_WRITES_5M,
            "cacheDetails.1h.inputTokens": "cache_creation_1h_input_tokens",
        },
    ),
    UsageShape(
        name="OpenAI Responses",
        # The names without `s` are those of the Realtime API and of LangChain.
        recognised_by=(
            "seconds",
            "cost_in_usd_ticks",
            "input_tokens_details.",
            "input_token_details.",
            "output_tokens_details.",
            "output_token_details.",
        ),
        cache_tokens_included=True,
        reasoning_tokens_included=None,
        members={
            "input_tokens": "input_tokens",
            "output_tokens": "output_tokens",
            **_OPENAI_COMMON,
            **_below("input_tokens_details", _OPENAI_INPUT_DETAILS),
            **_below("input_token_details", _OPENAI_INPUT_DETAILS),
            **_below("output_tokens_details", _OPENAI_OUTPUT_DETAILS),
            **_below("output_token_details", _OPENAI_OUTPUT_DETAILS),
        },
    ),
    UsageShape(
        name="Pydantic AI",
        recognised_by=(
            "cache_read_tokens",
            "cache_write_tokens",
            "cache_audio_read_tokens",
            "input_audio_tokens",
            "output_audio_tokens",
            "details.",
        ),
        cache_tokens_included=True,
        reasoning_tokens_included=None,
        members={
            "input_tokens": "input_tokens",
            "output_tokens": "output_tokens",
            "cache_read_tokens": "cached_input_tokens",
            "cache_write_tokens": "cache_creation_input_tokens",
            "input_audio_tokens": "audio_input_tokens",
            "cache_audio_read_tokens": "cached_audio_input_tokens",
            "output_audio_tokens": "audio_output_tokens",
            "requests": "requests",
            "tool_calls": None,
            "details.reasoning_tokens": "reasoning_output_tokens",
            # Counts of the provider, which are in the others
            "details.*": None,
        },
    ),
    UsageShape(
        name="Anthropic Messages",
        recognised_by=("input_tokens", "output_tokens", "cache_read_input", "cache_creation"),
        cache_tokens_included=False,
        reasoning_tokens_included=True,
        members={
            "input_tokens": "input_tokens",
            "output_tokens": "output_tokens",
            **_GATEWAYS,
            **_ANTHROPIC_CACHE,
            **_ANTHROPIC_TOOLS,
            # The tokens of a compaction are not in the totals.
            "iterations.message.*": None,
            "iterations.compaction.input_tokens": {"input_tokens": 1},
            "iterations.compaction.output_tokens": {"output_tokens": 1},
            "iterations.compaction.cache_read_input_tokens": {"cached_input_tokens": 1},
            "iterations.compaction.cache_creation_input_tokens": {"cache_creation_input_tokens": 1},
            "iterations.compaction.cache_creation.ephemeral_5m_input_tokens": None,
            "iterations.compaction.cache_creation.ephemeral_1h_input_tokens": {
                "cache_creation_1h_input_tokens": 1
            },
        },
    ),
)

# Values with which a member changes no price; with another one, it is not understood.
ORDINARY_VALUES = {
    "speed": {"standard"},
    "inference_geo": {"global", "not_available"},
    "trafficType": {"TRAFFIC_TYPE_UNSPECIFIED"},
}

# Values that name a service tier, whatever `service_tier` says beside them.
TIER_VALUES = {"speed": {"fast"}}

# Other names of single fields of a call, beside `usage`.
FIELD_ALIASES = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "cache_read_input_tokens": "cached_input_tokens",
    "cache_read_tokens": "cached_input_tokens",
    "cached_tokens": "cached_input_tokens",
    "cache_write_input_tokens": "cache_creation_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
    "reasoning_tokens": "reasoning_output_tokens",
}


def aliases_of(field: str) -> list[str]:
    """Return the other names of a field of a call."""
    return [alias for alias, name in FIELD_ALIASES.items() if name == field]


_TOTALS = ("input_tokens", "output_tokens")
_CACHE_FIELDS = ("cached_input_tokens", "cache_creation_input_tokens")
# What tells how a total counts.
_FLAGS = {
    "input_tokens": "cache_tokens_included",
    "output_tokens": "reasoning_tokens_included",
}
# The part of a modality that was read from a cache, and the whole.
_CACHED_MODALITIES = {
    "cached_audio_input_tokens": "audio_input_tokens",
    "cached_image_input_tokens": "image_input_tokens",
}
_DECIMALS = {"cost", "audio_seconds"}
_KEPT_ZEROS = {*_TOTALS, *_FLAGS.values(), "cost"}
_TOTAL_OF_ALL = (
    "total_tokens",
    "totalTokens",
    "totalTokenCount",
    "gen_ai.usage.total_tokens",
)
_WRITTEN_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


class UsageError(ValueError):
    """A member of a call, at `path`, that cannot be used."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class ProviderUsage(dict[str, Any]):
    """A usage object as it was sent.

    `unknown` are the paths of the members that were not understood. `filled` are the fields of the
    call that only this object gave.
    """

    unknown: tuple[str, ...] = ()
    filled: frozenset[str] = frozenset()


class _Reading(NamedTuple):
    """The fields of a call in a usage object, the member that each comes from, and the rest.

    `also` are other values that a field may have beside the usage object without a contradiction:
    those of single members, and of a total with or without a part of it.
    """

    fields: dict[str, Any]
    sources: dict[str, str]
    unknown: tuple[str, ...]
    also: dict[str, set[Any]]


class _Member(NamedTuple):
    """A value in a usage object."""

    path: str
    value: Any
    in_list: bool


def with_canonical_fields(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a call under the names of its fields, those of `usage` among them.

    UsageError if two members contradict each other.
    """
    fields = dict(call)
    usage = fields.pop("usage", None)
    for alias, field in FIELD_ALIASES.items():
        if alias in fields:
            count = fields.pop(alias)
            _merge(fields, field, None if count is None else _count(count, alias), alias)
    if usage is not None:
        sent = _as_dict(usage)
        reading = _read(sent, reasoning_beside=_counts_reasoning_beside(fields))
        if not reading.fields and sent and not fields.keys() >= {*_TOTALS}:
            names = ", ".join(shape.name for shape in SHAPES)
            raise UsageError("usage", f"must be a usage object of one of: {names}")
        before = {field for field, value in fields.items() if value is not None}
        for field, value in reading.fields.items():
            if _is_one_of(field, fields.get(field), reading.also.get(field, ())):
                # What the caller says of such a count is not true of the one that replaces it.
                fields |= {field: None, **({_FLAGS[field]: None} if field in _FLAGS else {})}
            source = reading.sources.get(field)
            _merge(fields, field, value, f"usage.{source}" if source else "usage")
        filled = reading.fields.keys() - before
        # Details that count nothing would only be stored with every call.
        for field in filled - _KEPT_ZEROS:
            if fields[field] == 0:
                del fields[field]
        fields["usage"] = provider_usage = ProviderUsage(sent)
        provider_usage.unknown = reading.unknown
        provider_usage.filled = frozenset(filled)
    return fields


def _merge(fields: dict[str, Any], field: str, value: Any, path: str) -> None:
    present = fields.get(field)
    if present is None:
        fields[field] = value
    elif value is not None and _comparable(field, value) != _comparable(field, present):
        raise UsageError(path, f"contradicts {field}; give one of them")


def _is_one_of(field: str, value: Any, others: Iterable[Any]) -> bool:
    return any(_comparable(field, value) == _comparable(field, other) for other in others)


def _comparable(field: str, value: Any) -> Any:
    """Return a value of a field such that two spellings of it are equal."""
    if field == "service_tier" and isinstance(value, str):
        return normal_tier(value)
    # 0.1 is a tenth, and so is "0.1".
    if isinstance(value, float) or (isinstance(value, str) and _WRITTEN_NUMBER.fullmatch(value)):
        return Decimal(str(value))
    return value


def _counts_reasoning_beside(call: Mapping[str, Any]) -> bool:
    provider, model = call.get("provider"), call.get("model")
    if not isinstance(provider, str) or not isinstance(model, str):
        return False
    return counts_reasoning_beside(provider, model)


def _as_dict(usage: object) -> dict[str, Any]:
    """Return a usage object as a dictionary; those of SDKs are pydantic models or dataclasses."""
    dump = getattr(usage, "model_dump", None)
    if callable(dump):
        usage = dump()
    elif is_dataclass(usage) and not isinstance(usage, type):
        usage = asdict(usage)
    if not isinstance(usage, Mapping):
        raise UsageError("usage", "must be an object")
    return dict(usage)


def _read(usage: Mapping[str, Any], *, reasoning_beside: bool) -> _Reading:
    """Read a usage object of an API that counts reasoning in the output or beside it."""
    found = _by_path(_members(usage))
    members = {path: value for path, value in found.items() if value is not None}
    shape = _shape_of(members) or _shape_of(found)
    if shape is None:
        unknown = dict.fromkeys(path.partition(".")[0] for path in members)
        return _Reading({}, {}, tuple(unknown), {})
    if shape.spellings:
        members = _by_path(
            _Member(_respelled(path, shape.spellings), value, in_list=False)
            for path, value in members.items()
        )
    reading = _fields(shape, members)
    _complete(shape, members, reading, reasoning_beside=reasoning_beside)
    return reading


def _members(value: Any, path: str = "", *, in_list: bool = False) -> Iterator[_Member]:
    """Yield the values in a usage object. The items of a list are told apart by their labels."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            below = f"{path}.{name}" if path else str(name)
            yield from _members(member, below, in_list=in_list)
    elif isinstance(value, list | tuple) and all(map(_label, value)):
        for item in value:
            label = _label(item)
            rest = {name: member for name, member in item.items() if name != label}
            # By concatenation: a label of an enumeration would be formatted as its name.
            name = item[label].upper() if label == "modality" else item[label]
            yield from _members(rest, path + "." + name, in_list=True)
    else:
        yield _Member(path, value, in_list)


def _label(item: Any) -> str | None:
    if not isinstance(item, Mapping):
        return None
    return next((name for name in LIST_LABELS if isinstance(item.get(name), str)), None)


def _by_path(members: Iterable[_Member]) -> dict[str, Any]:
    """Collect members; those of items of a list that have the same label are added up."""
    values: dict[str, Any] = {}
    for path, value, in_list in members:
        earlier = values.get(path)
        if earlier is None:
            values[path] = value
        elif value is not None and in_list:
            values[path] = _count(earlier, f"usage.{path}") + _count(value, f"usage.{path}")
        elif value is not None and value != earlier:
            raise UsageError(f"usage.{path}", "is given twice, with different values")
    return values


def _respelled(path: str, spellings: Mapping[str, str]) -> str:
    return ".".join(spellings.get(part, part) for part in path.split("."))


def _shape_of(members: Mapping[str, Any]) -> UsageShape | None:
    for shape in SHAPES:
        if any(path.startswith(shape.recognised_by) for path in members):
            return shape
    return None


def _fields(shape: UsageShape, members: Mapping[str, Any]) -> _Reading:
    fields: dict[str, Any] = {}
    sources: dict[str, str] = {}
    added: dict[str, int] = {}
    unknown: dict[str, None] = {}
    also: dict[str, set[Any]] = {}
    tiers = []
    for path, value in members.items():
        if _has_value_of(ORDINARY_VALUES, path, value):
            continue
        if _has_value_of(TIER_VALUES, path, value):
            tiers.append(value)
            continue
        known, meaning = _meaning(shape.members, path)
        if not known:
            unknown[_unknown_part(shape.members, path)] = None
        elif isinstance(meaning, str):
            read = _value(meaning, value, f"usage.{path}")
            present = fields.setdefault(meaning, read)
            if _comparable(meaning, present) != _comparable(meaning, read):
                raise UsageError(f"usage.{path}", f"contradicts usage.{sources[meaning]}")
            sources.setdefault(meaning, path)
            also.setdefault(meaning, set()).add(read)
        elif meaning:
            count = _count(value, f"usage.{path}")
            for field, sign in meaning.items():
                added[field] = added.get(field, 0) + sign * count
                sources.setdefault(field, path)
                also.setdefault(field, set()).add(count)
    for field, count in added.items():
        fields[field] = max(fields.get(field, 0) + count, 0)
    fields.update(("service_tier", tier) for tier in tiers)
    return _Reading(fields, sources, tuple(unknown), also)


def _has_value_of(values: Mapping[str, Container[str]], path: str, value: Any) -> bool:
    return isinstance(value, str) and value in values.get(path, ())


def _meaning(members: Members, path: str) -> tuple[bool, Meaning]:
    if path in members:
        return True, members[path]
    while "." in path:
        path = path.rpartition(".")[0]
        if f"{path}.*" in members:
            return True, members[f"{path}.*"]
    return False, None


def _unknown_part(members: Members, path: str) -> str:
    """Return the shortest beginning of a path that no known path has."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        beginning = ".".join(parts[:length])
        if not any(known.startswith(beginning + ".") for known in members):
            return beginning
    return path


def _value(field: str, value: Any, path: str) -> Any:
    if field == "service_tier":
        if not isinstance(value, str):
            raise UsageError(path, "must be text")
        return value
    if field in _DECIMALS:
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            raise UsageError(path, "must be a number")
        return value if isinstance(value, int | Decimal) else Decimal(str(value))
    return _count(value, path)


def _count(value: Any, path: str) -> int:
    try:
        count = whole_number(value)
    except ValueError as exc:
        raise UsageError(path, str(exc)) from exc
    if not 0 <= count <= MAX_COUNT:
        raise UsageError(path, f"must be between 0 and {MAX_COUNT}")
    return count


def _complete(
    shape: UsageShape, members: Mapping[str, Any], reading: _Reading, *, reasoning_beside: bool
) -> None:
    """Add what follows from several members together."""
    fields = reading.fields
    # Some objects have 0 for the whole beside its parts; the whole is at least their sum.
    cache_writes = fields.pop(_CACHE_WRITES_5M, 0) + fields.get("cache_creation_1h_input_tokens", 0)
    if cache_writes > fields.get("cache_creation_input_tokens", 0):
        fields["cache_creation_input_tokens"] = cache_writes
    # The same holds for a modality, which may have no count but the cached one.
    for cached, whole in _CACHED_MODALITIES.items():
        if fields.get(cached, 0) > fields.get(whole, 0):
            fields[whole] = fields[cached]
    cached_tokens = sum(fields.get(cached, 0) for cached in _CACHED_MODALITIES)
    if cached_tokens > fields.get("cached_input_tokens", 0):
        fields["cached_input_tokens"] = cached_tokens
    _complete_cost(members, fields)
    # Servers leave out what is 0. If there is no count at all, the usage is unknown.
    if not fields.keys() - {"cost", "service_tier"}:
        fields.update(dict.fromkeys(_TOTALS))
        return
    for total in _TOTALS:
        fields.setdefault(total, 0)
    cache_tokens = sum(fields.get(field, 0) for field in _CACHE_FIELDS)
    # Cache tokens that are more than the input cannot be part of it, whatever the shape says.
    included = shape.cache_tokens_included
    is_impossible = included and cache_tokens > fields["input_tokens"]
    if cache_tokens and included is not None and not is_impossible:
        fields["cache_tokens_included"] = included
    _complete_reasoning(shape, members, fields, beside=reasoning_beside)
    reasoning = fields.get("reasoning_output_tokens", 0)
    for total, part in (("input_tokens", cache_tokens), ("output_tokens", reasoning)):
        count = fields[total]
        reading.also.setdefault(total, set()).update({count + part, count - part})
    for field, values in reading.also.items():
        values.discard(fields.get(field))


def _complete_cost(members: Mapping[str, Any], fields: dict[str, Any]) -> None:
    ticks = fields.pop(_COST_TICKS, None)
    if ticks is not None:
        fields.setdefault("cost", Decimal(ticks).scaleb(-10))
    if members.get("is_byok") is True and "cost" in fields:
        # Then `cost` is only the fee of OpenRouter.
        upstream = members.get("cost_details.upstream_inference_cost")
        if upstream is None:
            del fields["cost"]
        else:
            path = "usage.cost_details.upstream_inference_cost"
            fields["cost"] += _value("cost", upstream, path)


def _complete_reasoning(
    shape: UsageShape, members: Mapping[str, Any], fields: dict[str, Any], *, beside: bool
) -> None:
    included = shape.reasoning_tokens_included
    total = _total_of_all(members)
    without = fields["input_tokens"] + fields["output_tokens"]
    if fields.get("cache_tokens_included") is False:
        without += sum(fields.get(field, 0) for field in _CACHE_FIELDS)
    reasoning = fields.get("reasoning_output_tokens", 0)
    if not reasoning:
        # Gemini's OpenAI-compatible API shows reasoning in nothing but the total.
        if total is None or total <= without or not (beside or included is False):
            return
        reasoning = fields["reasoning_output_tokens"] = total - without
        included = False
    elif included is None and total is not None:
        included = {without: True, without + reasoning: False}.get(total)
    if included is not None:
        fields["reasoning_tokens_included"] = included


def _total_of_all(members: Mapping[str, Any]) -> int | None:
    total = next((members[path] for path in _TOTAL_OF_ALL if path in members), None)
    try:
        return None if total is None else whole_number(total)
    except ValueError:
        return None
