"""Idempotency keys of what is more than one call: used once, for one request."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, TypeVar
from uuid import UUID

from llmring_server.errors import InProgress, Invalid, Locked
from llmring_server.ids import moment_of
from llmring_server.record import digest
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant

Conversation = TypeVar("Conversation", UUID, None)

# PostgreSQL names the table that it waited for in vain.
_KEYS = "usage_keys"


@contextmanager
def waiting() -> Iterator[None]:
    """Say InProgress where another request still holds the key."""
    try:
        yield
    except Locked as exc:
        if _KEYS in exc.at:
            raise InProgress from exc
        raise


class Claim(NamedTuple):
    """A key, and the request that it stands for, as digests."""

    key: UUID
    fingerprint: UUID

    @classmethod
    def of(cls, key: str | None, fingerprint: UUID) -> Self | None:
        return cls(digest(key.encode()), fingerprint) if key else None


class Claims(Repository):
    """The keys of every tenant; those of calls are among them."""

    noun = "claims"

    async def first(
        self, tenant: Tenant, claim: Claim | None, id: UUID, conversation_id: Conversation
    ) -> tuple[UUID, Conversation]:
        """Return what this claim is for, and in which conversation: these, unless it had others."""
        if claim is None:
            return id, conversation_id
        ours = {"id": id, "conversation_id": conversation_id, "logged_at": moment_of(id)}
        if not await self._all("claim", tenant=tenant, **ours, **claim._asdict()):
            return await self._found(tenant, claim)
        return id, conversation_id

    async def _found(self, tenant: Tenant, claim: Claim) -> tuple[UUID, Any]:
        rows = await self._all("claimed", tenant=tenant, key=claim.key)
        if not rows:
            raise InProgress
        [row] = rows
        if row["fingerprint"] != claim.fingerprint:
            raise Invalid(
                "This Idempotency-Key was used for another request.", "idempotency_key_reused"
            )
        return row["id"], row["conversation_id"]
