"""Idempotency keys: a key is used once, for one request, and repeats get the first answer again.

Every key is stored in `idempotency_keys`, as a digest, with a fingerprint of the request that it
was first sent with and the id that the request was given.
"""

from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of
from llmring_server.core.strict_json import json_default
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import InvalidRequest, LockTimeout, RequestInProgress
from llmring_server.usage.models import NewCall

Conversation = TypeVar("Conversation", UUID, None)

# A row of `claimed` or `first_uses`.
FirstUse: TypeAlias = asyncpg.Record


def digest(data: bytes) -> UUID:
    """Return 16 bytes of a SHA-256: enough to recognise what may be long."""
    return UUID(bytes=sha256(data).digest()[:16])


def batch_item_key(key: str, index: int) -> str:
    """Return the key of one item of a batch that was sent with `key`."""
    return f"{key} {index}"


def fingerprint(*parts: Any) -> UUID:
    """Digest a request, whatever its spelling: the same one has the same fingerprint for ever."""
    return digest(orjson.dumps(parts, _plain, orjson.OPT_SORT_KEYS))


def fingerprint_of_call(entry: NewCall, batch_size: int) -> UUID:
    """Digest an entry as one of `batch_size` entries that were sent together."""
    fields = entry.model_dump(exclude={"idempotency_key"}, exclude_none=True)
    return digest(orjson.dumps([batch_size, fields], json_default, orjson.OPT_SORT_KEYS))


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    return json_default(value)


class IdempotencyKey(NamedTuple):
    """A key, and the request that it stands for, as digests."""

    key: UUID
    fingerprint: UUID

    @classmethod
    def of(cls, key: str | None, fingerprint: UUID) -> Self | None:
        return cls(digest(key.encode()), fingerprint) if key else None


def require_same_request(first_use: FirstUse | None, claim: IdempotencyKey) -> FirstUse:
    """Return the first use of a key if it was for the same request; InProgress, Invalid."""
    if first_use is None:
        # It was rolled back, or is not visible yet.
        raise RequestInProgress
    if first_use["fingerprint"] != claim.fingerprint:
        raise InvalidRequest(
            "This Idempotency-Key was used for another request.", "idempotency_key_reused"
        )
    return first_use


class IdempotencyKeys(Repository):
    """The keys of every project, on whatever route they are used."""

    sql = "usage/idempotency"
    tables = (Table("idempotency_keys", "idempotency keys", "erase_keys"),)
    delete_with_calls = ("delete_old_keys",)

    async def take(
        self,
        project_id: ProjectId,
        claim: IdempotencyKey,
        id: UUID,
        logged_at: datetime,
        conversation_id: UUID | None = None,
    ) -> bool:
        """Take a key for `id`; False if it is taken.

        InProgress if another transaction has taken it and does not end: the statement waits for
        nothing else, so a lock timeout is about the key.
        """
        params = {"id": id, "logged_at": logged_at, "conversation_id": conversation_id}
        try:
            return bool(
                await self._fetch_all("claim", project_id=project_id, **params, **claim._asdict())
            )
        except LockTimeout as exc:
            raise RequestInProgress from exc

    async def first(
        self,
        project_id: ProjectId,
        claim: IdempotencyKey | None,
        id: UUID,
        conversation_id: Conversation,
    ) -> tuple[UUID, Conversation]:
        """Return what this claim is for, and in which conversation: these, unless it had others."""
        if claim is None or await self.take(project_id, claim, id, moment_of(id), conversation_id):
            return id, conversation_id
        rows = await self._fetch_all("claimed", project_id=project_id, key=claim.key)
        first_use = require_same_request(rows[0] if rows else None, claim)
        return first_use["id"], first_use["conversation_id"]

    async def first_uses(
        self, keys: Iterable[tuple[ProjectId, UUID]]
    ) -> dict[tuple[ProjectId, UUID], FirstUse]:
        """Return what these keys were first used for; of calls, with their costs."""
        wanted = orjson.dumps(
            [{"project_id": project_id, "key": key} for project_id, key in keys], json_default
        )
        rows = await self._fetch_all("first_uses", wanted=wanted.decode())
        return {(ProjectId(row["project_id"]), row["key"]): row for row in rows}
