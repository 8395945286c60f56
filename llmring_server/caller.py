"""The caller of a request, its scopes, and the actor named in the audit log."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, Self

from llmring_server.database import Database
from llmring_server.errors import Forbidden
from llmring_server.tenant import Tenant

Scope = Literal["log:write", "read", "conversations", "mcp", "mcp:secrets", "admin", "operator"]

# Each list is written out, so that a new scope is granted to nobody until it is added here.
DEFAULT_SCOPES: tuple[Scope, ...] = ("log:write", "read", "conversations", "mcp")
"""The scopes of a new key, unless others are named."""

PROJECT_SCOPES: tuple[Scope, ...] = (
    "log:write", "read", "conversations", "mcp", "mcp:secrets", "admin",
)  # fmt: skip
"""Everything that can be allowed within one project."""

SCOPES: tuple[Scope, ...] = (
    "log:write", "read", "conversations", "mcp", "mcp:secrets", "admin", "operator",
)  # fmt: skip
"""All scopes. `operator` is about the deployment: registry, prices, providers, verbose health.

No mode and no default grants it: the command line issues a key with it, or a parent application
returns a `Caller` that has it.
"""

MODE_SCOPES: Mapping[str, frozenset[Scope]] = {
    # An issued key has the scopes that are stored with it.
    "keys": frozenset(),
    "open": frozenset({"log:write", "read", "conversations", "mcp", "mcp:secrets"}),
    "gateway": frozenset({"log:write", "read", "conversations", "mcp", "mcp:secrets"}),
    "parent": frozenset({"log:write", "read", "conversations", "mcp", "mcp:secrets"}),
}
"""The scopes that a mode of authentication grants to callers whose scopes it is not told."""


class Caller(NamedTuple):
    """An authenticated caller; `name` is a key's public id, a user's id, or the operator's."""

    tenant: Tenant
    scopes: frozenset[str]
    name: str

    def must(self, scope: Scope) -> None:
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
        self, actor: Actor, action: Action, target: str, tenant: Tenant | None = None
    ) -> None: ...
    def on(self, database: Database) -> Self: ...
