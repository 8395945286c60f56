"""Lists of models as they are answered. Models may have more fields than these."""

from datetime import datetime
from decimal import Decimal
from typing import Any, NotRequired

from typing_extensions import TypedDict


class Model(TypedDict):
    """What readers may count on in every model; a price is USD for 10^6 tokens."""

    provider: str
    model_name: str
    display_name: str
    description: str | None
    max_input_tokens: int | None
    max_output_tokens: int | None
    supports_vision: bool
    supports_function_calling: bool
    supports_json_mode: bool
    supports_parallel_tool_calls: bool
    tool_call_format: str | None
    dollars_per_million_tokens_input: Decimal | None
    dollars_per_million_tokens_output: Decimal | None
    is_active: bool


class Provider(TypedDict):
    """Where a provider's own API is."""

    name: str
    base_url: str
    models_endpoint: str | None


class Catalog(TypedDict):
    """All models, by provider and name: `openai:gpt-4o`."""

    version: str
    generated_at: datetime
    models: dict[str, Model]
    providers: dict[str, Provider]


class Origin(TypedDict):
    """How new what is known of a provider is."""

    file: str
    model_count: int
    last_updated: datetime
    version: int


class Manifest(TypedDict):
    """What there is, by provider."""

    version: str
    updated_at: datetime
    schema_version: str
    providers: dict[str, Origin]


class Original(TypedDict):
    """A provider's file, as its registry spells it."""

    provider: NotRequired[str]
    version: int
    updated_at: NotRequired[Any]
    models: dict[str, dict[str, Any]]


class Archive(TypedDict):
    """A provider's file as it once was, without nulls."""

    provider: str
    version: int
    updated_at: datetime
    models: list[dict[str, Any]]
