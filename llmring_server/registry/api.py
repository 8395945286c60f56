"""The models that there are, for anyone to read and to keep for a while."""

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
    FLAGS,
    Models,
    ProviderFile,
    RegistryEdition,
    provider_file_json,
)
from llmring_server.web.request import Request
from llmring_server.web.request_limits import JSON


class ModelInfo(TypedDict):
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
    models: dict[str, ModelInfo]
    providers: dict[str, Provider]


class ManifestEntry(TypedDict):
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
    providers: dict[str, ManifestEntry]


class ProviderFileDocument(TypedDict):
    """A provider's file, as its registry spells it."""

    provider: NotRequired[str]
    version: int
    updated_at: NotRequired[Any]
    models: dict[str, dict[str, Any]]


class ArchivedProviderFile(TypedDict):
    """A provider's file as it once was, without nulls."""

    provider: str
    version: int
    updated_at: datetime
    models: list[dict[str, Any]]


FOREVER = "public, max-age=31536000, immutable"


LONGEST = 3600


MOST_WORDS = 100


PROVIDERS = {
    "openai": ("OpenAI", "https://api.openai.com/v1", "/models"),
    "anthropic": ("Anthropic", "https://api.anthropic.com", None),
    "google": ("Google", "https://generativelanguage.googleapis.com", "/v1/models"),
    "ollama": ("Ollama", "http://localhost:11434", "/api/tags"),
}


_TAG = re.compile(rb'\*|"[^"]*"')


def _words(text: str) -> set[str]:
    words = text.split(",")
    if len(words) > MOST_WORDS:
        raise ValueError(f"must be at most {MOST_WORDS} words")
    return {word.strip() for word in words} - {""}


Words = Annotated[frozenset[str], Field(max_length=MOST_WORDS), BeforeValidator(_words)]


def _digits(text: str) -> str:
    if not text.isascii() or not text.isdecimal():
        raise ValueError
    return text


# Digits only: neither +1 nor 1_000, of which each would be one more name of the same thing.
Number = Annotated[int, Field(ge=0, lt=10**9), BeforeValidator(_digits)]


class RegistryFilter(BaseModel, frozen=True):
    """Which models: of these providers, and with all of these capabilities."""

    providers: Words = frozenset()
    capabilities: Words = frozenset()


async def get_registry(
    request: Request, query: RegistryFilter
) -> Annotated[Response, {JSON: Catalog}, "ETag", "X-Registry-Stale"]:
    """List the models that there are, with limits, capabilities and prices."""
    edition = await request.ring.registry.current()
    return _current(request, _listed(edition, query), edition.files)


async def get_registry_version(
    request: Request, id: Number, query: RegistryFilter
) -> Annotated[Response, {JSON: Catalog}, "ETag"]:
    """List the models that there once were."""
    edition = await request.ring.registry.edition(id)
    return _answer(request, _listed(edition, query), FOREVER if edition.whole else _soon(request))


async def get_manifest(
    request: Request,
) -> Annotated[Response, {JSON: Manifest}, "ETag", "X-Registry-Stale"]:
    """Tell which providers there are, and how new what is known of them is."""
    edition = await request.ring.registry.current()
    return _current(request, _manifest(edition), edition.files)


async def get_provider_models(
    request: Request, provider: str
) -> Annotated[Response, {JSON: ProviderFileDocument}, "ETag", "X-Registry-Stale"]:
    """Pass on a provider's file, word for word."""
    file = (await request.ring.registry.current()).of(provider)
    return _current(request, file.content, [file])


async def get_provider_version(
    request: Request, provider: str, version: Number
) -> Annotated[Response, {JSON: ArchivedProviderFile}, "ETag"]:
    """Tell what a provider's file once said."""
    file = await request.ring.registry.version(provider, version)
    return _answer(request, _version(file), FOREVER if file.id else _soon(request))


@lru_cache(maxsize=16)
def _listed(edition: RegistryEdition, chosen: RegistryFilter) -> bytes:
    return provider_file_json(
        {
            "version": str(edition.id),
            "generated_at": _latest(edition),
            "models": _chosen(edition.models, chosen),
            "providers": {
                key: {"name": name, "base_url": url, "models_endpoint": endpoint}
                for key, (name, url, endpoint) in PROVIDERS.items()
            },
        }
    )


def _chosen(models: Models, chosen: RegistryFilter) -> Models:
    flags = _flags(models)
    if unknown := chosen.capabilities - flags.keys():
        words = sorted({name.removeprefix("supports_") for name in flags})
        raise InvalidRequest(f"capabilities: {len(unknown)} unknown; there are {', '.join(words)}")
    wanted = [flags[word] for word in chosen.capabilities]
    return {
        key: model
        for key, model in models.items()
        if not chosen.providers or model["provider"] in chosen.providers
        if all(model.get(flag) for flag in wanted)
    }


def _flags(models: Models) -> dict[str, str]:
    """Return the fields that say what a model can do, by their names, long and short."""
    names = dict.fromkeys(name for model in models.values() for name in model)
    flags = {name: name for name in names if name.startswith(FLAGS)}
    return {name.removeprefix("supports_"): name for name in flags} | flags


@lru_cache(maxsize=2)
def _manifest(edition: RegistryEdition) -> bytes:
    return provider_file_json(
        {
            "version": str(edition.id),
            "updated_at": _latest(edition),
            "schema_version": "3.5",
            "providers": {file.provider: _entry(file) for file in edition.files},
        }
    )


def _entry(file: ProviderFile) -> dict[str, Any]:
    return {
        "file": f"{file.provider}/models.json",
        "model_count": len(file.models),
        "last_updated": file.since,
        "version": file.version,
    }


@lru_cache(maxsize=16)
def _version(file: ProviderFile) -> bytes:
    """Write an older file as the published client reads it: its models in a list, no nulls."""
    models = [
        {name: value for name, value in model.items() if value is not None}
        for model in file.models.values()
    ]
    said = {"provider": file.provider, "version": file.version, "updated_at": file.since}
    return provider_file_json(said | {"models": models})


def _latest(edition: RegistryEdition) -> datetime:
    return max(file.fetched_at for file in edition.files)


@lru_cache(maxsize=64)
def _etag(content: bytes) -> str:
    return f'"{sha256(content).hexdigest()[:32]}"'


def _soon(request: Request) -> str:
    return f"public, max-age={min(request.ring.settings.registry_ttl, LONGEST):.0f}"


def _current(request: Request, content: bytes, files: Iterable[ProviderFile]) -> Response:
    """Answer with what changes, and say so if it is older than it should be."""
    stale = request.ring.registry.stale(files)
    more = {} if stale is None else {"X-Registry-Stale": str(stale)}
    return _answer(request, content, _soon(request), **more)


def _answer(request: Request, content: bytes, keep: str, **more: str) -> Response:
    etag = _etag(content)
    headers = {"ETag": etag, "Cache-Control": keep, **more}
    given = b",".join(value for name, value in request.scope["headers"] if name == b"if-none-match")
    if {b"*", etag.encode()} & set(_TAG.findall(given)):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=JSON)
