"""API keys: issued once, kept as digests, believed for a few seconds at a time.

A key is `llmr_k1_`, 8 characters of id, 32 of secret (190 bits) and 6 of CRC-32, all base62, so
that a scanner for leaked secrets, and we, can tell one from noise without asking a database.
"""

import hmac
import re
import secrets
import time
import zlib
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from string import ascii_lowercase, ascii_uppercase, digits
from typing import NamedTuple
from uuid import UUID

import uuid_utils

from llmring_server.database import Database
from llmring_server.errors import Invalid, NotFound
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant

PREFIX = "llmr_k1_"
PATTERN = re.compile(PREFIX + r"([0-9A-Za-z]{8})[0-9A-Za-z]{38}")

# A revoked key is refused everywhere after this many seconds, without asking at each request.
BELIEVED, DOUBTED = 5.0, 1.0
REMEMBERED = 10_000
LONGEST_NAME = 128

_BASE62 = digits + ascii_uppercase + ascii_lowercase


class Issued(NamedTuple):
    """A new key: `secret` is shown now and never again."""

    secret: str
    id: str
    tenant: Tenant


@dataclass(slots=True)
class Key:
    """A key as the operator sees it."""

    id: str
    project: str
    tenant: Tenant
    created_at: datetime
    revoked_at: datetime | None


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _checksum(body: str) -> str:
    number, text = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        text = _BASE62[digit] + text
    return text


def make() -> str:
    """Make a key that nobody can guess."""
    body = PREFIX + _random(40)
    return body + _checksum(body)


def id_of(key: str) -> str | None:
    """Return the public id inside a key, or None if it is not one of ours."""
    match = PATTERN.fullmatch(key)
    return match[1] if match and _checksum(key[:-6]) == key[-6:] else None


def digest(key: str) -> bytes:
    # 190 random bits leave nothing for a slow hash to protect.
    return sha256(key.encode()).digest()


class Keys(Repository):
    """The keys of every project."""

    noun = "keys"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._known: dict[bytes, tuple[float, Tenant | None]] = {}

    async def issue(self, project: str) -> Issued:
        """Make a key for `project`, and the project itself if it is new."""
        if not 1 <= len(project.strip()) <= LONGEST_NAME:
            raise Invalid(f"project: give a name of 1 to {LONGEST_NAME} characters")
        key = make()
        id = key[len(PREFIX) :][:8]
        row = await self._one(
            "issue",
            tenant=UUID(int=uuid_utils.uuid7().int),
            project=project,
            id=id,
            digest=digest(key),
        )
        return Issued(key, id, row["tenant"])

    async def list(self) -> list[Key]:
        return [Key(**row) for row in await self._all("all")]

    async def revoke(self, id: str) -> datetime:
        """Refuse this key from now on (elsewhere, within seconds); return since when."""
        rows = await self._all("revoke", id=id)
        if not rows:
            raise NotFound(f"No key has this id: {id}")
        self._known.clear()
        revoked_at: datetime = rows[0]["revoked_at"]
        return revoked_at

    async def tenant_of(self, key: str) -> Tenant | None:
        """Return whose key this is; None for a key that was never issued, or is revoked."""
        id = id_of(key)
        if id is None:
            return None
        known = self._known.get(digest(key))
        if known and known[0] > time.monotonic():
            return known[1]
        return await self._learn(id, digest(key))

    async def _learn(self, id: str, given: bytes) -> Tenant | None:
        rows = await self._all("find", id=id)
        known, owner = (rows[0]["digest"], rows[0]["tenant"]) if rows else (b"", None)
        tenant = owner if hmac.compare_digest(known, given) else None
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[given] = time.monotonic() + (BELIEVED if tenant else DOUBTED), tenant
        return tenant
