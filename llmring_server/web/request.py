"""What a handler is called with, and how what it returns is written."""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import orjson
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope

from llmring_server.core.identity import (
    Actor,
    Caller,
    ProjectId,
)
from llmring_server.core.pagination import PageParams
from llmring_server.core.strict_json import json_default, parse_json
from llmring_server.errors import BadRequest, InvalidRequest
from llmring_server.web import request_limits

if TYPE_CHECKING:
    from llmring_server.ring import Ring
    from llmring_server.web.rate_limits import RateLimits


def link(page: PageParams, cursor: str) -> dict[bytes, bytes]:
    """Return the header that tells where the page that follows `page` is found."""
    rest = page.model_dump(mode="json", exclude={"cursor", "offset"}, exclude_unset=True)
    return {b"link": f'<?{urlencode(rest | {"cursor": cursor})}>; rel="next"'.encode()}


BodyModel = TypeVar("BodyModel", bound=BaseModel)


Valid = TypeVar("Valid")


# The Idempotency-Key of a request that has one, bare or quoted
# (draft-ietf-httpapi-idempotency-key).
_KEY = r'"[ -~]{1,255}"|[!#-~][ -~]{0,254}'


IdempotencyKeyHeader = Annotated[str | None, Field(pattern=f"^({_KEY})$")]


class RawBody(NamedTuple):
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
        raise InvalidRequest(f"{at}: {complaints[0]['msg']}", errors=complaints) from exc


class Request:
    """A request that knows its ring and, unless the route is public, its project."""

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
    def project_id(self) -> ProjectId:
        return self.caller.project_id

    @property
    def actor(self) -> Actor:
        """The actor for the audit log; of an address, only the network."""
        return Actor(self.caller.name, client_network(self.scope), self.scope["llmring.request_id"])

    def long_running_slot(self) -> AbstractContextManager[None]:
        """Hold one of the project's places for what takes a connection for long; TooMany."""
        limits: RateLimits = self.scope["app"].limits
        return limits.holding(self.project_id)

    async def body(self) -> bytes:
        """Read the body, once; TooLarge beyond what this route takes."""
        if self._body is None:
            self._body = await request_limits.read_body(self.headers, self.receive, self._cap)
        return self._body

    async def read(self, model: type[BodyModel]) -> BodyModel:
        """Read the JSON body as a `model`."""
        request_limits.media_type(self.headers, request_limits.JSON)
        return validated(model.model_validate, parse_json(await self.body()))

    async def raw(self, *media: str) -> RawBody:
        """Read a body of one of these media types, and leave it to the handler."""
        return RawBody(request_limits.media_type(self.headers, *media), await self.body())

    def query(self, model: type[BodyModel]) -> BodyModel:
        """Read the query string as a `model`; a parameter without a value is as good as absent."""
        given = QueryParams(self.scope["query_string"]).multi_items()
        found = {name: value for name, value in given if value}
        if len({name for name, _ in given}) < len(given) or "\0" in "".join(found.values()):
            raise InvalidRequest("query: give each parameter once, as text without U+0000")
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
    return json_default(value)


# Bits of an address, by the version of IP, that name a network and no person.
NETWORK_BITS = {4: 24, 6: 48}


def client_network(scope: Scope) -> str:
    """Return the network that a request comes from."""
    client = scope.get("client")
    try:
        found = ip_address(client[0]) if client else None
    except ValueError:
        found = None
    if not found:
        return "unknown"
    return str(ip_network((found, NETWORK_BITS[found.version]), strict=False))
