"""Idempotency keys: the first request with a key is executed, and repeats get the same response.

A key belongs to a project and is valid on every route. It is stored in `idempotency_keys` as a
digest, with a fingerprint of the request that it was first used for and the id that this request
got. A key that is reused for another request is rejected.
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
from llmring_server.core.strict_json import encode_json, json_default
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import InvalidRequest, LockTimeout, RequestInProgress
from llmring_server.usage.models import NewCall
from llmring_server.usage.provider_usage import ProviderUsage

ConversationId = TypeVar("ConversationId", UUID, None)

# A row of `key_by_digest` or `keys_of_calls`.
FirstUse: TypeAlias = asyncpg.Record


def digest(data: bytes) -> UUID:
    """Return the first 16 bytes of a SHA-256, enough to recognise data of any length."""
    return UUID(bytes=sha256(data).digest()[:16])


def batch_item_key(key: str, index: int) -> str:
    """Return the key of one item of a batch that was sent with `key`."""
    return f"{key} {index}"


def fingerprint(*parts: Any) -> UUID:
    """Digest a request by its values, however they were written in JSON.

    Fingerprints are stored, so the same request must have the same one in every later version.
    """
    return digest(encode_json(parts, _fingerprint_default, orjson.OPT_SORT_KEYS))


def fingerprint_of_call(call: NewCall, batch_size: int) -> UUID:
    """Digest a call that was sent with others, `batch_size` of them in all.

    A usage object is digested as it was sent, not as the fields that it fills in: these change
    when more of its members are understood.
    """
    excluded = {"idempotency_key", *(call.model_extra or ())}
    usage = call.usage
    if isinstance(usage, ProviderUsage):
        excluded |= {"usage", *usage.filled}
    fields = call.model_dump(exclude=excluded, exclude_none=True)
    if usage:
        fields["usage"] = usage
    return digest(encode_json([batch_size, fields], option=orjson.OPT_SORT_KEYS))


def _fingerprint_default(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    return json_default(value)


class IdempotencyKey(NamedTuple):
    """The digest of a key, and the fingerprint of the request that it came with."""

    key: UUID
    fingerprint: UUID

    @classmethod
    def of(cls, key: str | None, fingerprint: UUID) -> Self | None:
        """Digest a request's key; None if it has no key."""
        return cls(digest(key.encode()), fingerprint) if key else None


def require_same_request(first_use: FirstUse | None, key: IdempotencyKey) -> FirstUse:
    """Return the first use of a key; raise InvalidRequest if it was for another request.

    Without a first use, the transaction that inserted the key was rolled back or is not yet
    visible: RequestInProgress.
    """
    if first_use is None:
        raise RequestInProgress
    if first_use["fingerprint"] != key.fingerprint:
        raise InvalidRequest(
            "This Idempotency-Key was used for another request.", "idempotency_key_reused"
        )
    return first_use


class IdempotencyKeys(Repository):
    """The idempotency keys of every project."""

    sql = "usage/idempotency"
    tables = (Table("idempotency_keys", "idempotency keys", "erase_keys"),)
    delete_with_calls = ("delete_old_keys",)

    async def insert(
        self,
        project_id: ProjectId,
        key: IdempotencyKey,
        id: UUID,
        logged_at: datetime,
        conversation_id: UUID | None = None,
    ) -> bool:
        """Insert a key for the request `id`; return False if the key exists.

        RequestInProgress if another transaction has inserted it and does not end: the statement
        waits for no other lock, so a lock timeout is about the key.
        """
        try:
            rows = await self._fetch_all(
                "insert_key",
                project_id=project_id,
                key=key.key,
                fingerprint=key.fingerprint,
                id=id,
                logged_at=logged_at,
                conversation_id=conversation_id,
            )
        except LockTimeout as exc:
            raise RequestInProgress from exc
        return bool(rows)

    async def get_or_insert(
        self,
        project_id: ProjectId,
        key: IdempotencyKey | None,
        id: UUID,
        logged_at: datetime,
        conversation_id: ConversationId,
    ) -> tuple[UUID, datetime, ConversationId]:
        """Return id, time and conversation of the first request with this key, or insert these.

        Without a key, return these.
        """
        if key is None or await self.insert(project_id, key, id, logged_at, conversation_id):
            return id, logged_at, conversation_id
        rows = await self._fetch_all("key_by_digest", project_id=project_id, key=key.key)
        first_use = require_same_request(rows[0] if rows else None, key)
        return first_use["id"], first_use["logged_at"], first_use["conversation_id"]

    async def first_uses_for_calls(
        self, keys: Iterable[tuple[ProjectId, UUID]]
    ) -> dict[tuple[ProjectId, UUID], FirstUse]:
        """Return the calls, with their costs, that these keys were first used for."""
        requested = [{"project_id": project_id, "key": key} for project_id, key in keys]
        rows = await self._fetch_all(
            "keys_of_calls", keys=orjson.dumps(requested, json_default).decode()
        )
        return {(ProjectId(row["project_id"]), row["key"]): row for row in rows}
