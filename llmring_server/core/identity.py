"""The caller of a request, its scopes, and the actor named in the audit log."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Literal, NamedTuple, NewType, Protocol, Self
from uuid import UUID

from llmring_server.db.database import Database
from llmring_server.errors import Forbidden, InvalidRequest

ProjectId = NewType("ProjectId", UUID)


MAX_NAME_LENGTH = 128


def project_name(project: str) -> str:
    """Return the name of a project, or raise Invalid if it is none."""
    if not 1 <= len(project.strip()) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"project: give a name of 1 to {MAX_NAME_LENGTH} characters")
    return project


def digest_of_key(key: str) -> bytes:
    """Digest a key that names its own project: no key is ever stored, in memory neither."""
    return sha256(b"llmring-tenant/1\n" + key.encode()).digest()


def of_digest(digest: bytes) -> ProjectId:
    """Make a UUIDv8 (RFC 9562) of the digest of a key."""
    number = int.from_bytes(digest[:16])
    return ProjectId(UUID(int=number & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62))


def project_of_key(key: str) -> ProjectId:
    """Name the owner of a key by the key's digest."""
    return of_digest(digest_of_key(key))


ApiScope = Literal["log:write", "read", "conversations", "mcp", "mcp:secrets", "admin", "operator"]


# Each list is written out, so that a new scope is granted to nobody until it is added here.
DEFAULT_SCOPES: tuple[ApiScope, ...] = ("log:write", "read", "conversations", "mcp")


"""The scopes of a new key, unless others are named."""


PROJECT_SCOPES: tuple[ApiScope, ...] = (
    "log:write", "read", "conversations", "mcp", "mcp:secrets", "admin",
)  # fmt: skip


"""Everything that can be allowed within one project."""


SCOPES: tuple[ApiScope, ...] = (
    "log:write", "read", "conversations", "mcp", "mcp:secrets", "admin", "operator",
)  # fmt: skip


"""All scopes. `operator` is about the deployment: registry, prices, providers, verbose health.

No mode and no default grants it: the command line issues a key with it, or a parent application
returns a `Caller` that has it.
"""


MODE_SCOPES: Mapping[str, frozenset[ApiScope]] = {
    # An issued key has the scopes that are stored with it.
    "keys": frozenset(),
    "open": frozenset({"log:write", "read", "conversations", "mcp", "mcp:secrets"}),
    "proxy": frozenset({"log:write", "read", "conversations", "mcp", "mcp:secrets"}),
    "parent": frozenset({"log:write", "read", "conversations", "mcp", "mcp:secrets"}),
}


"""The scopes that a mode of authentication grants to callers whose scopes it is not told."""


class Caller(NamedTuple):
    """An authenticated caller; `name` is a key's public id, a user's id, or the operator's."""

    project_id: ProjectId
    scopes: frozenset[str]
    name: str

    def require(self, scope: ApiScope) -> None:
        """Raise Forbidden unless this caller has `scope`."""
        if scope not in self.scopes:
            has = ", ".join(sorted(self.scopes))
            raise Forbidden(f"This requires the scope {scope}; your key has: {has}.")


class Actor(NamedTuple):
    """Who performs a privileged action, as the audit log records it."""

    name: str
    remote: str | None = None
    request_id: str | None = None


LIBRARY = Actor("library")


"""The actor for programs that embed the server and have no more precise one."""


# Stored with each event, and part of what operators search for.
Action = Literal[
    "calls.expire",
    "capabilities.expire",
    "conversations.expire",
    "executions.expire",
    "key.issue",
    "key.revoke",
    "key.rotate",
    "mcp.secret.read",
    "mcp.secrets.reseal",
    "mcp.tool.acknowledge",
    "messages.delete",
    "messages.expire",
    "price.override",
    "price.rerate",
    "price.withdraw",
    "project.create",
    "project.erase",
    "project.rename",
    "project.retain",
    "registry.accept",
    "template.change",
    "template.create",
]


class Auditing(Protocol):
    """Where privileged actions are recorded."""

    async def record(
        self, actor: Actor, action: Action, target: str, project_id: ProjectId | None = None
    ) -> None: ...
    def with_database(self, database: Database) -> Self: ...
