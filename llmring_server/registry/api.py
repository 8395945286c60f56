"""Registry endpoints: models with limits, capabilities and prices, public and cacheable."""

import re
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, BeforeValidator, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from llmring_server.errors import InvalidRequest
from llmring_server.registry.models import (
    FLAG_PREFIXES,
    MAX_VERSION,
    Models,
    ProviderFile,
    RegistryEdition,
    exact_json,
)
from llmring_server.web.request import IdOf, Request
from llmring_server.web.request_limits import JSON

IMMUTABLE = "public, max-age=31536000, immutable"
MAX_CACHE_SECONDS = 3600
MAX_WORDS = 100
SCHEMA_VERSION = "3.5"

# Of any number of entity tags, or the asterisk, in If-None-Match.
_ENTITY_TAG = re.compile(rb'\*|"[^"]*"')


class ModelInfo(TypedDict):
    """The fields that every model has; prices are in USD per 10^6 tokens."""

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


class RegistryProvider(TypedDict):
    """A provider's own API."""

    name: str
    base_url: str
    models_endpoint: str | None


class ModelCatalog(TypedDict):
    """All models, by provider and name: `openai:gpt-4o`."""

    version: str
    generated_at: datetime
    models: dict[str, ModelInfo]
    providers: dict[str, RegistryProvider]


class ManifestEntry(TypedDict):
    """The current file of a provider."""

    file: str
    model_count: int
    last_updated: datetime
    version: int


class Manifest(TypedDict):
    """The current files, by provider."""

    version: str
    updated_at: datetime
    schema_version: str
    providers: dict[str, ManifestEntry]


class RegistryProviderFile(TypedDict):
    """The current file of a provider, exactly as the registry published it."""

    provider: NotRequired[str]
    version: int
    updated_at: NotRequired[Any]
    models: dict[str, dict[str, Any]]


class EarlierProviderFile(TypedDict):
    """An earlier version of a provider's file; fields that are null are omitted."""

    provider: str
    version: int
    updated_at: datetime
    models: list[dict[str, Any]]


PROVIDERS: dict[str, RegistryProvider] = {
    "openai": {
        "name": "OpenAI",
        "base_url": "https://api.openai.com/v1",
        "models_endpoint": "/models",
    },
    "anthropic": {
        "name": "Anthropic",
        "base_url": "https://api.anthropic.com",
        "models_endpoint": None,
    },
    "google": {
        "name": "Google",
        "base_url": "https://generativelanguage.googleapis.com",
        "models_endpoint": "/v1/models",
    },
    "ollama": {
        "name": "Ollama",
        "base_url": "http://localhost:11434",
        "models_endpoint": "/api/tags",
    },
}


def _split_words(text: str) -> set[str]:
    words = text.split(",")
    if len(words) > MAX_WORDS:
        raise ValueError(f"must be at most {MAX_WORDS} words")
    return {word.strip() for word in words} - {""}


def _require_digits(text: str) -> str:
    if not text.isascii() or not text.isdecimal():
        raise ValueError
    return text


Words = Annotated[frozenset[str], Field(max_length=MAX_WORDS), BeforeValidator(_split_words)]
# Digits only: +1 and 1_000 would be other URLs of the same resource.
Number = Annotated[
    int,
    Field(ge=0, lt=MAX_VERSION),
    BeforeValidator(_require_digits),
    IdOf("Registry version"),
]


class RegistryFilter(BaseModel, frozen=True):
    """The models to return: those of these providers that have all of these capabilities."""

    providers: Words = Field(frozenset(), description="Only models of these providers.")
    capabilities: Words = Field(
        frozenset(),
        description="Only models with all of these capabilities: `vision`, for example.",
    )


async def get_registry(
    request: Request, query: RegistryFilter
) -> Annotated[Response, {JSON: ModelCatalog}, "ETag", "X-Registry-Stale"]:
    """List models with limits, capabilities and prices."""
    edition = await request.ring.registry.current()
    return _current_response(request, _catalog(edition, query), edition.files)


async def get_registry_version(
    request: Request, id: Number, query: RegistryFilter
) -> Annotated[Response, {JSON: ModelCatalog}, "ETag"]:
    """List the models of an earlier version of the registry."""
    edition = await request.ring.registry.edition(id)
    cache_control = _short_lived(request) if edition.has_builtin else IMMUTABLE
    return _response(request, _catalog(edition, query), cache_control)


async def get_manifest(
    request: Request,
) -> Annotated[Response, {JSON: Manifest}, "ETag", "X-Registry-Stale"]:
    """List providers, and the version and age of their files."""
    edition = await request.ring.registry.current()
    return _current_response(request, _manifest(edition), edition.files)


async def get_provider_models(
    request: Request, provider: str
) -> Annotated[Response, {JSON: RegistryProviderFile}, "ETag", "X-Registry-Stale"]:
    """Return the current file of a provider, exactly as the registry published it."""
    file = (await request.ring.registry.current()).file_of(provider)
    return _current_response(request, file.content, [file])


async def get_provider_version(
    request: Request, provider: str, version: Number
) -> Annotated[Response, {JSON: EarlierProviderFile}, "ETag"]:
    """Return an earlier version of a provider's file."""
    file = await request.ring.registry.version(provider, version)
    cache_control = IMMUTABLE if file.id else _short_lived(request)
    return _response(request, _archived_file(file), cache_control)


@lru_cache(maxsize=16)
def _catalog(edition: RegistryEdition, query: RegistryFilter) -> bytes:
    return exact_json(
        {
            "version": str(edition.id),
            "generated_at": _latest_fetch(edition),
            "models": _filter_models(edition.models, query),
            "providers": PROVIDERS,
        }
    )


def _filter_models(models: Models, query: RegistryFilter) -> Models:
    flags = _capability_flags(models)
    unknown = query.capabilities - flags.keys()
    if unknown:
        known = sorted({flag.removeprefix("supports_") for flag in flags})
        raise InvalidRequest(f"capabilities: {len(unknown)} unknown; known are {', '.join(known)}")
    required = [flags[capability] for capability in query.capabilities]
    return {
        key: model
        for key, model in models.items()
        if not query.providers or model["provider"] in query.providers
        if all(model.get(flag) for flag in required)
    }


def _capability_flags(models: Models) -> dict[str, str]:
    """Return the boolean fields of models by their names, with and without `supports_`."""
    names = dict.fromkeys(name for model in models.values() for name in model)
    flags = [name for name in names if name.startswith(FLAG_PREFIXES)]
    by_short_name = {flag.removeprefix("supports_"): flag for flag in flags}
    return by_short_name | {flag: flag for flag in flags}


@lru_cache(maxsize=2)
def _manifest(edition: RegistryEdition) -> bytes:
    return exact_json(
        {
            "version": str(edition.id),
            "updated_at": _latest_fetch(edition),
            "schema_version": SCHEMA_VERSION,
            "providers": {file.provider: _manifest_entry(file) for file in edition.files},
        }
    )


def _manifest_entry(file: ProviderFile) -> ManifestEntry:
    return {
        "file": f"{file.provider}/models.json",
        "model_count": len(file.models),
        "last_updated": file.valid_from,
        "version": file.version,
    }


@lru_cache(maxsize=16)
def _archived_file(file: ProviderFile) -> bytes:
    """Write a file as the published client reads earlier versions: models in a list, no nulls."""
    models = [
        {name: value for name, value in model.items() if value is not None}
        for model in file.models.values()
    ]
    return exact_json(
        {
            "provider": file.provider,
            "version": file.version,
            "updated_at": file.valid_from,
            "models": models,
        }
    )


def _latest_fetch(edition: RegistryEdition) -> datetime:
    return max(file.fetched_at for file in edition.files)


@lru_cache(maxsize=64)
def _etag(content: bytes) -> str:
    return f'"{sha256(content).hexdigest()[:32]}"'


def _short_lived(request: Request) -> str:
    """Return the Cache-Control of content that may change with the next refresh."""
    seconds = min(request.ring.settings.registry_ttl, MAX_CACHE_SECONDS)
    return f"public, max-age={seconds:.0f}"


def _current_response(request: Request, content: bytes, files: Iterable[ProviderFile]) -> Response:
    """Respond with content made of the current files, and with their age if they are stale."""
    response = _response(request, content, _short_lived(request))
    stale_seconds = request.ring.registry.stale_seconds(files)
    if stale_seconds is not None:
        response.headers["X-Registry-Stale"] = str(stale_seconds)
    return response


def _response(request: Request, content: bytes, cache_control: str) -> Response:
    """Respond with content, or with 304 if the client has it."""
    etag = _etag(content)
    headers = {"ETag": etag, "Cache-Control": cache_control}
    if_none_match = b",".join(
        value for name, value in request.scope["headers"] if name == b"if-none-match"
    )
    if {b"*", etag.encode()} & set(_ENTITY_TAG.findall(if_none_match)):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=JSON)
