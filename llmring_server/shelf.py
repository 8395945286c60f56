"""The registry's files as the database keeps them, and as this process remembers them."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg

from llmring_server import bundled
from llmring_server.database import Database
from llmring_server.errors import NotFound, Overloaded, Unavailable
from llmring_server.listing import Edition, File, Snapshot, read
from llmring_server.repository import Repository
from llmring_server.settings import Settings

# How often the database is asked what other processes have found, and how many files of each
# provider are kept in memory.
LOOK = 5.0
MOST = 100

NEVER = float("-inf")

_COLUMNS = ("id", "provider", "version", "since", "fetched_at", "content")


class Source(NamedTuple):
    """How it went with a provider; `tried` and `checked` are seconds ago."""

    provider: str
    outcome: str | None
    tried: float
    checked: float | None
    newest: int | None


class Doubtful(NamedTuple):
    """A file that waits for someone to look at it."""

    file: File
    reason: str


@dataclass
class Memory:
    """What a process knows, in whatever transaction it learned it."""

    snapshot: Snapshot = field(default_factory=Snapshot)
    sources: Mapping[str, Source] = field(default_factory=dict)
    asked_at: float = NEVER
    looked_at: float = NEVER
    swept_at: float = NEVER
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


def _file(row: asyncpg.Record) -> File:
    said = {name: row[name] for name in _COLUMNS}
    return File(**said, models=read(row["provider"], row["content"]).models)


class Shelf(Repository):
    """The files of the providers that the settings name: nobody's, and so everybody's."""

    noun = "registry"

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__(database)
        self._settings = settings
        self._memory = Memory()

    async def known(self) -> Snapshot:
        """Return the files that are known now."""
        memory = self._memory
        fresh = time.monotonic() - memory.asked_at < LOOK
        if not fresh and not (memory.looked_at > NEVER and memory.looking.locked()):
            async with memory.looking:
                if time.monotonic() - memory.asked_at >= LOOK:
                    await self._look_or_remember()
        return memory.snapshot

    async def edition(self, id: int) -> Edition:
        """Return the files that were served when `id` was the newest; 0 is the offline book."""
        known = await self.known()
        if id and id not in {file.id for file in known.history}:
            raise NotFound(f"There is no edition {id} of the registry.")
        return await self._bound(known.at(id))

    async def proposed(self, id: int) -> Edition:
        """Return edition `id`, also one that would be if a quarantined file was accepted."""
        for doubtful in await self.doubtful():
            if doubtful.file.id == id:
                file = doubtful.file
                return await self._bound({**(await self.known()).files, file.provider: file})
        return await self.edition(id)

    async def version(self, provider: str, version: int) -> File:
        """Return what a provider's file with this number first said; 0 is the offline book's."""
        if version == 0:
            return (await self._bound({})).of(provider)
        for file in reversed((await self.known()).history):
            if (file.provider, file.version) == (provider, version):
                return file
        raise NotFound

    async def sources(self) -> list[Source]:
        """Tell how it went with each provider that was ever asked for."""
        return [Source(*row) for row in await self._all("sources")]

    async def doubtful(self) -> list[Doubtful]:
        """Return the files that are quarantined, at most one of each provider."""
        return [Doubtful(_file(row), row["reason"]) for row in await self._all("doubtful")]

    async def _look_or_remember(self) -> None:
        try:
            await self._look()
        except (Unavailable, Overloaded):
            if self._memory.looked_at == NEVER or self._database.borrowed:
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
        rows = await self._all("good", known=list(known), most=MOST)
        history = await asyncio.to_thread(
            lambda: tuple(known.get(row["id"]) or _file(row) for row in rows)
        )
        self._memory.snapshot = Snapshot(history)

    async def _book(self) -> Mapping[str, File]:
        """Return the files of the offline book, as of today."""
        return await asyncio.to_thread(
            bundled.files, self._settings.registry_providers, datetime.now(UTC).date()
        )

    async def _bound(self, files: Mapping[str, File]) -> Edition:
        """Complete `files` from the offline book."""
        providers = self._settings.registry_providers
        missing = [provider for provider in providers if provider not in files]
        all_files = {**await self._book(), **files} if missing else files
        found = tuple(all_files[each] for each in providers if each in all_files)
        return Edition(max((file.id for file in found), default=0), found, whole=not missing)
