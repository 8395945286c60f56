"""Model registry: the last accepted files of each provider, refreshed behind requests.

Editions: the files of all providers are numbered together. Edition N has, for each provider, the
newest accepted file numbered up to N, so it never changes.
Quarantine: a suspicious file is stored apart until an operator accepts it or another one arrives.
Cache: a process keeps all accepted files in memory, and asks the database for news every 5 seconds.
"""

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import asyncpg

from llmring_server.access.audit import AuditLog
from llmring_server.core.identity import Actor
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import (
    InvalidRequest,
    NotFound,
    Overloaded,
    RegistryStale,
    RingError,
    Unavailable,
    traceback_without_values,
)
from llmring_server.registry.builtin import builtin_files
from llmring_server.registry.diff import quarantine_reason
from llmring_server.registry.models import (
    EPOCH,
    Models,
    ParsedFile,
    ProviderFile,
    RegistryEdition,
    RegistrySnapshot,
    parse_provider_file,
)
from llmring_server.settings import NO_REGISTRY, Settings

# How long the cache is used before the database is asked what other processes have stored.
CACHE_TTL = 5.0
# How many files of each provider are cached.
MAX_CACHED_FILES = 100
# The registry is not served if it is older than this.
MAX_AGE_SECONDS = timedelta(days=7).total_seconds()

NEVER = float("-inf")

_logger = logging.getLogger(__name__)


class ProviderStatus(NamedTuple):
    """The last attempt to fetch a provider's file; ages are in seconds.

    `outcome` is None while the first attempt runs, `success_age` until one succeeds.
    """

    provider: str
    outcome: str | None
    attempt_age: float
    success_age: float | None
    latest_file_id: int | None


class QuarantinedFile(NamedTuple):
    """A file that waits for an operator's decision."""

    file: ProviderFile
    reason: str


class FetchOutcome(NamedTuple):
    """The outcome of an attempt to fetch a provider's file."""

    provider: str
    text: str
    succeeded: bool


@dataclass
class _RegistryCache:
    """What this process knows; times are those of the monotonic clock.

    `checked_at` is the last attempt to read the database, `loaded_at` the last that succeeded, and
    `refreshed_at` the last time that this process began to refresh the registry.
    """

    snapshot: RegistrySnapshot = field(default_factory=RegistrySnapshot)
    status: Mapping[str, ProviderStatus] = field(default_factory=dict)
    checked_at: float = NEVER
    loaded_at: float = NEVER
    refreshed_at: float = NEVER
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Registry(Repository):
    """The model registry of a deployment."""

    sql = "registry/registry"
    tables = (
        Table("registry_files", grants=("UPDATE", "DELETE")),
        Table("registry_sources", grants=("UPDATE",)),
    )

    def __init__(self, database: Database, settings: Settings, audit: AuditLog) -> None:
        super().__init__(database)
        self._settings = settings
        self._ttl = settings.registry_ttl
        self._audit = audit
        # Files belong to the deployment: they are committed at once, in no caller's transaction.
        self._pool = database
        self._cache = _RegistryCache()
        self._refreshes: set[asyncio.Task[list[FetchOutcome]]] = set()

    def configure(self, settings: Settings) -> None:
        self._ttl = settings.registry_ttl

    # Reading

    async def snapshot(self) -> RegistrySnapshot:
        """Return the accepted files; if a refresh is due, start it in the background.

        Over all processes on a database, each provider is fetched once per `registry_ttl`.
        """
        snapshot = await self.cached_snapshot()
        if self._is_refresh_due():
            self._cache.refreshed_at = time.monotonic()
            refresh = self._without_transaction()._refresh(self._ttl)
            task = asyncio.create_task(refresh)
            self._refreshes.add(task)
            task.add_done_callback(self._refresh_done)
        return snapshot

    async def cached_snapshot(self) -> RegistrySnapshot:
        """Return the accepted files, at most `CACHE_TTL` seconds old, without fetching any.

        While one caller reads the database, others get what was read before, if anything was.
        """
        cache = self._cache
        nothing_loaded = cache.loaded_at == NEVER
        if self._is_expired() and (nothing_loaded or not cache.lock.locked()):
            async with cache.lock:
                if self._is_expired():
                    await self._reload_if_possible()
        return cache.snapshot

    async def current(self) -> RegistryEdition:
        """Return the newest edition; if a refresh is due, start it in the background."""
        return await self._complete((await self.snapshot()).files)

    async def edition(self, id: int) -> RegistryEdition:
        """Return an edition; edition 0 is the built-in price book."""
        snapshot = await self.cached_snapshot()
        if id and id not in {file.id for file in snapshot.history}:
            raise NotFound(f"The registry has no edition {id}.")
        return await self._complete(snapshot.at(id))

    async def proposed_edition(self, id: int) -> RegistryEdition:
        """Return the edition that accepting the quarantined file `id` would make.

        Without such a file, return edition `id`.
        """
        for file, _ in await self.quarantined():
            if file.id == id:
                snapshot = await self.cached_snapshot()
                return await self._complete({**snapshot.files, file.provider: file})
        return await self.edition(id)

    async def version(self, provider: str, version: int) -> ProviderFile:
        """Return the first file of a provider with this version; 0 is the built-in price book's."""
        if version == 0:
            return (await self._complete({})).file_of(provider)
        snapshot = await self.cached_snapshot()
        for file in reversed(snapshot.history):
            if (file.provider, file.version) == (provider, version):
                return file
        raise NotFound.of("Registry file")

    async def status(self) -> list[ProviderStatus]:
        """Return the last attempt to fetch each provider's file."""
        return [ProviderStatus(*row) for row in await self._fetch_all("provider_status")]

    async def quarantined(self) -> list[QuarantinedFile]:
        """Return the quarantined files, at most one of each provider."""
        rows = await self._fetch_all("quarantined_files")
        return [QuarantinedFile(_file(row), row["reason"]) for row in rows]

    def stale_seconds(self, files: Iterable[ProviderFile]) -> int | None:
        """Return the age of `files` if it exceeds `registry_ttl`, else None.

        RegistryStale if they are too old to be served.
        """
        age = max((self._age(file.provider) for file in files if file.id), default=0)
        if age > MAX_AGE_SECONDS:
            raise RegistryStale
        return int(age) if age > self._ttl else None

    # Refreshing

    async def refresh(self) -> list[FetchOutcome]:
        """Fetch every provider's file now, and return the outcomes."""
        if self._settings.registry_url == NO_REGISTRY:
            raise InvalidRequest("There is no registry to fetch: LLMRING_REGISTRY_URL is none.")
        return await self._without_transaction()._refresh(ttl=0)

    async def accept(self, id: int, *, actor: Actor) -> int:
        """Accept a quarantined file; return its new id.

        Like a refresh, this is committed at once, also within a caller's transaction: all requests
        share the files.
        """
        async with self._pool.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._fetch_all("lock_sources")
            rows = await inside._fetch_all("accept_file", id=id)
            if not rows:
                raise NotFound(f"No file is quarantined as {id}.")
            new_id: int = rows[0]["id"]
            await inside._audit.record(actor, "registry.accept", f"{id} {new_id}")
        self._cache.checked_at = NEVER
        return new_id

    async def aclose(self) -> None:
        """Cancel the refresh that runs in the background."""
        for task in self._refreshes:
            task.cancel()
        await self.wait_for_refresh()

    async def wait_for_refresh(self) -> None:
        """Wait until the refresh that runs in the background has ended."""
        await asyncio.gather(*self._refreshes, return_exceptions=True)

    def _without_transaction(self) -> Self:
        """Return this repository outside of any caller's transaction."""
        return self.with_database(self._pool)

    def _is_refresh_due(self) -> bool:
        cache = self._cache
        now = time.monotonic()
        if self._settings.registry_url == NO_REGISTRY or self._refreshes:
            return False
        if now - cache.refreshed_at < CACHE_TTL:
            return False
        statuses = [cache.status.get(name) for name in self._settings.registry_providers]
        ages = [status.attempt_age if status else math.inf for status in statuses]
        return max(ages) + now - cache.loaded_at > self._ttl

    def _refresh_done(self, task: asyncio.Task[list[FetchOutcome]]) -> None:
        self._refreshes.discard(task)
        if task.cancelled():
            return
        exc = task.exception()
        if exc:
            _logger.error("refreshing the registry failed: %s", traceback_without_values(exc))
            return
        for outcome in task.result():
            level = logging.INFO if outcome.succeeded else logging.WARNING
            _logger.log(level, "registry: %s %s", outcome.provider, outcome.text)

    async def _refresh(self, ttl: float) -> list[FetchOutcome]:
        """Fetch the providers that were not fetched in the last `ttl` seconds."""
        from llmring_server.registry import client  # noqa: PLC0415, httpx2 takes 50 ms

        rows = await self._fetch_all(
            "claim_refresh",
            providers=self._settings.registry_providers,
            ttl=timedelta(seconds=ttl),
        )
        providers = [row["provider"] for row in rows]
        if not providers:
            return []
        fetched = await client.fetch_provider_files(self._settings.registry_url, providers)
        files = await asyncio.to_thread(_parse_all, fetched)
        async with self._database.transaction() as transaction:
            outcomes = await self.with_database(transaction)._apply_all(files)
        self._cache.checked_at = NEVER
        return outcomes

    async def _apply_all(self, files: Mapping[str, ParsedFile | RingError]) -> list[FetchOutcome]:
        await self._fetch_all("lock_sources")
        # Load what other processes have stored: until the commit, they store nothing more.
        await self._reload()
        return [await self._apply(provider, file) for provider, file in files.items()]

    async def _apply(self, provider: str, file: ParsedFile | RingError) -> FetchOutcome:
        """Store a file that was fetched if it is new, and record the outcome."""
        if isinstance(file, RingError):
            return await self._record_outcome(provider, f"failed: {file}", succeeded=False)
        current = self._cache.snapshot.files.get(provider)
        if current and (current.version, current.models) == (file.version, file.models):
            await self._fetch_all("delete_quarantined", provider=provider, unless_content=None)
            return await self._record_outcome(provider, "unchanged", succeeded=True)
        reason = await self._insert_file(provider, file, current)
        if reason:
            return await self._record_outcome(provider, f"quarantined: {reason}", succeeded=False)
        return await self._record_outcome(
            provider, f"new: {len(file.models)} models", succeeded=True
        )

    async def _insert_file(
        self, provider: str, file: ParsedFile, current: ProviderFile | None
    ) -> str | None:
        """Store a file that differs from the current one; return why it is quarantined, if it is.

        It replaces a quarantined file, unless it is the same.
        """
        current_models = current.models if current else {}
        known_prices = await self._known_prices(provider)
        reason = quarantine_reason(current_models, file.models, known_prices)
        await self._fetch_all(
            "delete_quarantined",
            provider=provider,
            unless_content=file.content if reason else None,
        )
        now = datetime.now(UTC)
        await self._fetch_all(
            "insert_file",
            provider=provider,
            version=file.version,
            content=file.content,
            valid_from=_valid_from(file, current, now),
            fetched_at=now,
            reason=reason,
        )
        return reason

    async def _known_prices(self, provider: str) -> Models:
        """Return every model with its last known prices, including models removed since."""
        builtin = (await self._builtin_files()).get(provider)
        known = dict(builtin.models) if builtin else {}
        for file in reversed(self._cache.snapshot.history):
            if file.provider != provider:
                continue
            for key, model in file.models.items():
                values = {name: value for name, value in model.items() if value is not None}
                known[key] = {**known.get(key, {}), **values}
        return known

    async def _record_outcome(self, provider: str, text: str, *, succeeded: bool) -> FetchOutcome:
        await self._fetch_all(
            "record_outcome", provider=provider, outcome=text, succeeded=succeeded
        )
        return FetchOutcome(provider, text, succeeded)

    # The cache

    def _is_expired(self) -> bool:
        return time.monotonic() - self._cache.checked_at >= CACHE_TTL

    async def _reload_if_possible(self) -> None:
        """Reload the cache; if the database is unavailable, continue with the loaded files."""
        try:
            await self._reload()
        except (Unavailable, Overloaded):
            # A caller's transaction is lost with its connection, which the caller must learn.
            if self._cache.loaded_at == NEVER or self._database.in_caller_transaction:
                raise
        self._cache.checked_at = time.monotonic()

    async def _reload(self) -> None:
        """Read the providers' status from the database, and the files if there are new ones."""
        cache = self._cache
        statuses = await self.status()
        cache.status = {status.provider: status for status in statuses}
        cache.loaded_at = time.monotonic()
        latest_ids = {status.latest_file_id for status in statuses if status.latest_file_id}
        if latest_ids != {file.id for file in cache.snapshot.files.values()}:
            await self._reload_files()

    async def _reload_files(self) -> None:
        cached = {file.id: file for file in self._cache.snapshot.history}
        rows = await self._fetch_all(
            "accepted_files", cached=list(cached), max_files=MAX_CACHED_FILES
        )
        history = await asyncio.to_thread(
            lambda: tuple(cached.get(row["id"]) or _file(row) for row in rows)
        )
        self._cache.snapshot = RegistrySnapshot(history)

    def _age(self, provider: str) -> float:
        """Return the seconds since a provider's file was last known to be current."""
        cache = self._cache
        status = cache.status.get(provider)
        if not status or status.success_age is None or self._settings.registry_url == NO_REGISTRY:
            return 0
        return status.success_age + time.monotonic() - cache.loaded_at

    async def _builtin_files(self) -> Mapping[str, ProviderFile]:
        """Return the files of the built-in price book, as of today."""
        return await asyncio.to_thread(
            builtin_files, self._settings.registry_providers, datetime.now(UTC).date()
        )

    async def _complete(self, files: Mapping[str, ProviderFile]) -> RegistryEdition:
        """Make an edition of `files`, completed from the built-in price book."""
        providers = self._settings.registry_providers
        has_builtin = any(provider not in files for provider in providers)
        if has_builtin:
            files = {**await self._builtin_files(), **files}
        chosen = tuple(files[provider] for provider in providers if provider in files)
        latest_id = max((file.id for file in chosen), default=0)
        return RegistryEdition(latest_id, chosen, has_builtin)


def _file(row: asyncpg.Record) -> ProviderFile:
    return ProviderFile(
        id=row["id"],
        provider=row["provider"],
        version=row["version"],
        valid_from=row["valid_from"],
        fetched_at=row["fetched_at"],
        models=parse_provider_file(row["provider"], row["content"]).models,
        content=row["content"],
    )


def _parse_all(fetched: Mapping[str, bytes | RingError]) -> dict[str, ParsedFile | RingError]:
    return {provider: _parse(provider, content) for provider, content in fetched.items()}


def _parse(provider: str, content: bytes | RingError) -> ParsedFile | RingError:
    """Parse a fetched file, or return the reason why it is invalid."""
    if isinstance(content, RingError):
        return content
    try:
        return parse_provider_file(provider, content)
    except RingError as exc:
        return exc


def _valid_from(file: ParsedFile, current: ProviderFile | None, now: datetime) -> datetime:
    """Return when a file becomes valid: when it says, if that is after the current file's time."""
    earliest = current.valid_from if current else EPOCH
    if file.updated_at and earliest < file.updated_at <= now:
        return file.updated_at
    return now
