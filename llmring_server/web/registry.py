"""The models that there are, for anyone to read and to keep for a while."""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field
from starlette.responses import Response

from llmring_server.errors import Invalid
from llmring_server.listing import FLAGS, Edition, File, Models, write
from llmring_server.web.body import JSON
from llmring_server.web.call import Call
from llmring_server.web.listing import Archive, Catalog, Manifest, Original

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


class Filter(BaseModel, frozen=True):
    """Which models: of these providers, and with all of these capabilities."""

    providers: Words = frozenset()
    capabilities: Words = frozenset()


async def listing(
    call: Call, query: Filter
) -> Annotated[Response, {JSON: Catalog}, "ETag", "X-Registry-Stale"]:
    """List the models that there are, with limits, capabilities and prices."""
    edition = await call.ring.registry.current()
    return _current(call, _listed(edition, query), edition.files)


async def edition(
    call: Call, id: Number, query: Filter
) -> Annotated[Response, {JSON: Catalog}, "ETag"]:
    """List the models that there once were."""
    edition = await call.ring.registry.edition(id)
    return _answer(call, _listed(edition, query), FOREVER if edition.whole else _soon(call))


async def manifest(
    call: Call,
) -> Annotated[Response, {JSON: Manifest}, "ETag", "X-Registry-Stale"]:
    """Tell which providers there are, and how new what is known of them is."""
    edition = await call.ring.registry.current()
    return _current(call, _manifest(edition), edition.files)


async def models(
    call: Call, provider: str
) -> Annotated[Response, {JSON: Original}, "ETag", "X-Registry-Stale"]:
    """Pass on a provider's file, word for word."""
    file = (await call.ring.registry.current()).of(provider)
    return _current(call, file.content, [file])


async def version(
    call: Call, provider: str, version: Number
) -> Annotated[Response, {JSON: Archive}, "ETag"]:
    """Tell what a provider's file once said."""
    file = await call.ring.registry.version(provider, version)
    return _answer(call, _version(file), FOREVER if file.id else _soon(call))


@lru_cache(maxsize=16)
def _listed(edition: Edition, chosen: Filter) -> bytes:
    return write(
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


def _chosen(models: Models, chosen: Filter) -> Models:
    flags = _flags(models)
    if unknown := chosen.capabilities - flags.keys():
        words = sorted({name.removeprefix("supports_") for name in flags})
        raise Invalid(f"capabilities: {len(unknown)} unknown; there are {', '.join(words)}")
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
def _manifest(edition: Edition) -> bytes:
    return write(
        {
            "version": str(edition.id),
            "updated_at": _latest(edition),
            "schema_version": "3.5",
            "providers": {file.provider: _entry(file) for file in edition.files},
        }
    )


def _entry(file: File) -> dict[str, Any]:
    return {
        "file": f"{file.provider}/models.json",
        "model_count": len(file.models),
        "last_updated": file.since,
        "version": file.version,
    }


@lru_cache(maxsize=16)
def _version(file: File) -> bytes:
    """Write an older file as the published client reads it: its models in a list, no nulls."""
    models = [
        {name: value for name, value in model.items() if value is not None}
        for model in file.models.values()
    ]
    said = {"provider": file.provider, "version": file.version, "updated_at": file.since}
    return write(said | {"models": models})


def _latest(edition: Edition) -> datetime:
    return max(file.fetched_at for file in edition.files)


@lru_cache(maxsize=64)
def _etag(content: bytes) -> str:
    return f'"{sha256(content).hexdigest()[:32]}"'


def _soon(call: Call) -> str:
    return f"public, max-age={min(call.ring.settings.registry_ttl, LONGEST):.0f}"


def _current(call: Call, content: bytes, files: Iterable[File]) -> Response:
    """Answer with what changes, and say so if it is older than it should be."""
    stale = call.ring.registry.stale(files)
    more = {} if stale is None else {"X-Registry-Stale": str(stale)}
    return _answer(call, content, _soon(call), **more)


def _answer(call: Call, content: bytes, keep: str, **more: str) -> Response:
    etag = _etag(content)
    headers = {"ETag": etag, "Cache-Control": keep, **more}
    given = b",".join(value for name, value in call.scope["headers"] if name == b"if-none-match")
    if {b"*", etag.encode()} & set(_TAG.findall(given)):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=JSON)
