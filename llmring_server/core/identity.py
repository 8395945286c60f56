"""Identity: projects, callers with their scopes, and the actors that the audit log names."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Literal, NamedTuple, NewType
from uuid import UUID

from llmring_server.errors import Forbidden, InvalidRequest

# The owner of data. Every statement on a project's data names it.
ProjectId = NewType("ProjectId", UUID)

MAX_NAME_LENGTH = 128


# Every key that is made here begins so.
KEY_PREFIX = "llmr_"


def project_name(name: str) -> str:
    """Return a project's name; raise InvalidRequest if it is blank, too long, or a key."""
    if not 1 <= len(name.strip()) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"project: give a name of 1 to {MAX_NAME_LENGTH} characters")
    if name.startswith(KEY_PREFIX):
        # Names are shown in lists; a key must not become one by mistake.
        raise InvalidRequest(
            f"project: a name must not begin with {KEY_PREFIX}, as API keys do; give another name"
        )
    return name


def digest_of_key(key: str) -> bytes:
    """Digest a key that names its own project. Keys are never stored, not even in memory."""
    return sha256(b"llmring-tenant/1\n" + key.encode()).digest()


def project_of_digest(digest: bytes) -> ProjectId:
    """Make a UUIDv8 (RFC 9562) of the digest of a key."""
    number = int.from_bytes(digest[:16])
    return ProjectId(UUID(int=number & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62))


def project_of_key(key: str) -> ProjectId:
    """Return the project of a key that names its own: every key has one."""
    return project_of_digest(digest_of_key(key))


# `operator` is about the deployment: registry, prices, providers, verbose health. No mode and no
# default grants it: the command line issues a key with it, or a parent application returns a
# `Caller` that has it.
#
# `templates:share` concerns other projects, too: they see the templates that are shared.
ApiScope = Literal[
    "log:write",
    "read",
    "conversations",
    "templates:share",
    "mcp",
    "mcp:secrets",
    "admin",
    "operator",
]

# Each list is written out, so that a new scope is not granted until it is added here.

# The scopes of a new key, unless others are named.
DEFAULT_SCOPES: tuple[ApiScope, ...] = ("log:write", "read", "conversations", "mcp")

# Everything that can be allowed to a project.
PROJECT_SCOPES: tuple[ApiScope, ...] = (
    "log:write",
    "read",
    "conversations",
    "templates:share",
    "mcp",
    "mcp:secrets",
    "admin",
)

SCOPES: tuple[ApiScope, ...] = (
    "log:write",
    "read",
    "conversations",
    "templates:share",
    "mcp",
    "mcp:secrets",
    "admin",
    "operator",
)

# The scopes that each mode of authentication grants to a caller that brings none.
MODE_SCOPES: Mapping[str, frozenset[ApiScope]] = {
    # An issued key has the scopes that are stored with it.
    "keys": frozenset(),
    "open": frozenset(
        {"log:write", "read", "conversations", "templates:share", "mcp", "mcp:secrets"}
    ),
    "proxy": frozenset({"log:write", "read", "conversations", "mcp", "mcp:secrets"}),
    "parent": frozenset({"log:write", "read", "conversations", "mcp", "mcp:secrets"}),
}


class Caller(NamedTuple):
    """An authenticated caller; `name` is a key's public id, a user's id or the operator's name."""

    project_id: ProjectId
    scopes: frozenset[str]
    name: str

    def require(self, *scopes: ApiScope) -> None:
        """Raise Forbidden unless this caller has all of these scopes."""
        if not self.scopes.issuperset(scopes):
            required = (
                "scope " + scopes[0] if len(scopes) == 1 else "scopes " + " and ".join(scopes)
            )
            has = ", ".join(sorted(self.scopes))
            raise Forbidden(f"This requires the {required}; your key has: {has}.")


class Actor(NamedTuple):
    """Who performs a privileged action, as the audit log records it."""

    name: str
    remote: str | None = None
    request_id: str | None = None


# The actor for programs that embed the server and have no more precise one.
LIBRARY = Actor("library")

# What an actor did. Actions are stored with each event, and operators search for them.
Action = Literal[
    "calls.expire",
    "calls.import",
    "capabilities.expire",
    "conversations.expire",
    "data.import",
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
