"""Registry files: the models of one provider, parsed strictly and written exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from llmring_server.core.strict_json import parse_json
from llmring_server.errors import InvalidRequest, NotFound
from llmring_server.registry.price_fields import PRICE_FIELDS, USD_PER_MILLION_TOKENS

# Models by provider and name, such as `openai:gpt-4o`.
Models = Mapping[str, Mapping[str, Any]]

MAX_PRICE_USD = Decimal(10_000)
# Versions of files, and editions of the registry, are less than this.
MAX_VERSION = 10**9

# No registry file is valid before this.
EPOCH = datetime(2020, 1, 1, tzinfo=UTC)

# The fields that every model has, and their values if a file does not have them.
MODEL_DEFAULTS: Mapping[str, Any] = {
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
PRICE_PREFIXES = (USD_PER_MILLION_TOKENS, "cache_storage_cost_per_")
FLAG_PREFIXES = ("supports_", "is_")
_TOKEN_COUNTS = {"max_input_tokens", "max_output_tokens", "long_context_threshold_tokens"}
_TEXTS = {"provider", "model_name", "display_name", "description", "tool_call_format"}

# Two fields with one meaning. Files have either; readers get both.
_CACHE_READ_FIELDS = next(
    field.registry_fields for field in PRICE_FIELDS if field.kind == "cache_read"
)


@dataclass(frozen=True, eq=False)
class ProviderFile:
    """A version of a provider's file; `content` are its bytes as they were downloaded.

    Files of all providers are numbered together; `id` is 0 for the built-in price book.
    """

    id: int
    provider: str
    version: int
    valid_from: datetime
    fetched_at: datetime
    models: Models
    content: bytes


@dataclass(frozen=True, eq=False)
class RegistrySnapshot:
    """The accepted files, newest first."""

    history: tuple[ProviderFile, ...] = ()

    @cached_property
    def files(self) -> Mapping[str, ProviderFile]:
        """The newest file of each provider."""
        return self.at(MAX_VERSION)

    @property
    def latest_id(self) -> int:
        """The number of the newest file, 0 if there is none."""
        return self.history[0].id if self.history else 0

    def at(self, id: int) -> Mapping[str, ProviderFile]:
        """Return the newest file of each provider among those numbered up to `id`."""
        return {file.provider: file for file in reversed(self.history) if file.id <= id}


class RegistryEdition(NamedTuple):
    """One file for each provider; `has_builtin` if the built-in price book completed them."""

    id: int
    files: tuple[ProviderFile, ...]
    has_builtin: bool

    @property
    def models(self) -> Models:
        return {key: model for file in self.files for key, model in file.models.items()}

    def file_of(self, provider: str) -> ProviderFile:
        for file in self.files:
            if file.provider == provider:
                return file
        raise NotFound.of("Registry file")


class ParsedFile(NamedTuple):
    """The content of a provider's file."""

    content: bytes
    version: int
    updated_at: datetime | None
    models: Models


def parse_provider_file(provider: str, content: bytes) -> ParsedFile:
    """Parse a provider's file; raise a RingError with the reason if it is invalid."""
    document = parse_json(content)
    if not isinstance(document, dict) or document.get("provider", provider) != provider:
        raise InvalidRequest(f"this is not a registry file of {provider}")
    version = document.get("version")
    if type(version) is not int or not 0 < version < MAX_VERSION:
        raise InvalidRequest("version: must be a whole number from 1 to 999999999")
    entries = document.get("models")
    if not isinstance(entries, dict) or not entries:
        raise InvalidRequest("models: must be an object with at least one model")
    models = {key: parse_model(provider, key, entry) for key, entry in entries.items()}
    return ParsedFile(content, version, _parse_time(document.get("updated_at")), models)


def parse_model(provider: str, key: str, entry: Any) -> dict[str, Any]:
    """Parse one model. Null means absent, and fields that readers rely on are added."""
    prefix, _, name = key.partition(":")
    if prefix != provider or not name or not key.isprintable() or not isinstance(entry, dict):
        raise InvalidRequest(f"models: {key!a} is not {provider}:<name> with an object")
    parsed = {field: _parse_field(key, field, value) for field, value in entry.items()}
    values = {field: value for field, value in parsed.items() if value is not None}
    model = {**MODEL_DEFAULTS, "model_name": name, "display_name": name}
    model |= {field: None for field in entry if field not in MODEL_DEFAULTS}
    for field in _CACHE_READ_FIELDS:
        if field in values:
            model |= dict.fromkeys(_CACHE_READ_FIELDS, values[field])
    return model | values | {"provider": provider}


def _parse_field(key: str, field: str, value: Any) -> Any:
    if value is None:
        return None
    if field.startswith(PRICE_PREFIXES):
        value = Decimal(value) if type(value) is int else value
        valid = isinstance(value, Decimal) and 0 <= value <= MAX_PRICE_USD
    elif field.startswith(FLAG_PREFIXES):
        valid = isinstance(value, bool)
    elif field in _TOKEN_COUNTS:
        valid = type(value) is int and value >= 0
        # The registry writes 0 for an unknown limit.
        value = value or None
    elif field == "model_aliases":
        valid = isinstance(value, list) and all(isinstance(alias, str) for alias in value)
    elif field in _TEXTS:
        valid = isinstance(value, str)
    else:
        valid = True
    if not valid:
        raise InvalidRequest(f"models: {key}: {field!a} has an invalid value")
    return value


def _parse_time(value: object) -> datetime | None:
    """Parse a time that need not have a zone, as one in UTC; None if it is not a time."""
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def exact_json(document: object) -> bytes:
    """Write JSON whose numbers have every digit that they were read with."""
    return orjson.dumps(document, _write_decimal, orjson.OPT_UTC_Z)


def _write_decimal(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError
