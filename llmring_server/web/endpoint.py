"""The microframework: a handler's parameters say what it reads, its result is what is sent."""

import time
from collections.abc import Awaitable, Callable, Mapping
from inspect import get_annotations
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmring_server.access.authentication import admit_again, authenticate
from llmring_server.access.keys import CACHE_TTL
from llmring_server.core.identity import ApiScope as Needed
from llmring_server.errors import NotFound
from llmring_server.web.request import Request, render
from llmring_server.web.request_limits import JSON

Handler = Callable[..., Awaitable[Any]]

# Parameters that are not parts of the path.
READ = "query", "body", "key"


def notes(annotation: Any) -> tuple[Any, ...]:
    """Return what is noted with a type."""
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def by_media(annotation: Any) -> Mapping[str, Any]:
    """Return what is sent as each media type: JSON, unless it is noted otherwise."""
    noted = [note for note in notes(annotation) if isinstance(note, dict)]
    return noted[0] if noted else {JSON: annotation}


class Endpoint:
    """An ASGI app of one handler: finds out who is calling, and answers with the handler's result.

    `needs` is the scope that a caller must have, or None: then anyone may call. The handler's
    parameters are read from the request: `query`, `body` (`Model | None`: it may be absent), `key`
    (the Idempotency-Key), parts of the path. `web/openapi.py` describes them, with what is noted
    with the result's type: `{media: type}` unless it is JSON, names of headers, and errors that
    its parameters do not suggest.
    """

    def __init__(self, handler: Handler, needs: Needed | None, cap: int) -> None:
        self.handler = handler
        self.needs = needs
        self.cap = cap
        takes = get_annotations(handler)
        self.gives = takes.pop("return")
        self.query, self.body, self.key = (takes.pop(name, None) for name in READ)
        self.parts = {name: kind for name, kind in takes.items() if kind is not Request}
        # `Model | None`: None is no body at all.
        self.optional = NoneType in get_args(self.body)
        if self.optional:
            self.body = get_args(self.body)[0]
        self._raw = () if isinstance(self.body, type) else tuple(by_media(self.body))
        self._parts = [(name, TypeAdapter[Any](kind)) for name, kind in self.parts.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Request(scope, receive, self.cap)
        if self.needs:
            call.caller = await authenticate(call, self.needs)
        given = self._given(call)
        if self.body:
            began = time.monotonic()
            given["body"] = await (self._read_if_any if self.optional else self._read)(call)
            # A body may take its time: who was let in may have been shut out meanwhile.
            if self.needs and time.monotonic() - began > CACHE_TTL:
                call.caller = await admit_again(call, self.needs)
        result = await self.handler(call, **given)
        if isinstance(result, Response):
            await result(scope, receive, send)
        else:
            await _answer(render(result), call.says, send)

    def _read(self, request: Request) -> Awaitable[Any]:
        return request.raw(*self._raw) if self._raw else request.read(self.body)

    async def _read_if_any(self, request: Request) -> Any:
        return await self._read(request) if await request.body() else None

    def _given(self, request: Request) -> dict[str, Any]:
        given = {}
        for name, kind in self._parts:
            given[name] = _part(request, name, kind)
        if self.query:
            given["query"] = request.query(self.query)
        if self.key:
            given["key"] = request.idempotency_key
        return given


def _part(request: Request, name: str, kind: TypeAdapter[Any]) -> Any:
    """Read a part of the path: what cannot be an id is the id of nothing."""
    try:
        return kind.validate_strings(request.scope["path_params"][name])
    except ValidationError as exc:
        raise NotFound from exc


async def _answer(content: bytes, says: Mapping[bytes, bytes], send: Send) -> None:
    length = b"%d" % len(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    if says:
        headers += says.items()
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
