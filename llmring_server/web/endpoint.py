"""Endpoints: a handler's parameters declare the request, and its return type the response."""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from inspect import get_annotations
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llmring_server.core.identity import ApiScope
from llmring_server.core.worker import in_worker
from llmring_server.errors import NotFound
from llmring_server.web.request import (
    IdOf,
    Request,
    refuse_unknown_params,
    render,
    render_in_parts,
    validated,
    warnings_header,
)
from llmring_server.web.request_limits import JSON, KIB
from llmring_server.web.unknown_members import member_names

Handler = Callable[..., Awaitable[Any]]
# A field of Settings.
SettingName = Literal["max_messages_bytes"]

# A credential is checked again after a body that took longer than this: it may have expired or
# been revoked meanwhile.
REAUTHENTICATE_AFTER_SECONDS = 5.0

# How much of a long response is sent at a time.
MAX_SENT_BYTES = 256 * KIB


def annotations_of(annotation: Any) -> tuple[Any, ...]:
    """Return the metadata of an `Annotated` type."""
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def media_types(annotation: Any) -> Mapping[str, Any]:
    """Return the type that is read or sent as each media type: JSON, unless annotated otherwise."""
    mappings = [item for item in annotations_of(annotation) if isinstance(item, dict)]
    return mappings[0] if mappings else {JSON: annotation}


class BodyOptions(BaseModel):
    """How a body is read."""

    strict: bool = Field(
        default=False, description="Refuse a body with unknown fields, which are ignored otherwise."
    )


class Endpoint:
    """An ASGI app of one handler: authenticates the caller, reads the request, sends the result.

    `required_scopes` are the scopes that the caller needs; without any, everyone is admitted. The
    parameters of the handler are read from the request: `query`, `body` (`Model | None` if it is
    optional), `key` (the Idempotency-Key) and the parameters of the path. Annotations of the return
    type complete the description in the OpenAPI document: `{media type: type}` unless it is JSON,
    names of response headers, and errors that the parameters do not imply.

    With `known_params_only`, unknown parameters of the query are refused, and a body may be
    `strict`.
    """

    def __init__(
        self,
        handler: Handler,
        required_scopes: tuple[ApiScope, ...],
        max_body_bytes: int | SettingName,
        *,
        known_params_only: bool,
    ) -> None:
        self.handler = handler
        self.required_scopes = required_scopes
        self.max_body_bytes = max_body_bytes
        parameters = get_annotations(handler)
        self.response_type = parameters.pop("return")
        self.query_model = parameters.pop("query", None)
        self.body_type = parameters.pop("body", None)
        self.key_type = parameters.pop("key", None)
        self.path_params = {name: kind for name, kind in parameters.items() if kind is not Request}
        self.is_body_optional = NoneType in get_args(self.body_type)
        if self.is_body_optional:
            self.body_type = get_args(self.body_type)[0]
        # A body that is not a model is parsed by the handler itself.
        self._raw_media_types: tuple[str, ...] = ()
        if not isinstance(self.body_type, type):
            self._raw_media_types = tuple(media_types(self.body_type))
        self.has_body_options = known_params_only and self.body_type is not None
        self.known_params_only = known_params_only
        self._known_params = member_names(self.query_model) if self.query_model else frozenset()
        if self.has_body_options:
            self._known_params |= BodyOptions.model_fields.keys()
        self._path_adapters = [
            (name, TypeAdapter[Any](kind), _missing(kind))
            for name, kind in self.path_params.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self.max_body_bytes
        if isinstance(limit, str):
            limit = getattr(scope["app"].ring.settings, limit)
        request = Request(scope, receive, limit)
        try:
            if self.required_scopes:
                authenticate = request.app.authenticator.authenticate
                request.caller = await authenticate(request, self.required_scopes)
            arguments = self._arguments(request)
            if self.body_type:
                started = time.monotonic()
                arguments["body"] = await self._read_body(request)
                duration = time.monotonic() - started
                if self.required_scopes and duration > REAUTHENTICATE_AFTER_SECONDS:
                    reauthenticate = request.app.authenticator.reauthenticate
                    request.caller = await reauthenticate(request, self.required_scopes)
            result = await self.handler(request, **arguments)
        finally:
            request.release_body()
        if request.ring.has_replica:
            await request.add_replica_headers(result)
        if isinstance(result, Response):
            await result(scope, receive, send)
        else:
            if request.warnings and not _reports_warnings(result):
                header = {b"x-warnings": warnings_header(request.warnings)}
                request.response_headers = {**request.response_headers, **header}
            if self.body_type is None or isinstance(result, list):
                parts = await render_in_parts(result)
                # What it contains is not kept while a slow client reads.
                result = None
                await _send_parts(parts, request.response_headers, send)
            elif request.has_large_body:
                content = await in_worker(partial(render, result))
                await _send_json(content, request.response_headers, send)
            else:
                await _send_json(render(result), request.response_headers, send)

    def _arguments(self, request: Request) -> dict[str, Any]:
        arguments = {}
        for name, adapter, missing in self._path_adapters:
            try:
                arguments[name] = adapter.validate_strings(request.scope["path_params"][name])
            except ValidationError as exc:
                # A value that cannot be an id identifies nothing.
                raise missing() from exc
        if self.query_model:
            arguments["query"] = validated(self.query_model.model_validate, self._params(request))
        elif self.known_params_only and request.scope["query_string"]:
            self._params(request)
        if self.key_type:
            arguments["key"] = request.idempotency_key
        return arguments

    def _params(self, request: Request) -> dict[str, str]:
        params = request.query_params()
        if self.known_params_only:
            refuse_unknown_params(params, self._known_params)
        if self.has_body_options:
            options = validated(BodyOptions.model_validate, params)
            request.is_strict = request.is_strict or options.strict
        return params

    def _read_body(self, request: Request) -> Awaitable[Any]:
        if self.is_body_optional:
            return self._read_optional_body(request)
        if self._raw_media_types:
            return request.raw(*self._raw_media_types)
        return request.read(self.body_type)

    async def _read_optional_body(self, request: Request) -> Any:
        return await request.read(self.body_type) if await request.body() else None


def _missing(annotation: Any) -> Callable[[], NotFound]:
    """Return the error for a parameter of a path that cannot identify anything."""
    kinds = [item.kind for item in annotations_of(annotation) if isinstance(item, IdOf)]
    return partial(NotFound.of, kinds[0]) if kinds else NotFound


def _reports_warnings(result: Any) -> bool:
    return "warnings" in result if isinstance(result, dict) else hasattr(result, "warnings")


async def _send_json(content: bytes, response_headers: Mapping[bytes, bytes], send: Send) -> None:
    await send(_response_start(len(content), response_headers))
    await send({"type": "http.response.body", "body": content})


async def _send_parts(
    parts: Sequence[bytes], response_headers: Mapping[bytes, bytes], send: Send
) -> None:
    """Send JSON in parts. The server waits after each until the client has read most of it."""
    length = sum(map(len, parts))
    if length <= MAX_SENT_BYTES:
        await _send_json(b"".join(parts), response_headers, send)
        return
    await send(_response_start(length, response_headers))
    for part in _resized(parts):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _resized(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join small parts, and cut large ones, to at most `MAX_SENT_BYTES`."""
    small: list[bytes] = []
    size = 0
    for part in parts:
        if size + len(part) > MAX_SENT_BYTES:
            yield b"".join(small)
            small, size = [], 0
        if len(part) > MAX_SENT_BYTES:
            for start in range(0, len(part), MAX_SENT_BYTES):
                yield part[start : start + MAX_SENT_BYTES]
        else:
            small.append(part)
            size += len(part)
    yield b"".join(small)


def _response_start(length: int, response_headers: Mapping[bytes, bytes]) -> Message:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
    if response_headers:
        headers += response_headers.items()
    return {"type": "http.response.start", "status": 200, "headers": headers}
