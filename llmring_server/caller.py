"""Who is calling: whose data they may see, what they may do, and what to call them in an audit."""

from typing import Literal, NamedTuple, Protocol, Self

from llmring_server.database import Database
from llmring_server.errors import Forbidden
from llmring_server.tenant import Tenant

Scope = Literal["log:write", "read", "conversations", "mcp", "mcp:secrets", "admin"]

USUAL: tuple[Scope, ...] = ("log:write", "read", "conversations", "mcp")
ALL: tuple[Scope, ...] = (*USUAL, "mcp:secrets", "admin")
# Of whom no operator has made an admin.
UNPRIVILEGED = frozenset(ALL) - {"admin"}


class Caller(NamedTuple):
    """One tenant's caller; `name` is a key's public id, a user's id, or the operator's."""

    tenant: Tenant
    scopes: frozenset[str]
    name: str

    def must(self, scope: Scope) -> None:
        """Raise Forbidden unless this caller may do what needs `scope`."""
        if scope not in self.scopes:
            has = ", ".join(sorted(self.scopes))
            raise Forbidden(f"This needs the scope {scope}; this key has: {has}.")


class Act(NamedTuple):
    """By whom something is done: for the audit."""

    actor: str
    remote: str | None = None
    request_id: str | None = None


# A program that has us inside.
LIBRARY = Act("library")


class Auditing(Protocol):
    """Where privileged acts are noted."""

    async def record(
        self, by: Act, action: str, target: str, tenant: Tenant | None = None
    ) -> None: ...
    def on(self, database: Database) -> Self: ...
