"""Whose data. One value, one column, one predicate: `tenant = @tenant`."""

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


def digest_of_key(key: str) -> bytes:
    """Digest a key that names its own project: no key is ever stored, in memory neither."""
    return sha256(b"llmring-tenant/1\n" + key.encode()).digest()


def of_digest(digest: bytes) -> Tenant:
    """Make a UUIDv8 (RFC 9562) of the digest of a key."""
    number = int.from_bytes(digest[:16])
    return Tenant(UUID(int=number & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62))


def of_key(key: str) -> Tenant:
    """Name the owner of a key by the key's digest."""
    return of_digest(digest_of_key(key))
