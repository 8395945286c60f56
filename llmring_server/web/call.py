"""The microframework: a `Call` goes in, a result comes out as JSON."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmring_server.bounded import parse, plain
from llmring_server.caller import Act, Caller
from llmring_server.caller import Scope as Needed
from llmring_server.errors import BadRequest, Invalid
from llmring_server.tenant import Tenant
from llmring_server.web import body
from llmring_server.web.auth import address, admit

if TYPE_CHECKING:
    from llmring_server.ring import Ring

Model = TypeVar("Model", bound=BaseModel)

# Said twice, these could mean one thing to us and another to whoever stands before us.
ONCE = {
    b"authorization", b"content-encoding", b"content-length", b"content-type",
    b"idempotency-key", b"x-api-key",
}  # fmt: skip

_KEY = re.compile(rb"[ -~]{1,255}")


@contextmanager
def blaming_the_client() -> Iterator[None]:
    """Report a model's complaints as the caller's mistake: true at the edge, and only here."""
    try:
        yield
    except ValidationError as exc:
        complaints = exc.errors(include_url=False, include_context=False, include_input=False)
        at = ".".join(str(part) for part in complaints[0]["loc"]) or "request"
        raise Invalid(f"{at}: {complaints[0]['msg']}", errors=complaints) from exc


def sole(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by name; those that decide something may come once."""
    found = dict(headers)
    if len(found) < len(headers):
        names = [name for name, _ in headers]
        if twice := [name.decode() for name in ONCE if names.count(name) > 1]:
            raise BadRequest(f"Send this header once: {twice[0]}.")
    return found


class Call:
    """A request that knows its ring and, unless the route is public, its tenant."""

    caller: Caller

    def __init__(self, scope: Scope, receive: Receive, cap: int) -> None:
        self.scope = scope
        self.receive = receive
        self._cap = cap
        self._body: bytes | None = None
        self.headers: Mapping[bytes, bytes] = sole(scope["headers"])
        self.ring: Ring = scope["app"].state.ring

    @property
    def tenant(self) -> Tenant:
        return self.caller.tenant

    @property
    def act(self) -> Act:
        """Who does this, for the audit; of an address, the part that names a network."""
        return Act(self.caller.name, address(self.scope), self.scope["llmring.request_id"])

    def path(self, name: str) -> str:
        """Return a part of the path."""
        part: str = self.scope["path_params"][name]
        return part

    async def body(self) -> bytes:
        """Read the body, once; TooLarge beyond what this route takes."""
        if self._body is None:
            self._body = await body.read(self.headers, self.receive, self._cap)
        return self._body

    async def read(self, model: type[Model]) -> Model:
        """Read the JSON body as a `model`."""
        body.media_type(self.headers, body.JSON)
        value = parse(await self.body())
        with blaming_the_client():
            return model.model_validate(value)

    def query(self, model: type[Model]) -> Model:
        """Read the query string as a `model`; a parameter without a value is as good as absent."""
        given = QueryParams(self.scope["query_string"]).multi_items()
        found = {name: value for name, value in given if value}
        if len({name for name, _ in given}) < len(given) or "\0" in "".join(found.values()):
            raise Invalid("query: give each parameter once, as text without U+0000")
        with blaming_the_client():
            return model.model_validate(found)

    @property
    def idempotency_key(self) -> str | None:
        """The Idempotency-Key header, bare or quoted (draft-ietf-httpapi-idempotency-key)."""
        given = self.headers.get(b"idempotency-key")
        if given is None:
            return None
        key = given.removeprefix(b'"').removesuffix(b'"')
        if not _KEY.fullmatch(key):
            raise BadRequest("Idempotency-Key: send 1 to 255 printable ASCII characters.")
        return key.decode()


Handler = Callable[[Call], Awaitable[Any]]


def render(result: Any) -> bytes:
    """Write a result as JSON: aware times in UTC, money as exact numbers."""
    return orjson.dumps(result, _render, orjson.OPT_UTC_Z)


def _render(value: object) -> orjson.Fragment | str:
    if isinstance(value, BaseModel):
        return orjson.Fragment(value.model_dump_json())
    return plain(value)


class Endpoint:
    """An ASGI app of one handler: finds out who is calling, and answers with the handler's result.

    `needs` is the scope that a caller must have, or None: then anyone may call.
    """

    def __init__(self, handler: Handler, needs: Needed | None, cap: int) -> None:
        self.handler = handler
        self.needs = needs
        self.cap = cap

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, self.cap)
        if self.needs:
            call.caller = await admit(call, self.needs)
        result = await self.handler(call)
        if isinstance(result, Response):
            await result(scope, receive, send)
        else:
            await _answer(render(result), send)


async def _answer(content: bytes, send: Send) -> None:
    length = b"%d" % len(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
