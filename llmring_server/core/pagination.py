"""Lists of calls: which ones, in pages, each page's end the start of the next."""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Any, NamedTuple, Self
from uuid import UUID

import orjson
from pydantic import BaseModel, Field

from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest

INVALID_CURSOR = "cursor: not a cursor of this list; start again without one"


# What a page may hold, but for its last thing: bytes of what has no small bound of its own.
MAX_PAGE_BYTES = 8 * 1024 * 1024


_SEAL = 8


class PageParams(BaseModel):
    """One page of a list: from its start, after `offset` of its things, or after a cursor."""

    limit: int = Field(50, ge=1, le=500)
    offset: int = Field(0, ge=0, le=10_000)
    cursor: str | None = Field(None, max_length=200)

    def after(self, project_id: ProjectId, of: bytes = b"") -> "Position":
        return Position.of(*(self.last(project_id, of) or (None, None)))

    def last(self, project_id: ProjectId, of: bytes = b"") -> Any:
        """Return what the cursor holds, if there is one."""
        if self.cursor is None:
            return None
        if self.offset:
            raise InvalidRequest("offset: give a cursor or an offset, not both")
        return decode_cursor(self.cursor, self._seal_of(project_id, of))

    def following(
        self, project_id: ProjectId, last: tuple[Any, UUID | None], of: bytes = b""
    ) -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return encode_cursor(last, self._seal_of(project_id, of))

    def _seal_of(self, project_id: ProjectId, of: bytes) -> bytes:
        """A cursor is good for the list that it was made for."""
        like = self.model_dump_json(exclude={"limit", "offset", "cursor"})
        return project_id.bytes + of + like.encode()


class Position(NamedTuple):
    """The last call that was seen."""

    last_at: datetime | None
    last_id: UUID | None

    @classmethod
    def of(cls, last_at: str | None, last_id: str | None) -> Self:
        try:
            at = datetime.fromisoformat(last_at) if last_at else None
            return cls(at, UUID(last_id) if last_id else None)
        except (AttributeError, TypeError, ValueError) as exc:
            raise InvalidRequest(INVALID_CURSOR) from exc

    def seal(self, key: bytes) -> str:
        return encode_cursor(self, key)

    @classmethod
    def unseal(cls, cursor: str, key: bytes) -> Self:
        return cls.of(*decode_cursor(cursor, key))


def encode_cursor(last: tuple[Any, UUID | None], key: bytes) -> str:
    """Write a cursor: the last thing that was seen, by its place in the list and its id."""
    body = orjson.dumps([last[0], str(last[1])])
    return urlsafe_b64encode(_sum(key, body) + body).rstrip(b"=").decode()


def decode_cursor(cursor: str, key: bytes) -> Any:
    """Read a cursor of the same list; Invalid if it is none."""
    try:
        given = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        given = b""
    seal, body = given[:_SEAL], given[_SEAL:]
    if not hmac.compare_digest(seal, _sum(key, body)):
        raise InvalidRequest(INVALID_CURSOR)
    return orjson.loads(body)


def _sum(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:_SEAL]
