"""What a handler is called with, and how what it returns is written."""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope

from llmring_server.bounded import parse, plain
from llmring_server.caller import Actor, Caller
from llmring_server.errors import BadRequest, Invalid
from llmring_server.tenant import Tenant
from llmring_server.web import body
from llmring_server.web.auth import address

if TYPE_CHECKING:
    from llmring_server.ring import Ring
    from llmring_server.web.limits import Limits

Model = TypeVar("Model", bound=BaseModel)
Valid = TypeVar("Valid")

# The Idempotency-Key of a request that has one, bare or quoted
# (draft-ietf-httpapi-idempotency-key).
_KEY = r'"[ -~]{1,255}"|[!#-~][ -~]{0,254}'
Key = Annotated[str | None, Field(pattern=f"^({_KEY})$")]


class Body(NamedTuple):
    """A body that its handler parses by itself, of one of the media types that it names."""

    media: str
    data: bytes


def validated(validate: Callable[[Any], Valid], value: Any) -> Valid:
    """Report what is not valid as the caller's mistake: true at the edge, and only here."""
    try:
        return validate(value)
    except ValidationError as exc:
        complaints = exc.errors(include_url=False, include_context=False, include_input=False)
        at = ".".join(str(part) for part in complaints[0]["loc"]) or "request"
        raise Invalid(f"{at}: {complaints[0]['msg']}", errors=complaints) from exc


class Call:
    """A request that knows its ring and, unless the route is public, its tenant."""

    caller: Caller
    # Headers of the answer, beyond what every answer has.
    says: Mapping[bytes, bytes] = MappingProxyType({})

    def __init__(self, scope: Scope, receive: Receive, cap: int) -> None:
        self.scope = scope
        self.receive = receive
        self._cap = cap
        self._body: bytes | None = None
        self.headers: Mapping[bytes, bytes] = scope["llmring.headers"]
        self.ring: Ring = scope["app"].ring

    @property
    def tenant(self) -> Tenant:
        return self.caller.tenant

    @property
    def actor(self) -> Actor:
        """The actor for the audit log; of an address, only the network."""
        return Actor(self.caller.name, address(self.scope), self.scope["llmring.request_id"])

    def at_length(self) -> AbstractContextManager[None]:
        """Hold one of the project's places for what takes a connection for long; TooMany."""
        limits: Limits = self.scope["app"].limits
        return limits.holding(self.tenant)

    async def body(self) -> bytes:
        """Read the body, once; TooLarge beyond what this route takes."""
        if self._body is None:
            self._body = await body.read(self.headers, self.receive, self._cap)
        return self._body

    async def read(self, model: type[Model]) -> Model:
        """Read the JSON body as a `model`."""
        body.media_type(self.headers, body.JSON)
        return validated(model.model_validate, parse(await self.body()))

    async def raw(self, *media: str) -> Body:
        """Read a body of one of these media types, and leave it to the handler."""
        return Body(body.media_type(self.headers, *media), await self.body())

    def query(self, model: type[Model]) -> Model:
        """Read the query string as a `model`; a parameter without a value is as good as absent."""
        given = QueryParams(self.scope["query_string"]).multi_items()
        found = {name: value for name, value in given if value}
        if len({name for name, _ in given}) < len(given) or "\0" in "".join(found.values()):
            raise Invalid("query: give each parameter once, as text without U+0000")
        return validated(model.model_validate, found)

    @property
    def idempotency_key(self) -> str | None:
        """The Idempotency-Key header, without quotes."""
        given = self.headers.get(b"idempotency-key")
        if given is None:
            return None
        if not re.fullmatch(_KEY.encode(), given):
            raise BadRequest("Idempotency-Key: send 1 to 255 printable ASCII characters.")
        key = given.decode()
        return key[1:-1] if key.startswith('"') else key


def render(result: Any) -> bytes:
    """Write a result as JSON: aware times in UTC, money as exact numbers."""
    return orjson.dumps(result, _render, orjson.OPT_UTC_Z)


def _render(value: object) -> orjson.Fragment | str:
    if isinstance(value, BaseModel):
        return orjson.Fragment(value.model_dump_json())
    return plain(value)
