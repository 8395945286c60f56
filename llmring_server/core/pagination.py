"""Pagination: pages of a list, by offset or by a cursor at the last item of the page before."""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Annotated, Any, ClassVar, NamedTuple, Self
from uuid import UUID

import orjson
from pydantic import BaseModel, Field

from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest

INVALID_CURSOR = "cursor: not a cursor of this list; start again without one"

# For lists of items that can be large: the maximum size of a page without its last item.
MAX_PAGE_BYTES = 8 * 1024 * 1024

_DIGEST_BYTES = 8

Limit = Annotated[int, Field(description="The largest number of items to return.")]
Offset = Annotated[int, Field(description="The number of items to skip; not with a `cursor`.")]
Cursor = Annotated[
    str | None,
    Field(description="The cursor of the page, from the `Link` header of the page before."),
]


class PageParams(BaseModel):
    """One page of a list: from its start, after `offset` items, or after a cursor.

    A cursor belongs to one list of one project. The operator's lists of all projects have None.
    """

    limit: Limit = Field(50, ge=1, le=500)
    offset: Offset = Field(0, ge=0, le=10_000)
    cursor: Cursor = Field(None, max_length=200)

    # Filters that were added later are a part of a list's name only if they are used, so that the
    # cursors from before are still valid.
    added_filters: ClassVar[tuple[str, ...]] = ()

    def after(self, project_id: ProjectId | None, of: bytes = b"") -> "Position":
        """Return the position at which the page starts; without a cursor, that of no item."""
        return Position.of(*(self.last(project_id, of) or (None, None)))

    def last(self, project_id: ProjectId | None, of: bytes = b"") -> Any:
        """Return the sort key and the id in the cursor, or None without a cursor."""
        if self.cursor is None:
            return None
        if self.offset:
            raise InvalidRequest("offset: give a cursor or an offset, not both")
        return decode_cursor(self.cursor, self._list_name(project_id, of))

    def following(
        self, project_id: ProjectId | None, last: tuple[Any, UUID | None], of: bytes = b""
    ) -> str:
        """Return the cursor of the next page, given the sort key and the id of the last item."""
        return encode_cursor(last, self._list_name(project_id, of))

    def _list_name(self, project_id: ProjectId | None, of: bytes) -> bytes:
        """Name the list that a cursor belongs to: a project's, of a kind `of`, and filtered."""
        fields = type(self).model_fields
        unused = {
            name for name in self.added_filters if getattr(self, name) == fields[name].default
        }
        filters = self.model_dump_json(exclude={"limit", "offset", "cursor"} | unused)
        owner = project_id.bytes if project_id else b""
        return owner + of + filters.encode()


class Position(NamedTuple):
    """The place of an item in a list that is ordered by time and id."""

    last_at: datetime | None
    last_id: UUID | None

    @classmethod
    def of(cls, last_at: str | None, last_id: str | None) -> Self:
        """Read a position from a cursor; raise InvalidRequest if it is invalid."""
        try:
            at = datetime.fromisoformat(last_at) if last_at else None
            return cls(at, UUID(last_id) if last_id else None)
        except (AttributeError, TypeError, ValueError) as exc:
            raise InvalidRequest(INVALID_CURSOR) from exc


def encode_cursor(last: tuple[Any, UUID | None], list_name: bytes) -> str:
    """Write the sort key and the id of an item, with a digest that binds them to their list."""
    body = orjson.dumps([last[0], str(last[1])])
    return urlsafe_b64encode(_digest(list_name, body) + body).rstrip(b"=").decode()


def decode_cursor(cursor: str, list_name: bytes) -> Any:
    """Read a cursor of this list; raise InvalidRequest if it belongs to another, or to none."""
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        data = b""
    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if not hmac.compare_digest(digest, _digest(list_name, body)):
        raise InvalidRequest(INVALID_CURSOR)
    return orjson.loads(body)


def _digest(list_name: bytes, body: bytes) -> bytes:
    return hmac.digest(list_name, body, "sha256")[:_DIGEST_BYTES]
