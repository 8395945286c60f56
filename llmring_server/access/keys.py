"""API keys: issued once, kept as digests, believed for a few seconds at a time."""

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from llmring_server.access.audit import AuditLog
from llmring_server.access.key_format import PREFIX, key_digest, key_id, new_api_key
from llmring_server.core.identity import (
    DEFAULT_SCOPES,
    SCOPES,
    Action,
    Actor,
    Caller,
    ProjectId,
    project_name,
)
from llmring_server.core.ids import new_id
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.errors import InvalidRequest

# A revoked key is refused everywhere after this many seconds, without asking at each request.
CACHE_TTL, NEGATIVE_CACHE_TTL = 5.0, 1.0
CACHE_SIZE = 10_000


class _Known:
    """What was found for keys, by their digests: those used longest ago are forgotten first."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, tuple[float, Caller | None]] = OrderedDict()

    def get(self, digest: bytes) -> tuple[float, Caller | None] | None:
        """Return until when something is believed, and what it is."""
        found = self._found.get(digest)
        if found:
            self._found.move_to_end(digest)
        return found

    def put(self, digest: bytes, until: float, caller: Caller | None) -> None:
        self._found[digest] = until, caller
        self._found.move_to_end(digest)
        if len(self._found) > CACHE_SIZE:
            self._found.popitem(last=False)

    def drop(self, digest: bytes) -> None:
        self._found.pop(digest, None)

    def clear(self) -> None:
        self._found.clear()


class IssuedKey(NamedTuple):
    """A new key: `secret` is shown now and never again."""

    secret: str
    id: str
    project_id: ProjectId


@dataclass(slots=True)
class ApiKey:
    """A key as its owner sees it; it was last used within the hour before `last_used_at`."""

    id: str
    project: str
    project_id: ProjectId
    label: str
    scopes: list[str]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyOptions(NamedTuple):
    """What a new key is for."""

    label: str = ""
    scopes: Iterable[str] = DEFAULT_SCOPES
    expires_at: datetime | None = None

    def checked(self) -> dict[str, Any]:
        if unknown := set(self.scopes) - set(SCOPES):
            raise InvalidRequest(
                f"scopes: unknown: {', '.join(sorted(unknown))}; there are {', '.join(SCOPES)}"
            )
        if self.expires_at and self.expires_at <= datetime.now(UTC):
            raise InvalidRequest("expires_at: lies in the past")
        return self._asdict() | {"scopes": sorted(set(self.scopes))}


DEFAULT_KEY_OPTIONS = KeyOptions()


class ApiKeys(Repository):
    """The keys of every project."""

    sql = "access/keys"

    def __init__(self, database: Database, audit: AuditLog) -> None:
        super().__init__(database)
        self._audit = audit
        # Apart, so that bad keys, which anyone can make up, push out no good ones.
        self._good, self._bad = _Known(), _Known()

    async def issue(
        self, project: str, wanted: KeyOptions = DEFAULT_KEY_OPTIONS, *, actor: Actor
    ) -> IssuedKey:
        """Make a key for `project`, and the project itself if it is new."""
        project_id = new_id()
        return await self._make(
            "issue",
            "key.issue",
            actor,
            project=project_name(project),
            project_id=project_id,
            **wanted.checked(),
        )

    async def issue_for(
        self, project_id: ProjectId, wanted: KeyOptions = DEFAULT_KEY_OPTIONS, *, actor: Actor
    ) -> IssuedKey:
        """Make another key for a project that is there."""
        return await self._make(
            "issue_for", "key.issue", actor, project_id=project_id, **wanted.checked()
        )

    async def rotate(
        self,
        id: str,
        overlap: timedelta,
        project_id: ProjectId | None = None,
        scopes: Iterable[str] = SCOPES,
        *,
        actor: Actor,
    ) -> IssuedKey:
        """Make a key like this one, which stays good for `overlap`.

        NotFound if it is not good, or has a scope that is not among `scopes`.
        """
        params = {"id": id, "project_id": project_id, "scopes": list(scopes)}
        issued = await self._make(
            "rotate", "key.rotate", actor, target=id, overlap=overlap.total_seconds(), **params
        )
        self._good.clear()
        return issued

    async def list(self, project_id: ProjectId | None = None) -> list[ApiKey]:
        """Return the keys of a project, or of all."""
        return [
            ApiKey(**row) for row in await self._fetch_all("list", project_id=project_id, id=None)
        ]

    async def get(self, id: str, project_id: ProjectId | None = None) -> ApiKey:
        return ApiKey(**await self._fetch_one("list", project_id=project_id, id=id))

    async def revoke(
        self, id: str, project_id: ProjectId | None = None, *, actor: Actor
    ) -> datetime:
        """Refuse this key from now on (elsewhere, within seconds); return since when."""
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            row = await here._fetch_one("revoke", id=id, project_id=project_id)
            await here._audit.record(actor, "key.revoke", id, row["project_id"])
        self._good.clear()
        revoked_at: datetime = row["revoked_at"]
        return revoked_at

    async def caller(
        self, key: str, before_lookup: Callable[[], None] | None = None
    ) -> Caller | None:
        """Return whose key this is; None if it was never issued, has expired or is revoked.

        `before_lookup` is called before the database is asked about a key that was not found good
        here before: it may refuse by raising.
        """
        given = key_digest(key)
        if self._database.borrowed:
            # What is found in a transaction may never be committed: it is neither kept nor trusted.
            return (await self._find(key, given))[0]
        now = time.monotonic()
        good = self._good.get(given)
        if good and good[0] > now:
            return good[1]
        bad = None if good else self._bad.get(given)
        if bad and bad[0] > now:
            return None
        if before_lookup and not good and key_id(key):
            before_lookup()
        return await self._learn(key, given)

    async def _learn(self, key: str, given: bytes) -> Caller | None:
        caller, seconds = await self._find(key, given)
        known, other = (self._good, self._bad) if caller else (self._bad, self._good)
        known.put(given, time.monotonic() + seconds, caller)
        other.drop(given)
        return caller

    async def _find(self, key: str, given: bytes) -> tuple[Caller | None, float]:
        """Return whose key this is, and for how many seconds that can be believed."""
        id = key_id(key)
        rows = await self._fetch_all("find", id=id, digest=given) if id else []
        known = rows[0]["digest"] if rows else b""
        # Compared also where there is nothing to compare with: both take the same time.
        if not hmac.compare_digest(known, given) or not id:
            return None, NEGATIVE_CACHE_TTL
        caller = Caller(rows[0]["project_id"], frozenset(rows[0]["scopes"]), id)
        return caller, min(CACHE_TTL, rows[0]["seconds_left"] or CACHE_TTL)

    async def _make(
        self, statement: str, action: Action, actor: Actor, target: str = "", **params: Any
    ) -> IssuedKey:
        secret = new_api_key()
        new_id = secret[len(PREFIX) :][:8]
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            row = await here._fetch_one(
                statement, new_id=new_id, digest=key_digest(secret), **params
            )
            await here._audit.record(actor, action, f"{target} {new_id}".strip(), row["project_id"])
        return IssuedKey(secret, new_id, row["project_id"])
