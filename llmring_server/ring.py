"""The whole server without HTTP: `Ring(db).usage.log(project, entry)`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from typing import Any, Self

from pgdbm import AsyncDatabaseManager

from llmring_server.access.audit import AuditLog
from llmring_server.access.keys import ApiKeys
from llmring_server.access.projects import Projects
from llmring_server.access.trusted_proxy import Nonces
from llmring_server.aliases.service import Aliases
from llmring_server.conversations.service import Conversations
from llmring_server.db.database import Database, open_database
from llmring_server.db.migrations import migrate, pending_migrations
from llmring_server.db.repository import Repository
from llmring_server.errors import NotMigrated
from llmring_server.mcp import Mcp, McpCapabilities, McpExecutions, McpServers
from llmring_server.pricing.rerating import Rerating
from llmring_server.pricing.service import Pricing
from llmring_server.receipts.service import Receipts
from llmring_server.receipts.signing_keys import Keyring, keyring_source
from llmring_server.registry.service import Registry
from llmring_server.settings import Settings
from llmring_server.templates.service import Templates
from llmring_server.usage.group_commit import GroupCommitLimits
from llmring_server.usage.idempotency import IdempotencyKeys
from llmring_server.usage.rollups import Rollups
from llmring_server.usage.service import Usage


class Ring:
    """Every capability on one borrowed database: there is nothing to open.

    `keyring` signs receipts, if the keys that `settings` name are not to. What it does in the
    background ends by itself; `aclose` ends it before the database is closed.
    """

    def __init__(
        self,
        db: AsyncDatabaseManager,
        settings: Settings | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self.db = db
        self.settings = settings = settings or Settings()
        self._database = Database(db, settings)
        self.audit = AuditLog(self._database)
        self.registry = Registry(self._database, settings, self.audit)
        self.prices = Pricing(self._database, self.registry, self.audit)
        limits = GroupCommitLimits(
            settings.log_batch_size, settings.log_concurrent_commits, settings.log_max_pending
        )
        self.rollups = Rollups(self._database)
        self.idempotency_keys = IdempotencyKeys(self._database)
        self.usage = Usage(
            self._database, limits, self.prices, self.rollups.fold_if_due, self.idempotency_keys
        )
        keys = keyring_source(settings, keyring)
        self.receipts = Receipts(self._database, keys, settings.receipt_issuer)
        self.conversations = Conversations(
            self._database,
            self.usage,
            self.idempotency_keys,
            self.audit,
            self.receipts,
            settings.conversation_content,
        )
        self.keys = ApiKeys(self._database, self.audit)
        self.projects = Projects(self._database, self.audit)
        self.nonces = Nonces(self._database)
        self.rerating = Rerating(self._database, self.prices, self.audit)
        self.templates = Templates(self._database, self.audit)
        self.aliases = Aliases(self._database)
        self.mcp = Mcp(
            McpServers(self._database, self.audit, settings),
            McpCapabilities(self._database, self.audit),
            McpExecutions(self._database, self.idempotency_keys),
        )
        # Erasing a project concerns every domain, also those that know of projects.
        self.projects.services = self.services

    @property
    def services(self) -> tuple[Repository, ...]:
        """Every service, in the order in which a project is erased and expired data are deleted."""
        services: list[Repository] = []
        for value in vars(self).values():
            if isinstance(value, Repository):
                services.append(value)
            elif isinstance(value, Mcp):
                services += value.services
        return tuple(services)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings | str, keyring: Keyring | None = None
    ) -> AsyncIterator[Self]:
        """Open a database, named by a URL or settings, migrate it, and close it at the end."""
        if isinstance(settings, str):
            settings = Settings(database_url=settings)
        async with open_database(settings) as db:
            if settings.migrate_on_start:
                await migrate(db, settings.mcp_schema)
            ring = cls(db, settings, keyring)
            try:
                yield ring
            finally:
                await ring.aclose()

    def within(self, transaction: Any) -> Self:
        """Return this ring working inside the caller's transaction.

        That is pgdbm's, or an asyncpg connection with one. What is written goes with it.
        """
        other = copy(self)
        other._database = database = self._database.within(transaction)
        for name, service in vars(self).items():
            if isinstance(service, Repository | Mcp):
                setattr(other, name, service.with_database(database))
        return other

    async def aclose(self) -> None:
        """End all work in the background, and give all connections back to the pool.

        Registry files that are being fetched are left; calls that wait to be stored are stored.
        The owner of a borrowed database awaits this before closing it, when no more requests come.
        """
        # In this order: the first two write, a write of calls may begin to move sums, and all of
        # them use connections.
        await self.registry.close()
        await self.usage.aclose()
        await self.rollups.aclose()
        await self._database.aclose()

    async def ping(self) -> None:
        """Return if the database answers; raise Unavailable or Overloaded if not."""
        await self._database.fetch("SELECT 1")

    async def ready(self) -> None:
        """Return if requests can be served; NotMigrated names the files that are missing."""
        if missing := await pending_migrations(self.db, self.settings.mcp_schema):
            raise NotMigrated(f"{NotMigrated.detail} Missing: {', '.join(missing)}.")
