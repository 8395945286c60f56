"""Whose data. One value, one column, one predicate: `tenant = @tenant`."""

from functools import lru_cache
from hashlib import sha256
from typing import NewType
from uuid import UUID

from llmring_server.errors import Invalid

Tenant = NewType("Tenant", UUID)

LONGEST_NAME = 128


def named(project: str) -> str:
    """Return the name of a project, or raise Invalid if it is none."""
    if not 1 <= len(project.strip()) <= LONGEST_NAME:
        raise Invalid(f"project: give a name of 1 to {LONGEST_NAME} characters")
    return project


@lru_cache(maxsize=10_000)
def of_key(key: str) -> Tenant:
    """Name the owner of a key by its digest, a UUIDv8 (RFC 9562): no key is ever stored."""
    digest = int.from_bytes(sha256(b"llmring-tenant/1\n" + key.encode()).digest()[:16])
    return Tenant(UUID(int=digest & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62))
