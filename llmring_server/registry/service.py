"""The model registry: the last good copy of what a registry publishes, renewed behind requests."""

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import asyncpg

from llmring_server.core.identity import Actor, Auditing
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
from llmring_server.registry import builtin
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
from llmring_server.settings import NOWHERE, Settings

# How often the database is asked what other processes have found, and how many files of each
# provider are kept in memory.
CACHE_TTL = 5.0


MAX_FILES = 100


NEVER = float("-inf")


_COLUMNS = ("id", "provider", "version", "since", "fetched_at", "content")


class ProviderStatus(NamedTuple):
    """How it went with a provider; `tried` and `checked` are seconds ago."""

    provider: str
    outcome: str | None
    tried: float
    checked: float | None
    newest: int | None


class QuarantinedFile(NamedTuple):
    """A file that waits for someone to look at it."""

    file: ProviderFile
    reason: str


@dataclass
class _RegistryCache:
    """What a process knows, in whatever transaction it learned it."""

    snapshot: RegistrySnapshot = field(default_factory=RegistrySnapshot)
    sources: Mapping[str, ProviderStatus] = field(default_factory=dict)
    asked_at: float = NEVER
    looked_at: float = NEVER
    swept_at: float = NEVER
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


def _file(row: asyncpg.Record) -> ProviderFile:
    said = {name: row[name] for name in _COLUMNS}
    return ProviderFile(**said, models=parse_provider_file(row["provider"], row["content"]).models)


class Shelf(Repository):
    """The files of the providers that the settings name: nobody's, and so everybody's."""

    sql = "registry/registry"

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__(database)
        self._settings = settings
        self._memory = _RegistryCache()

    async def known(self) -> RegistrySnapshot:
        """Return the files that are known now."""
        memory = self._memory
        fresh = time.monotonic() - memory.asked_at < CACHE_TTL
        if not fresh and not (memory.looked_at > NEVER and memory.looking.locked()):
            async with memory.looking:
                if time.monotonic() - memory.asked_at >= CACHE_TTL:
                    await self._look_or_remember()
        return memory.snapshot

    async def edition(self, id: int) -> RegistryEdition:
        """Return the files that were served when `id` was the newest; 0 is the offline book."""
        known = await self.known()
        if id and id not in {file.id for file in known.history}:
            raise NotFound(f"There is no edition {id} of the registry.")
        return await self._bound(known.at(id))

    async def proposed(self, id: int) -> RegistryEdition:
        """Return edition `id`, also one that would be if a quarantined file was accepted."""
        for doubtful in await self.doubtful():
            if doubtful.file.id == id:
                file = doubtful.file
                return await self._bound({**(await self.known()).files, file.provider: file})
        return await self.edition(id)

    async def version(self, provider: str, version: int) -> ProviderFile:
        """Return what a provider's file with this number first said; 0 is the offline book's."""
        if version == 0:
            return (await self._bound({})).of(provider)
        for file in reversed((await self.known()).history):
            if (file.provider, file.version) == (provider, version):
                return file
        raise NotFound

    async def sources(self) -> list[ProviderStatus]:
        """Tell how it went with each provider that was ever asked for."""
        return [ProviderStatus(*row) for row in await self._fetch_all("sources")]

    async def doubtful(self) -> list[QuarantinedFile]:
        """Return the files that are quarantined, at most one of each provider."""
        return [
            QuarantinedFile(_file(row), row["reason"]) for row in await self._fetch_all("doubtful")
        ]

    async def _look_or_remember(self) -> None:
        try:
            await self._look()
        except (Unavailable, Overloaded):
            if self._memory.looked_at == NEVER or self._database.in_caller_transaction:
                raise
        self._memory.asked_at = time.monotonic()

    async def _look(self) -> None:
        memory, sources = self._memory, await self.sources()
        memory.sources = {source.provider: source for source in sources}
        memory.looked_at = time.monotonic()
        newest = {source.newest for source in sources if source.newest}
        if newest != {file.id for file in memory.snapshot.files.values()}:
            await self._load()

    async def _load(self) -> None:
        known = {file.id: file for file in self._memory.snapshot.history}
        rows = await self._fetch_all("good", known=list(known), most=MAX_FILES)
        history = await asyncio.to_thread(
            lambda: tuple(known.get(row["id"]) or _file(row) for row in rows)
        )
        self._memory.snapshot = RegistrySnapshot(history)

    async def _book(self) -> Mapping[str, ProviderFile]:
        """Return the files of the offline book, as of today."""
        return await asyncio.to_thread(
            builtin.files, self._settings.registry_providers, datetime.now(UTC).date()
        )

    async def _bound(self, files: Mapping[str, ProviderFile]) -> RegistryEdition:
        """Complete `files` from the offline book."""
        providers = self._settings.registry_providers
        missing = [provider for provider in providers if provider not in files]
        all_files = {**await self._book(), **files} if missing else files
        found = tuple(all_files[each] for each in providers if each in all_files)
        return RegistryEdition(
            max((file.id for file in found), default=0), found, whole=not missing
        )


_logger = logging.getLogger(__name__)


MAX_STALENESS = timedelta(days=7).total_seconds()


class FetchOutcome(NamedTuple):
    """What became of an attempt to fetch a provider's file."""

    provider: str
    text: str
    good: bool


class Registry(Shelf):
    """Files that can be had at once, whatever becomes of the registry that they came from."""

    sql = "registry/registry"
    tables = (
        Table("registry_files", grants=("UPDATE", "DELETE")),
        Table("registry_sources", grants=("UPDATE",)),
    )

    def __init__(self, database: Database, settings: Settings, audit: Auditing) -> None:
        super().__init__(database, settings)
        self._audit = audit
        # Files belong to the deployment: they are stored at once, in no caller's transaction.
        self._pool = database
        self._sweeps: set[asyncio.Task[list[FetchOutcome]]] = set()

    async def snapshot(self) -> RegistrySnapshot:
        """Return the files that are known now; if it is time for newer ones, fetch them behind us.

        Over all processes on a database, each provider is asked once per `registry_ttl`.
        """
        known = await self.known()
        if self._is_due():
            self._memory.swept_at = time.monotonic()
            sweep = asyncio.create_task(self._outside()._sweep(self._settings.registry_ttl))
            self._sweeps.add(sweep)
            sweep.add_done_callback(self._swept)
        return known

    async def current(self) -> RegistryEdition:
        """Return what is served now, and see to it that it stays so."""
        return await self._bound((await self.snapshot()).files)

    async def close(self) -> None:
        """Leave off fetching."""
        for sweep in self._sweeps:
            sweep.cancel()
        await asyncio.gather(*self._sweeps, return_exceptions=True)

    async def refresh(self) -> list[FetchOutcome]:
        """Fetch every provider's file now, and wait for what becomes of it."""
        if self._settings.registry_url == NOWHERE:
            raise InvalidRequest("LLMRING_REGISTRY_URL is none: there is no registry to ask.")
        return await self._outside()._sweep(ttl=0)

    async def accept(self, id: int, *, actor: Actor) -> int:
        """Accept a quarantined file; return its new id.

        Like a refresh, this is committed at once, also within a caller's transaction: all requests
        share the files.
        """
        async with self._pool.transaction() as inside:
            here = self.with_database(inside)
            await here._fetch_all("hold")
            rows = await here._fetch_all("accept", id=id)
            if not rows:
                raise NotFound(f"No file is quarantined as {id}.")
            await here._audit.record(actor, "registry.accept", f"{id} {rows[0]['id']}")
        self._memory.asked_at = NEVER
        accepted: int = rows[0]["id"]
        return accepted

    def _outside(self) -> Self:
        """Return this repository outside of any transaction of a caller's."""
        return self.with_database(self._pool)

    def stale(self, files: Iterable[ProviderFile]) -> int | None:
        """Return how many seconds ago these were last known to be current, if that is too long."""
        ages = [self._age(file.provider) for file in files if file.id]
        oldest = max(ages, default=0)
        if oldest > MAX_STALENESS:
            raise RegistryStale
        return int(oldest) if oldest > self._settings.registry_ttl else None

    def _age(self, provider: str) -> float:
        source = self._memory.sources.get(provider)
        if not source or source.checked is None or self._settings.registry_url == NOWHERE:
            return 0
        return source.checked + time.monotonic() - self._memory.looked_at

    def _is_due(self) -> bool:
        memory, settings, now = self._memory, self._settings, time.monotonic()
        if settings.registry_url == NOWHERE or self._sweeps or now - memory.swept_at < CACHE_TTL:
            return False
        tried = [memory.sources.get(provider) for provider in settings.registry_providers]
        ages = [each.tried + now - memory.looked_at if each else math.inf for each in tried]
        return max(ages) > settings.registry_ttl

    def _swept(self, sweep: asyncio.Task[list[FetchOutcome]]) -> None:
        self._sweeps.discard(sweep)
        if sweep.cancelled():
            return
        if exc := sweep.exception():
            _logger.error("refreshing the registry failed: %s", traceback_without_values(exc))
            return
        for provider, text, good in sweep.result():
            _logger.log(
                logging.INFO if good else logging.WARNING, "registry: %s %s", provider, text
            )

    async def _sweep(self, ttl: float) -> list[FetchOutcome]:
        from llmring_server.registry import client as registry_client  # noqa: PLC0415, httpx takes 50 ms, and brings click

        claim = {"providers": self._settings.registry_providers, "ttl": timedelta(seconds=ttl)}
        claimed = [row["provider"] for row in await self._fetch_all("claim", **claim)]
        if not claimed:
            return []
        answers = await registry_client.fetch_provider_file(self._settings.registry_url, claimed)
        files = await asyncio.to_thread(
            lambda: [open_registry(*answer) for answer in answers.items()]
        )
        async with self._database.transaction() as inside:
            outcomes = await self.with_database(inside)._store(
                dict(zip(answers, files, strict=True))
            )
        self._memory.asked_at = NEVER
        return outcomes

    async def _store(self, files: Mapping[str, ParsedFile | RingError]) -> list[FetchOutcome]:
        await self._fetch_all("hold")
        await self._look()
        return [await self._settle(provider, found) for provider, found in files.items()]

    async def _settle(self, provider: str, found: ParsedFile | RingError) -> FetchOutcome:
        if isinstance(found, RingError):
            return await self._note(provider, f"failed: {found}", good=False)
        current = self._memory.snapshot.files.get(provider)
        if current and (current.version, current.models) == (found.version, found.models):
            await self._fetch_all("forget", provider=provider, but=None)
            return await self._note(provider, "unchanged", good=True)
        doubts = await self._keep(provider, found, current)
        told = f"quarantined: {doubts}" if doubts else f"new: {len(found.models)} models"
        return await self._note(provider, told, good=not doubts)

    async def _keep(
        self, provider: str, found: ParsedFile, current: ProviderFile | None
    ) -> str | None:
        """Keep a file that is not the current one, apart if there are doubts; return them."""
        before = current.models if current else {}
        doubts = quarantine_reason(before, found.models, await self._known_prices(provider))
        await self._fetch_all("forget", provider=provider, but=found.content if doubts else None)
        await self._fetch_all(
            "keep",
            provider=provider,
            version=found.version,
            content=found.content,
            reason=doubts,
            **_times(found, current),
        )
        return doubts

    async def _known_prices(self, provider: str) -> Models:
        """Return the last that was known of every model: a price that was away is not forgotten."""
        book = (await self._book()).get(provider)
        known = dict(book.models) if book else {}
        for file in reversed(self._memory.snapshot.history):
            for key, model in file.models.items() if file.provider == provider else ():
                given = {name: value for name, value in model.items() if value is not None}
                known[key] = {**known.get(key, {}), **given}
        return known

    async def _note(self, provider: str, text: str, *, good: bool) -> FetchOutcome:
        await self._fetch_all("note", provider=provider, outcome=text, good=good)
        return FetchOutcome(provider, text, good)


def open_registry(provider: str, answer: bytes | RingError) -> ParsedFile | RingError:
    """Read what was fetched, or say what is wrong with it."""
    try:
        return answer if isinstance(answer, RingError) else parse_provider_file(provider, answer)
    except RingError as exc:
        return exc


def _times(listing: ParsedFile, current: ProviderFile | None) -> dict[str, datetime]:
    """Return when it was fetched, and since when it holds: as it says, if that can be."""
    now, earliest = datetime.now(UTC), current.since if current else EPOCH
    said = listing.updated_at
    return {"since": said if said and earliest < said <= now else now, "fetched_at": now}
