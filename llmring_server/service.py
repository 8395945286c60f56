"""The service of llmring-server 0.1, at its former path: a `Ring` that it opens, or borrows."""

from types import TracebackType
from typing import Any, Self

from pgdbm import AsyncDatabaseManager

from llmring_server.access.audit import AuditLog
from llmring_server.access.keys import ApiKeys
from llmring_server.access.projects import Projects
from llmring_server.aliases.service import Aliases
from llmring_server.conversations.service import Conversations
from llmring_server.db.migrations import migrate
from llmring_server.db.monitored import with_schema
from llmring_server.errors import RingError
from llmring_server.mcp import Mcp
from llmring_server.owned_ring import OwnedRing
from llmring_server.pricing.service import Pricing
from llmring_server.receipts.service import Receipts
from llmring_server.registry.service import Registry
from llmring_server.ring import Ring
from llmring_server.settings import Settings
from llmring_server.templates.service import Templates
from llmring_server.usage.service import Usage

NOT_OPEN = "the database is not open: await initialize() first"


class NotInitializedError(RuntimeError, AttributeError):
    """A service has no `usage`, for example, before its database is open: `hasattr` is false."""


class LLMRingService:
    """Everything without HTTP, on the caller's `db`, or on a database that `initialize` opens.

    `db_manager` is another name of `db`. Without `settings`, they are read from the environment, as
    in llmring-server 0.1. The services are those of a `Ring`, such as `usage`.
    """

    # Those of `ring`.
    usage: Usage
    pricing: Pricing
    registry: Registry
    conversations: Conversations
    templates: Templates
    aliases: Aliases
    receipts: Receipts
    mcp: Mcp
    keys: ApiKeys
    projects: Projects
    audit: AuditLog

    def __init__(  # noqa: PLR0913, the first three are those of llmring-server 0.1
        self,
        db: AsyncDatabaseManager | None = None,
        settings: Settings | None = None,
        run_migrations: bool = True,  # noqa: FBT001, FBT002, as above
        *,
        db_manager: AsyncDatabaseManager | None = None,
        connection_string: str | None = None,
        schema: str | None = None,
    ) -> None:
        sources = [each for each in (db, db_manager, connection_string) if each is not None]
        if len(sources) != 1:
            raise ValueError(
                "pass either connection_string='postgresql://...' or db_manager=..., and only one"
            )
        self._run_migrations = run_migrations
        self._owned: OwnedRing | None = None
        self._ring: Ring | None = None
        if connection_string is not None:
            changes: dict[str, Any] = {
                "database_url": connection_string,
                "migrate_on_start": run_migrations,
            }
            if schema:
                changes["database_schema"] = schema
            self.settings = (
                Settings(**settings.model_dump(exclude_unset=True) | changes)
                if settings
                else Settings.from_env(**changes)
            )
            self._owned = OwnedRing()
            return
        manager = db or db_manager
        if manager is not None:
            if schema and schema != manager.schema:
                manager = with_schema(manager, schema)
            self.settings = settings or Settings.from_env()
            self._ring = Ring(manager, self.settings)

    def __getattr__(self, name: str) -> Any:
        # Called for what is not an attribute of the service itself.
        if name in LLMRingService.__annotations__:
            if self._ring is None:
                raise NotInitializedError(NOT_OPEN)
            return getattr(self._ring, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def ring(self) -> Ring:
        if self._ring is None:
            raise RuntimeError(NOT_OPEN)
        return self._ring

    @property
    def db(self) -> AsyncDatabaseManager:
        return self.ring.db

    async def initialize(self) -> None:
        """Open the database, unless it is borrowed, and apply pending migrations."""
        if self._owned is not None:
            self._ring = await self._owned.open(self.settings)
        elif self._run_migrations:
            await self.run_migrations()

    async def close(self) -> None:
        """End all background work, and close the database, unless it is borrowed."""
        if self._owned is None:
            await self.ring.aclose()
            return
        self._ring = None
        await self._owned.aclose()

    async def run_migrations(self) -> dict[str, list[str]]:
        """Apply the pending migrations, and return the names of their files as `applied`."""
        return {"applied": await migrate(self.db, self.settings.mcp_schema)}

    async def check_health(self) -> dict[str, Any]:
        """Tell whether the database answers: `status` is `healthy` or `degraded`."""
        database = "healthy"
        try:
            await self.ring.ping()
        except RingError as exc:
            database = f"unhealthy: {exc}"
        return {
            "status": "healthy" if database == "healthy" else "degraded",
            "database": database,
            "services": {"usage": "ready", "registry": "ready"},
        }

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
