"""Ring: the server without HTTP, one service per domain: `Ring(db).usage.log(project, call)`."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from copy import copy
from typing import Any, NamedTuple, Protocol, Self
from weakref import WeakSet

from pgdbm import AsyncDatabaseManager

from llmring_server.access.audit import AuditLog
from llmring_server.access.keys import ApiKeys
from llmring_server.access.projects import Projects
from llmring_server.access.trusted_proxy import Nonces
from llmring_server.aliases.service import Aliases
from llmring_server.conversations.service import Conversations
from llmring_server.core.database_warnings import DatabaseWarning
from llmring_server.core.server_stats import RingStats, embedded_servers
from llmring_server.db.database import Database, open_database, open_replica
from llmring_server.db.migrations import migrate, module_stats, pending_migrations
from llmring_server.db.replica import Replica, decode_position
from llmring_server.db.repository import Repository
from llmring_server.db.safety import DatabaseSafety
from llmring_server.errors import NotMigrated, Overloaded, Unavailable
from llmring_server.imports.llmring import LlmringImport
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
from llmring_server.usage.transfer import CallImport

logger = logging.getLogger(__name__)

# How long `Ring.stats` waits for a database that does not answer.
STATS_TIMEOUT_SECONDS = 2.0


class Configurable(Protocol):
    def configure(self, settings: Settings) -> None: ...


class ReloadedSettings(NamedTuple):
    """The names of the settings that were changed, and of those that take effect at a restart."""

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


class Ring:
    """All services on one database, which the caller opens and closes.

    `keyring` signs receipts; without it, the keys in `settings` do. `read_db` is the manager of a
    read replica, with the same schema. `aclose` ends background work before the databases are
    closed.
    """

    def __init__(
        self,
        db: AsyncDatabaseManager,
        settings: Settings | None = None,
        keyring: Keyring | None = None,
        read_db: AsyncDatabaseManager | None = None,
    ) -> None:
        self.db = db
        self._read_db = read_db
        self._keyring = keyring
        self.settings = settings = settings or Settings()
        self._database = database = Database(db, settings)
        if read_db:
            database.replica = Replica(database, read_db, settings)
        # Whether a read replica may answer reads.
        self.has_replica = read_db is not None
        # What is committed with this ring: `ring.events.subscribe(callback)`.
        self.events = database.events
        self._safety = DatabaseSafety(database, settings)
        self.audit = AuditLog(database)
        self.registry = Registry(database, settings, self.audit)
        self.pricing = Pricing(database, self.registry, self.audit)
        self.rollups = Rollups(database)
        self.idempotency_keys = IdempotencyKeys(database)
        limits = GroupCommitLimits(
            settings.log_batch_size,
            settings.log_concurrent_commits,
            settings.log_max_pending,
            settings.log_project_share,
        )
        self.usage = Usage(
            database,
            limits,
            self.pricing,
            self.rollups.move_in_background,
            self.idempotency_keys,
            strict_fields=settings.strict_fields,
        )
        self.receipts = Receipts(
            database, keyring_source(settings, keyring), settings.receipt_issuer
        )
        self.conversations = Conversations(
            database,
            self.usage,
            self.idempotency_keys,
            self.audit,
            self.receipts,
            settings.conversation_content,
            limits.queue,
        )
        self.keys = ApiKeys(database, self.audit, settings)
        self.projects = Projects(database, self.audit)
        self.nonces = Nonces(database)
        self.rerating = Rerating(database, self.pricing, self.audit)
        self.call_import = CallImport(database, self.usage, self.rollups, self.rerating, self.audit)
        self.templates = Templates(database, self.audit, settings)
        self.aliases = Aliases(database, settings)
        self.mcp = Mcp(
            McpServers(database, self.audit, settings),
            McpCapabilities(database, self.audit, settings),
            McpExecutions(database, self.idempotency_keys),
        )
        self.llmring_import = LlmringImport(database, self.call_import, self.audit, settings)
        # Erasing a project concerns every domain, also those in layers above `access`.
        self.projects.services = self.services
        # What serves this ring, and takes over reloaded settings with it, as long as it exists.
        self.apps: WeakSet[Configurable] = WeakSet()

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
        """Open the database in `settings`, or at a URL; migrate it, and close it at the end."""
        if isinstance(settings, str):
            settings = Settings(database_url=settings)
        async with open_database(settings) as db, open_replica(settings) as read_db:
            if settings.migrate_on_start:
                await migrate(db, settings.mcp_schema)
            ring = cls(db, settings, keyring, read_db)
            try:
                if replica := ring._database.replica:
                    await replica.check_cluster()
                yield ring
            finally:
                await ring.aclose()

    def with_settings(self, settings: Settings) -> Self:
        """Return a ring with other settings, on the same databases and with the same subscribers.

        Close the one that is used last. A ring that is closed has no subscribers any more.
        """
        other = type(self)(self.db, settings, self._keyring, self._read_db)
        if not self.events.is_closed:
            other.events = other._database.events = self.events
        return other

    def within(self, transaction: Any) -> Self:
        """Return this ring inside the caller's transaction, with which its writes are committed.

        `transaction` is pgdbm's, or an asyncpg connection that has one. No events are announced:
        only the caller knows whether it was committed.
        """
        return self._with_database(self._database.within(transaction))

    def _with_database(self, database: Database) -> Self:
        other = copy(self)
        other._database = database
        other.has_replica = database.replica is not None
        for name, value in vars(self).items():
            if isinstance(value, Repository | Mcp):
                setattr(other, name, value.with_database(database))
        return other

    async def position(self) -> str | None:
        """Return a position that includes all commits until now; None without a read replica."""
        replica = self._database.replica
        return await replica.position() if replica else None

    def reading(self, position: str | None = None) -> Self:
        """Return this ring with reads that see at least what `position` includes.

        `replica_lag` of the returned ring then tells how old the data was that it read. BadRequest
        if the position is not one of `Ring.position`, or of the header X-LLMRing-Position.
        """
        lsn = None if position is None else decode_position(position)
        database = self._database.reading(lsn)
        other = copy(self)
        other._database = database
        for name, value in vars(self).items():
            # The others stay as they are: a copy would forget what it learns, such as prices.
            if isinstance(value, Mcp) or (isinstance(value, Repository) and value.replica_reads):
                setattr(other, name, value.with_database(database))
        return other

    @property
    def replica_lag(self) -> float | None:
        """How old the data was at most that `reading` got from a read replica, in seconds.

        None if the primary answered, or if it is unknown.
        """
        report = self._database.read_report
        return report.lag if report else None

    async def aclose(self) -> None:
        """End all background work and return all connections to the pool.

        Calls that wait to be stored are stored, and their events delivered; registry files that are
        being fetched are dropped.
        If you lend the database, await this before you close it, when no more requests come.
        """
        # In this order: all but the events write, storing calls announces events and may start to
        # move totals, callbacks of events may store calls, and all of them use connections.
        await self.registry.aclose()
        await self.usage.aclose()
        await self.events.aclose()
        await self.usage.aclose()
        await self.rollups.aclose()
        if replica := self._database.replica:
            await replica.aclose()
        await self._database.aclose()

    def reload(self, settings: Settings) -> ReloadedSettings:
        """Take over the settings that may change while the ring is used (`settings.RELOADABLE`).

        The apps that serve the ring take them over, too. All others stay as they are, and a warning
        names those that differ. Raise InvalidSettings, and change nothing, if the new settings do
        not go with those that stay.
        """
        reloaded = self.settings.reloaded(settings)
        changed = self.settings.differences(reloaded)
        needs_restart = reloaded.differences(settings)
        self.settings = reloaded
        for configurable in (*self.services, *self.apps):
            configurable.configure(reloaded)
        if changed:
            logger.info("Settings changed: %s.", ", ".join(changed))
        if needs_restart:
            logger.warning(
                "These settings differ and take effect at a restart: %s.", ", ".join(needs_restart)
            )
        return ReloadedSettings(tuple(changed), tuple(needs_restart))

    async def ping(self) -> None:
        """Return if the database answers; raise Unavailable or Overloaded otherwise."""
        await self._database.fetch("SELECT 1")

    async def ready(self) -> None:
        """Check that the server can serve requests.

        Raise NotMigrated if migrations are pending, and UnsafeDatabase if the database is unsafe
        and LLMRING_UNSAFE_DATABASE is `refuse`.
        """
        if pending := await pending_migrations(self.db, self.settings.mcp_schema):
            raise NotMigrated(f"{NotMigrated.detail} Missing: {', '.join(pending)}.")
        await self._safety.require()

    async def stats(self) -> RingStats:
        """Return what this ring is doing now: connections, queues, and the schemas' migrations."""
        pool = self._database.pool_stats()  # before the next statement takes a connection
        modules = None
        with suppress(Unavailable, Overloaded, TimeoutError):
            async with asyncio.timeout(STATS_TIMEOUT_SECONDS):
                modules = await module_stats(self.db, self.settings.mcp_schema)
        return {
            "pool": pool,
            "modules": modules,
            "commit_queue": self.usage.commit_queue(),
            "long_reads": self._database.long_read_stats(),
            "embedded_postgres": [
                await asyncio.to_thread(state) for state in tuple(embedded_servers)
            ],
        }

    async def database_warnings(self) -> list[DatabaseWarning]:
        """Return what makes the database unsafe, and log each warning once.

        The database is not asked again for ten seconds.
        """
        await self._safety.log()
        return await self._safety.warnings()
