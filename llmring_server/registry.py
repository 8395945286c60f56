"""The model registry: the last good copy of what a registry publishes, renewed behind requests."""

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from llmring_server.caller import Actor, Auditing
from llmring_server.database import Database
from llmring_server.difference import doubt
from llmring_server.errors import Invalid, NotFound, RingError, Stale, trace
from llmring_server.listing import EPOCH, Edition, File, Listing, Models, Snapshot, read
from llmring_server.settings import NOWHERE, Settings
from llmring_server.shelf import LOOK, NEVER, Shelf

_logger = logging.getLogger(__name__)

OLDEST = timedelta(days=7).total_seconds()


class Outcome(NamedTuple):
    """What became of an attempt to fetch a provider's file."""

    provider: str
    text: str
    good: bool


class Registry(Shelf):
    """Files that can be had at once, whatever becomes of the registry that they came from."""

    noun = "registry"

    def __init__(self, database: Database, settings: Settings, audit: Auditing) -> None:
        super().__init__(database, settings)
        self._audit = audit
        # Files belong to the deployment: they are stored at once, in no caller's transaction.
        self._pool = database
        self._sweeps: set[asyncio.Task[list[Outcome]]] = set()

    async def snapshot(self) -> Snapshot:
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

    async def current(self) -> Edition:
        """Return what is served now, and see to it that it stays so."""
        return await self._bound((await self.snapshot()).files)

    async def close(self) -> None:
        """Leave off fetching."""
        for sweep in self._sweeps:
            sweep.cancel()
        await asyncio.gather(*self._sweeps, return_exceptions=True)

    async def refresh(self) -> list[Outcome]:
        """Fetch every provider's file now, and wait for what becomes of it."""
        if self._settings.registry_url == NOWHERE:
            raise Invalid("LLMRING_REGISTRY_URL is none: there is no registry to ask.")
        return await self._outside()._sweep(ttl=0)

    async def accept(self, id: int, *, actor: Actor) -> int:
        """Accept a quarantined file; return its new id.

        Like a refresh, this is committed at once, also within a caller's transaction: all requests
        share the files.
        """
        async with self._pool.transaction() as inside:
            here = self.on(inside)
            await here._all("hold")
            rows = await here._all("accept", id=id)
            if not rows:
                raise NotFound(f"No file is quarantined as {id}.")
            await here._audit.record(actor, "registry.accept", f"{id} {rows[0]['id']}")
        self._memory.asked_at = NEVER
        accepted: int = rows[0]["id"]
        return accepted

    def _outside(self) -> Self:
        """Return this repository outside of any transaction of a caller's."""
        return self.on(self._pool)

    def stale(self, files: Iterable[File]) -> int | None:
        """Return how many seconds ago these were last known to be current, if that is too long."""
        ages = [self._age(file.provider) for file in files if file.id]
        oldest = max(ages, default=0)
        if oldest > OLDEST:
            raise Stale
        return int(oldest) if oldest > self._settings.registry_ttl else None

    def _age(self, provider: str) -> float:
        source = self._memory.sources.get(provider)
        if not source or source.checked is None or self._settings.registry_url == NOWHERE:
            return 0
        return source.checked + time.monotonic() - self._memory.looked_at

    def _is_due(self) -> bool:
        memory, settings, now = self._memory, self._settings, time.monotonic()
        if settings.registry_url == NOWHERE or self._sweeps or now - memory.swept_at < LOOK:
            return False
        tried = [memory.sources.get(provider) for provider in settings.registry_providers]
        ages = [each.tried + now - memory.looked_at if each else math.inf for each in tried]
        return max(ages) > settings.registry_ttl

    def _swept(self, sweep: asyncio.Task[list[Outcome]]) -> None:
        self._sweeps.discard(sweep)
        if sweep.cancelled():
            return
        if exc := sweep.exception():
            _logger.error("refreshing the registry failed: %s", trace(exc))
            return
        for provider, text, good in sweep.result():
            _logger.log(
                logging.INFO if good else logging.WARNING, "registry: %s %s", provider, text
            )

    async def _sweep(self, ttl: float) -> list[Outcome]:
        from llmring_server import upstream  # noqa: PLC0415, httpx takes 50 ms, and brings click

        claim = {"providers": self._settings.registry_providers, "ttl": timedelta(seconds=ttl)}
        claimed = [row["provider"] for row in await self._all("claim", **claim)]
        if not claimed:
            return []
        answers = await upstream.fetch(self._settings.registry_url, claimed)
        files = await asyncio.to_thread(lambda: [opened(*answer) for answer in answers.items()])
        async with self._database.transaction() as inside:
            outcomes = await self.on(inside)._store(dict(zip(answers, files, strict=True)))
        self._memory.asked_at = NEVER
        return outcomes

    async def _store(self, files: Mapping[str, Listing | RingError]) -> list[Outcome]:
        await self._all("hold")
        await self._look()
        return [await self._settle(provider, found) for provider, found in files.items()]

    async def _settle(self, provider: str, found: Listing | RingError) -> Outcome:
        if isinstance(found, RingError):
            return await self._note(provider, f"failed: {found}", good=False)
        current = self._memory.snapshot.files.get(provider)
        if current and (current.version, current.models) == (found.version, found.models):
            await self._all("forget", provider=provider, but=None)
            return await self._note(provider, "unchanged", good=True)
        doubts = await self._keep(provider, found, current)
        told = f"quarantined: {doubts}" if doubts else f"new: {len(found.models)} models"
        return await self._note(provider, told, good=not doubts)

    async def _keep(self, provider: str, found: Listing, current: File | None) -> str | None:
        """Keep a file that is not the current one, apart if there are doubts; return them."""
        before = current.models if current else {}
        doubts = doubt(before, found.models, await self._known_prices(provider))
        await self._all("forget", provider=provider, but=found.content if doubts else None)
        await self._all(
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

    async def _note(self, provider: str, text: str, *, good: bool) -> Outcome:
        await self._all("note", provider=provider, outcome=text, good=good)
        return Outcome(provider, text, good)


def opened(provider: str, answer: bytes | RingError) -> Listing | RingError:
    """Read what was fetched, or say what is wrong with it."""
    try:
        return answer if isinstance(answer, RingError) else read(provider, answer)
    except RingError as exc:
        return exc


def _times(listing: Listing, current: File | None) -> dict[str, datetime]:
    """Return when it was fetched, and since when it holds: as it says, if that can be."""
    now, earliest = datetime.now(UTC), current.since if current else EPOCH
    said = listing.updated_at
    return {"since": said if said and earliest < said <= now else now, "fetched_at": now}
