"""A provider's models as a registry lists them: read strictly, written exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from llmring_server.core.strict_json import parse_json
from llmring_server.errors import InvalidRequest, NotFound

Models = Mapping[str, Mapping[str, Any]]

MAX_PRICE = Decimal(10_000)
LATEST = 10**9

# Before this there was nothing to list.
EPOCH = datetime(2020, 1, 1, tzinfo=UTC)

# What readers may count on in every model.
USUAL: Mapping[str, Any] = {
    "provider": None,
    "model_name": None,
    "display_name": None,
    "description": None,
    "max_input_tokens": None,
    "max_output_tokens": None,
    "supports_vision": False,
    "supports_function_calling": False,
    "supports_json_mode": False,
    "supports_parallel_tool_calls": False,
    "tool_call_format": None,
    "dollars_per_million_tokens_input": None,
    "dollars_per_million_tokens_output": None,
    "is_active": True,
}
PRICES = ("dollars_per_million_tokens_", "cache_storage_cost_per_")
FLAGS = ("supports_", "is_")
_LIMITS = {"max_input_tokens", "max_output_tokens", "long_context_threshold_tokens"}
_TEXTS = {"provider", "model_name", "display_name", "description", "tool_call_format"}

# Two names of one thing: some providers' files use the one, some the other.
_CACHED = ("dollars_per_million_tokens_cached_input", "dollars_per_million_tokens_cache_read")


@dataclass(frozen=True, eq=False)
class ProviderFile:
    """What a provider's file said at some time; `content` is the file, word for word.

    `id` is 0 for the offline book; else it counts all files of all providers.
    """

    id: int
    provider: str
    version: int
    since: datetime
    fetched_at: datetime
    models: Models
    content: bytes


@dataclass(frozen=True, eq=False)
class RegistrySnapshot:
    """The files that were fetched and found good, the newest first."""

    history: tuple[ProviderFile, ...] = ()

    @cached_property
    def files(self) -> Mapping[str, ProviderFile]:
        """The newest file of each provider."""
        return self.at(LATEST)

    def at(self, id: int) -> Mapping[str, ProviderFile]:
        """Return the newest file of each provider when `id` was the newest of all."""
        return {file.provider: file for file in reversed(self.history) if file.id <= id}


class RegistryEdition(NamedTuple):
    """One file for each provider; `whole` if none of them had to come from the offline book."""

    id: int
    files: tuple[ProviderFile, ...]
    whole: bool

    @property
    def models(self) -> Models:
        return {key: model for file in self.files for key, model in file.models.items()}

    def of(self, provider: str) -> ProviderFile:
        for file in self.files:
            if file.provider == provider:
                return file
        raise NotFound


class ParsedFile(NamedTuple):
    """What a file says."""

    content: bytes
    version: int
    updated_at: datetime | None
    models: Models


def parse_provider_file(provider: str, content: bytes) -> ParsedFile:
    """Read a provider's file; a RingError says what is wrong with it."""
    document = parse_json(content)
    if not isinstance(document, dict) or document.get("provider", provider) != provider:
        raise InvalidRequest(f"it is not a file of {provider}")
    version, models = document.get("version"), document.get("models")
    if type(version) is not int or not 0 < version < LATEST:
        raise InvalidRequest("version: not a whole number from 1 to 999999999")
    if not isinstance(models, dict) or not models:
        raise InvalidRequest("models: not an object with models in it")
    found = {key: model_json(provider, key, given) for key, given in models.items()}
    return ParsedFile(content, version, _moment(document.get("updated_at")), found)


def model_json(provider: str, key: str, given: Any) -> dict[str, Any]:
    """Read one model: null is as good as absent, and what readers count on is there."""
    named, _, name = key.partition(":")
    if named != provider or not name or not key.isprintable() or not isinstance(given, dict):
        raise InvalidRequest(f"models: {key!a} is not {provider}:<name> with an object")
    checked = {field: _checked(key, field, value) for field, value in given.items()}
    said = {field: value for field, value in checked.items() if value is not None}
    cached = next((said[field] for field in _CACHED if field in said), None)
    found = {**USUAL, "model_name": name, "display_name": name}
    found |= {field: None for field in given if field not in USUAL}
    found |= {} if cached is None else dict.fromkeys(_CACHED, cached)
    return found | said | {"provider": provider}


def _checked(key: str, field: str, value: Any) -> Any:
    if value is None:
        return None
    if field.startswith(PRICES):
        value = Decimal(value) if type(value) is int else value
        right = isinstance(value, Decimal) and 0 <= value <= MAX_PRICE
    elif field.startswith(FLAGS):
        right = isinstance(value, bool)
    elif field in _LIMITS:
        right, value = type(value) is int and value >= 0, value or None
    elif field == "model_aliases":
        right = isinstance(value, list) and all(isinstance(each, str) for each in value)
    else:
        right = field not in _TEXTS or isinstance(value, str)
    if not right:
        raise InvalidRequest(f"models: {key}: {field!a} is not what it must be")
    return value


def _moment(value: object) -> datetime | None:
    """Read a time that says no zone, or perhaps no time, as one in UTC."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def provider_file_json(document: object) -> bytes:
    """Write JSON with its numbers as they were given, to the last digit."""
    return orjson.dumps(document, _spelled, orjson.OPT_UTC_Z)


def _spelled(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError
