"""Lists of calls: which ones, in pages, each page's end the start of the next."""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel, Field

from llmring_server.errors import Invalid
from llmring_server.ids import moment_of
from llmring_server.tenant import Tenant
from llmring_server.window import Span

Label = Annotated[str, Field(max_length=255)]

NOT_OURS = "cursor: not a cursor of this list; start again without one"

# What a page may hold, but for its last thing: bytes of what has no small bound of its own.
PAGE_BYTES = 8 * 1024 * 1024

_SEAL = 8
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Labels(Span):
    """Which calls: of a span of time, with exactly these labels."""

    log_id: UUID | None = None
    provider: Label | None = None
    model: Label | None = None
    alias: Label | None = None
    profile: Label | None = None
    origin: Label | None = None
    id_at_origin: Label | None = None

    def where(self) -> dict[str, Any]:
        """Return the parameters of the statement that finds them."""
        found = self.model_dump(include=set(Labels.__annotations__))
        since, until = self.bounds()
        if self.log_id and not self.start_date and not self.end_date:
            # A call's id tells its millisecond.
            since = moment_of(self.log_id)
            until = since + timedelta(milliseconds=1)
        return found | {"since": since, "until": until}


class Paged(BaseModel):
    """One page of a list: from its start, after `offset` of its things, or after a cursor."""

    limit: int = Field(50, ge=1, le=500)
    offset: int = Field(0, ge=0, le=10_000)
    cursor: str | None = Field(None, max_length=200)

    def after(self, tenant: Tenant, of: bytes = b"") -> "Place":
        return Place.of(*(self.last(tenant, of) or (None, None)))

    def last(self, tenant: Tenant, of: bytes = b"") -> Any:
        """Return what the cursor holds, if there is one."""
        if self.cursor is None:
            return None
        if self.offset:
            raise Invalid("offset: give a cursor or an offset, not both")
        return unsealed(self.cursor, self._seal_of(tenant, of))

    def following(self, tenant: Tenant, last: tuple[Any, UUID | None], of: bytes = b"") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return sealed(last, self._seal_of(tenant, of))

    def _seal_of(self, tenant: Tenant, of: bytes) -> bytes:
        """A cursor is good for the list that it was made for."""
        like = self.model_dump_json(exclude={"limit", "offset", "cursor"})
        return tenant.bytes + of + like.encode()


class Page(Labels, Paged):
    """One page of them, newest first."""

    def next(self, tenant: Tenant, last: "Log") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(tenant, Place(last.logged_at, last.id))


class Place(NamedTuple):
    """The last call that was seen."""

    last_at: datetime | None
    last_id: UUID | None

    @classmethod
    def of(cls, last_at: str | None, last_id: str | None) -> Self:
        try:
            at = datetime.fromisoformat(last_at) if last_at else None
            return cls(at, UUID(last_id) if last_id else None)
        except (AttributeError, TypeError, ValueError) as exc:
            raise Invalid(NOT_OURS) from exc

    def seal(self, key: bytes) -> str:
        return sealed(self, key)

    @classmethod
    def unseal(cls, cursor: str, key: bytes) -> Self:
        return cls.of(*unsealed(cursor, key))


def sealed(last: tuple[Any, UUID | None], key: bytes) -> str:
    """Write a cursor: the last thing that was seen, by its place in the list and its id."""
    body = orjson.dumps([last[0], str(last[1])])
    return urlsafe_b64encode(_sum(key, body) + body).rstrip(b"=").decode()


def unsealed(cursor: str, key: bytes) -> Any:
    """Read a cursor of the same list; Invalid if it is none."""
    try:
        given = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        given = b""
    seal, body = given[:_SEAL], given[_SEAL:]
    if not hmac.compare_digest(seal, _sum(key, body)):
        raise Invalid(NOT_OURS)
    return orjson.loads(body)


def _sum(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:_SEAL]


@dataclass(slots=True)
class Log:
    """One call as it was stored; an unknown cost is 0 with the source `unpriced`.

    `cost` is what it costs by now: `adjustment` of it came by re-rating. `first_cost`, which may
    be null, is what it was stored with, and what a receipt certifies.
    """

    id: UUID
    logged_at: datetime
    provider: str
    model: str
    alias: str | None
    profile: str
    origin: str | None
    id_at_origin: str | None
    status: str
    latency_ms: int | None
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost: Decimal
    cost_source: str
    adjustment: Decimal
    first_cost: Decimal | None
    first_cost_source: str
    details: dict[str, Any] | None
    metadata: dict[str, Any]
    conversation_id: UUID | None = None

    @classmethod
    def of(cls, row: asyncpg.Record) -> Self:
        # By place, which takes a fifth of the time: the statement names them in this order.
        *told, details, text = row
        metadata = orjson.loads(text)
        linked = _id_in(metadata)
        return cls(*(*told, details and orjson.loads(details), metadata, linked))


def _id_in(metadata: dict[str, Any]) -> UUID | None:
    """Return the conversation that a call says to belong to."""
    told = metadata.get("conversation_id")
    return UUID(told) if isinstance(told, str) and _UUID.fullmatch(told) else None
