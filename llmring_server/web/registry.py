"""The models that there are, for anyone to read and to keep for a while."""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field
from starlette.responses import Response

from llmring_server.errors import Invalid, NotFound
from llmring_server.listing import FLAGS, Edition, File, Models, write
from llmring_server.web.body import JSON
from llmring_server.web.call import Call

FOREVER = "public, max-age=31536000, immutable"
LONGEST = 3600

PROVIDERS = {
    "openai": ("OpenAI", "https://api.openai.com/v1", "/models"),
    "anthropic": ("Anthropic", "https://api.anthropic.com", None),
    "google": ("Google", "https://generativelanguage.googleapis.com", "/v1/models"),
    "ollama": ("Ollama", "http://localhost:11434", "/api/tags"),
}

_NUMBER = re.compile("[0-9]{1,9}")
_TAG = re.compile(rb'\*|"[^"]*"')

Words = Annotated[
    frozenset[str],
    BeforeValidator(lambda text: {word.strip() for word in text.split(",")} - {""}),
    Field(max_length=100),
]


class Filter(BaseModel, frozen=True):
    """Which models: of these providers, and with all of these capabilities."""

    providers: Words = frozenset()
    capabilities: Words = frozenset()


async def listing(call: Call) -> Response:
    edition = await call.ring.registry.current()
    return _current(call, _listed(edition, call.query(Filter)), edition.files)


async def edition(call: Call) -> Response:
    edition = await call.ring.registry.edition(_number(call, "id"))
    content = _listed(edition, call.query(Filter))
    return _answer(call, content, FOREVER if edition.whole else _soon(call))


async def manifest(call: Call) -> Response:
    edition = await call.ring.registry.current()
    return _current(call, _manifest(edition), edition.files)


async def models(call: Call) -> Response:
    file = (await call.ring.registry.current()).of(call.scope["path_params"]["provider"])
    return _current(call, file.content, [file])


async def version(call: Call) -> Response:
    provider = call.scope["path_params"]["provider"]
    file = await call.ring.registry.version(provider, _number(call, "version"))
    return _answer(call, _version(file), FOREVER if file.id else _soon(call))


def _number(call: Call, name: str) -> int:
    given = call.scope["path_params"][name]
    if not _NUMBER.fullmatch(given):
        raise NotFound
    return int(given)


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
