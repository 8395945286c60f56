"""The microframework: a `Call` goes in, a result comes out as JSON."""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmring_server.entry import plain
from llmring_server.errors import BadRequest, Invalid
from llmring_server.ring import Ring
from llmring_server.tenant import Tenant
from llmring_server.web import body
from llmring_server.web.auth import authenticate

Model = TypeVar("Model", bound=BaseModel)

_KEY = re.compile(r"[ -~]{1,255}")


@contextmanager
def blaming_the_client(where: str = "") -> Iterator[None]:
    """Report a model's complaints as the caller's mistake: true at the edge, and only here."""
    try:
        yield
    except ValidationError as exc:
        complaints = exc.errors(include_url=False, include_context=False, include_input=False)
        first = complaints[0]
        at = ".".join(str(part) for part in (where, *first["loc"]) if part != "") or "request"
        raise Invalid(f"{at}: {first['msg']}", errors=complaints) from exc


class Call(Request[Any]):
    """A request that knows its ring and, unless the route is public, its tenant."""

    tenant: Tenant

    @property
    def ring(self) -> Ring:
        ring: Ring = self.app.state.ring
        return ring

    async def read(self, model: type[Model], cap: int) -> Model:
        """Read the JSON body, of at most `cap` bytes, as a `model`."""
        body.media_type(self, body.JSON)
        value = body.parse(await body.read(self, cap))
        with blaming_the_client():
            return model.model_validate(value)

    def query(self, model: type[Model]) -> Model:
        """Read the query string as a `model`; a parameter without a value is as good as absent."""
        given = self.query_params.multi_items()
        found = {name: value for name, value in given if value}
        if len({name for name, _ in given}) < len(given) or "\0" in "".join(found.values()):
            raise Invalid("query: give each parameter once, as text without U+0000")
        with blaming_the_client():
            return model.model_validate(found)

    @property
    def idempotency_key(self) -> str | None:
        """The Idempotency-Key header, bare or quoted (draft-ietf-httpapi-idempotency-key)."""
        given = self.headers.getlist("idempotency-key")
        if not given:
            return None
        key = given[0].removeprefix('"').removesuffix('"')
        if len(given) > 1 or not _KEY.fullmatch(key):
            raise BadRequest("Idempotency-Key: send it once, 1 to 255 printable ASCII characters.")
        return key


Handler = Callable[[Call], Awaitable[Any]]


def render(result: Any) -> bytes:
    """Write a result as JSON: aware times in UTC, money as exact numbers."""
    return orjson.dumps(result, _render, orjson.OPT_UTC_Z)


def _render(value: object) -> orjson.Fragment | str:
    if isinstance(value, BaseModel):
        return orjson.Fragment(value.model_dump_json())
    return plain(value)


class Endpoint:
    """An ASGI app of one handler: says who is calling, calls it, answers with its result."""

    def __init__(self, handler: Handler, *, public: bool) -> None:
        self.handler = handler
        self.public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive)
        if not self.public:
            call.tenant = await authenticate(call)
        result = await self.handler(call)
        if not isinstance(result, Response):
            result = Response(render(result), media_type="application/json")
        await result(scope, receive, send)
