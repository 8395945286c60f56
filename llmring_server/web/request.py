"""Request: what a handler is called with; and how its result is rendered."""

import json
import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlencode

import orjson
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope

from llmring_server.core.fair_queue import FairSlots
from llmring_server.core.free_text import replace_in_free_text
from llmring_server.core.identity import Actor, ApiScope, Caller, ProjectId
from llmring_server.core.pagination import PageParams
from llmring_server.core.strict_json import (
    ParsedJson,
    encode_json,
    json_default,
    parse_request_json,
)
from llmring_server.core.suggestions import did_you_mean
from llmring_server.core.time_slices import TimeSlices
from llmring_server.core.validation import errors_of, lines_of
from llmring_server.core.warnings import (
    MAX_NAMED_FIELDS,
    RequestWarning,
    shortened,
    unknown_field_warnings,
    unknown_fields_error,
)
from llmring_server.core.worker import LARGE_BYTES, in_worker
from llmring_server.errors import BadRequest, InvalidRequest, Overloaded, Unavailable
from llmring_server.web import request_limits
from llmring_server.web.body_memory import BodyMemory, Reservation
from llmring_server.web.unknown_members import member_names, unknown_members

if TYPE_CHECKING:
    from llmring_server.ring import Ring
    from llmring_server.web.rate_limits import RateLimits

BodyModel = TypeVar("BodyModel", bound=BaseModel)
Valid = TypeVar("Valid")

# The value of an Idempotency-Key header, bare or quoted (draft-ietf-httpapi-idempotency-key).
_IDEMPOTENCY_KEY = r'"[ -~]{1,255}"|[!#-~][ -~]{0,254}'

IdempotencyKeyHeader = Annotated[
    str | None,
    Field(
        pattern=f"^({_IDEMPOTENCY_KEY})$",
        description="A key that you choose. A repeated request with the same key and the same body"
        " is not executed again: its response is that of the first.",
    ),
]

MAX_WARNINGS_HEADER_BYTES = 2000

# Of reads from a replica: what it must have replayed, and how old its data is, in seconds.
POSITION = b"x-llmring-position"
LAG = b"x-llmring-replica-lag"

# Prefix lengths that identify a network rather than a person, by IP version.
NETWORK_PREFIX_BITS = {4: 24, 6: 48}


class IdOf(NamedTuple):
    """Annotates a parameter of a path: the kind of thing that it identifies, as 404 names it."""

    kind: str


class Authenticator(Protocol):
    """Identifies callers and checks their scopes."""

    async def authenticate(self, request: "Request", scopes: tuple[ApiScope, ...]) -> Caller:
        """Return the caller; raise unless it has all `scopes` and is within its rate limit."""
        ...

    async def reauthenticate(self, request: "Request", scopes: tuple[ApiScope, ...]) -> Caller:
        """Return the caller of an authenticated request; raise if it has lost its access."""
        ...


class App(Protocol):
    """What endpoints need of the application; `asgi` supplies it."""

    ring: "Ring"
    limits: "RateLimits"
    authenticator: Authenticator
    body_memory: BodyMemory
    # Admits the requests with large bodies one after another; projects take turns.
    large_bodies: FairSlots
    # Returns the OpenAPI document of an app mounted under this path.
    openapi: Callable[[str], bytes]


class RawBody(NamedTuple):
    """A body that its handler parses itself; `media` is one of the types that it accepts."""

    media: str
    data: bytes


class Request:
    """An HTTP request: its caller, its parsed parts, and the headers of its response."""

    # Set once the caller is known, which it never is on a public route.
    caller: Caller
    # The project of a caller that is not known before its signature of the body is checked.
    claimed_project_id: ProjectId | None = None
    # Response headers in addition to those that every response has.
    response_headers: Mapping[bytes, bytes] = MappingProxyType({})
    # Whether work on the body takes so long that the worker does it.
    has_large_body = False
    # What a body in several parts occupies.
    _reservation: Reservation | None = None
    # Who has the turn, if this is the request with a large body that is being served.
    _turn_owner: Hashable = None

    def __init__(self, scope: Scope, receive: Receive, max_body_bytes: int) -> None:
        self.scope = scope
        self.receive = receive
        self.app: App = scope["app"]
        self.headers: Mapping[bytes, bytes] = scope["llmring.headers"]
        self.ring: Ring = self.app.ring
        if self.ring.has_replica:
            self._read_from_replica()
        # What the result reports under `warnings`.
        self.warnings: list[RequestWarning] = []
        # Whether unknown fields are refused: by the setting, or by the request itself.
        self.is_strict = self.ring.settings.strict_fields
        self._max_body_bytes = max_body_bytes
        self._body: bytes | None = None

    @property
    def project_id(self) -> ProjectId:
        return self.caller.project_id

    @property
    def actor(self) -> Actor:
        """The actor for the audit log; of the client's address, only the network."""
        return Actor(self.caller.name, client_network(self.scope), self.scope["llmring.request_id"])

    def _read_from_replica(self) -> None:
        position = self.headers.get(POSITION)
        # Others write, and what they read besides is not reported.
        if position is not None or self._only_reads:
            self.ring = self.ring.reading(position.decode("latin-1") if position else None)

    @property
    def _only_reads(self) -> bool:
        return self.scope["method"] in ("GET", "HEAD")

    async def add_replica_headers(self, result: Any) -> None:
        """Add the headers that the response to `result` has if there is a read replica."""
        headers = await self._replica_headers()
        self.response_headers = {**self.response_headers, **headers}
        if isinstance(result, Response):
            result.headers.update(
                {name.decode(): value.decode() for name, value in headers.items()}
            )

    async def _replica_headers(self) -> dict[bytes, bytes]:
        if self._only_reads:
            lag = self.ring.replica_lag
            return {} if lag is None else {LAG: f"{lag:.3f}".encode()}
        try:
            position = await self.ring.position()
        except (Unavailable, Overloaded):
            # What the request has written is committed, and the response must say so.
            return {}
        return {POSITION: position.encode()} if position else {}

    async def body(self) -> bytes:
        """Read the body, once; raise BodyTooLarge beyond the limit of the route."""
        if self._body is None:
            self._body = await request_limits.read_body(
                self.headers, self.receive, self._max_body_bytes, self._reserve_memory
            )
            self.has_large_body = len(self._body) > LARGE_BYTES
            if len(self._body) > request_limits.LARGE_BODY_BYTES:
                owner = self._owner()
                await self.app.large_bodies.acquire(owner)
                self._turn_owner = owner
        return self._body

    def _reserve_memory(self) -> Reservation:
        memory = self.app.body_memory
        if hasattr(self, "caller"):
            self._reservation = memory.of_project(self.project_id)
        elif self.claimed_project_id:
            network = client_network(self.scope)
            self._reservation = memory.of_claimed_project(self.claimed_project_id, network)
        else:
            self._reservation = memory.of_network(client_network(self.scope))
        return self._reservation

    def _owner(self) -> Hashable:
        if hasattr(self, "caller"):
            return self.project_id
        return self.claimed_project_id or client_network(self.scope)

    def release_body(self) -> None:
        """Return the memory of the body, and the turn of a large one, once the request is done."""
        self._body = None
        if self._reservation:
            self._reservation.release()
        if self._turn_owner is not None:
            self.app.large_bodies.release(self._turn_owner)
            self._turn_owner = None

    async def read(self, model: type[BodyModel]) -> BodyModel:
        """Read the JSON body as a `model`. What the model does not know is refused or reported."""
        request_limits.media_type(self.headers, request_limits.JSON)
        data = await self.body()
        if self.has_large_body:
            self._body = None  # what is read of it takes as much memory
            return await in_worker(partial(self._read, model, data))
        return self._read(model, data)

    def _read(self, model: type[BodyModel], data: bytes) -> BodyModel:
        parsed = parse_request_json(data)
        body = read_model(model, parsed, self.warnings)
        if unknown := unknown_members(model, parsed.value):
            known = member_names(model)
            self.refuse_unknown_fields(unknown, known)
            self.warnings += unknown_field_warnings(unknown, known)
        return body

    def refuse_unknown_fields(
        self, fields: Sequence[str], known: frozenset[str], index: int | None = None
    ) -> None:
        """Raise InvalidRequest if a strict request has unknown fields, or its item `index` has."""
        if fields and self.is_strict:
            raise unknown_fields_error(fields, known, index)

    async def raw(self, *media: str) -> RawBody:
        """Read a body of one of these media types, unparsed."""
        return RawBody(request_limits.media_type(self.headers, *media), await self.body())

    def query_params(self) -> dict[str, str]:
        """Read the query string. A parameter without a value counts as absent."""
        pairs = QueryParams(self.scope["query_string"]).multi_items()
        params = {name: value for name, value in pairs if value}
        is_ambiguous = len({name for name, _ in pairs}) < len(pairs)
        if is_ambiguous or "\0" in "".join(params.values()):
            raise InvalidRequest("query: send each parameter once, as text without U+0000")
        return params

    @property
    def idempotency_key(self) -> str | None:
        """The value of the Idempotency-Key header, without quotes."""
        value = self.headers.get(b"idempotency-key")
        if value is None:
            return None
        if not re.fullmatch(_IDEMPOTENCY_KEY.encode(), value):
            raise BadRequest("Idempotency-Key: send 1 to 255 printable ASCII characters.")
        key = value.decode()
        return key[1:-1] if key.startswith('"') else key


def refuse_unknown_params(params: Collection[str], known: Collection[str]) -> None:
    """Raise InvalidRequest if one of `params` is not one of the `known` parameters of a route."""
    unknown = [shortened(name) for name in params if name not in known][:MAX_NAMED_FIELDS]
    if unknown:
        hints = {name: did_you_mean(name, frozenset(known)) for name in unknown}
        errors = [
            {
                "type": "unknown_parameter",
                "loc": ["query", name],
                "msg": "No such parameter" + (f".{hints[name]}" if hints[name] else ""),
            }
            for name in unknown
        ]
        known_names = f"known are: {', '.join(sorted(known))}" if known else "this path has none"
        raise InvalidRequest(
            f"query: unknown parameters: {', '.join(unknown)}; {known_names}"
            + (f".{hint}" if (hint := next(filter(None, hints.values()), "")) else ""),
            errors=errors,
        )


def warnings_header(warnings: Sequence[RequestWarning]) -> bytes:
    """Return the paths of fields that were not stored as they were sent, as a list in ASCII JSON.

    It is short enough for every proxy; an asterisk stands for those that do not fit.
    """
    fields: list[str] = []
    for warning in warnings:
        fields.append(warning["field"])
        if len(json.dumps(fields)) > MAX_WARNINGS_HEADER_BYTES:
            fields[-1] = "*"
            break
    return json.dumps(fields).encode()


def read_model(
    model: type[BodyModel], parsed: ParsedJson, warnings: list[RequestWarning]
) -> BodyModel:
    """Read parsed JSON as a `model`; add to `warnings` what is not stored as it was sent."""
    if parsed.may_have_nul:
        body = parsed.value
        # Of these fields a model keeps what is valid: it replaces in them itself.
        lenient_fields = getattr(model, "lenient_fields", ())
        if lenient_fields and isinstance(body, dict):
            body = {name: value for name, value in body.items() if name not in lenient_fields}
        warnings += replace_in_free_text(model, body)
    try:
        return model.model_validate(parsed.value, context=warnings)
    except ValidationError as exc:
        raise _invalid_request(exc) from exc


def validated(validate: Callable[[Any], Valid], value: Any) -> Valid:
    """Report a ValidationError as the client's mistake, without the client's values.

    This holds for input from the wire only: elsewhere, invalid data is a bug.
    """
    try:
        return validate(value)
    except ValidationError as exc:
        raise _invalid_request(exc) from exc


def _invalid_request(exc: ValidationError) -> InvalidRequest:
    return InvalidRequest(lines_of(exc)[0], errors=errors_of(exc))


def link(page: PageParams, cursor: str) -> dict[bytes, bytes]:
    """Return the Link header (RFC 8288) to the page that follows `page`."""
    params = page.model_dump(mode="json", exclude={"cursor", "offset"}, exclude_unset=True)
    return {b"link": f'<?{urlencode(params | {"cursor": cursor})}>; rel="next"'.encode()}


def render(result: Any) -> bytes:
    """Render a result as JSON: aware times in UTC, money as exact numbers."""
    return encode_json(result, _render_value, orjson.OPT_UTC_Z)


async def render_in_parts(result: Any) -> list[bytes]:
    """Render a result as `render` does, in parts: between them, other requests are served.

    A list is rendered one item at a time, and so is one that is a member of the result.
    """
    slices = TimeSlices()
    parts = []
    for part in _parts(result):
        parts.append(part)
        await slices.pause()
    return parts


def _parts(result: Any) -> Iterator[bytes]:
    if is_dataclass(result):
        result = {field.name: getattr(result, field.name) for field in fields(result)}
    if isinstance(result, list):
        yield from _parts_of_list(result)
    elif isinstance(result, dict) and any(isinstance(value, list) for value in result.values()):
        start = b"{"
        for name, value in result.items():
            yield start + render(name) + b":"
            if isinstance(value, list):
                yield from _parts_of_list(value)
            else:
                yield render(value)
            start = b","
        yield b"}"
    else:
        yield render(result)


def _parts_of_list(items: list[Any]) -> Iterator[bytes]:
    start = b"["
    for item in items:
        yield start
        yield render(item)
        start = b","
    yield b"]" if items else b"[]"


def _render_value(value: object) -> orjson.Fragment | str:
    if isinstance(value, BaseModel):
        return orjson.Fragment(value.model_dump_json())
    return json_default(value)


def client_network(scope: Scope) -> str:
    """Return the network that a request comes from."""
    client = scope.get("client")
    try:
        address = ip_address(client[0]) if client else None
    except ValueError:
        address = None
    if not address:
        return "unknown"
    # A proxy may forward the address of an IPv4 client as `::ffff:a.b.c.d`.
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(ip_network((address, NETWORK_PREFIX_BITS[address.version]), strict=False))
