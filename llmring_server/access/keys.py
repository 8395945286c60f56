"""API keys: issued, rotated, revoked; stored as digests; looked up through a short-lived cache."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import Field

from llmring_server.access.audit import AuditLog
from llmring_server.access.key_format import ID_LENGTH, PREFIX, key_digest, key_id, new_api_key
from llmring_server.core.events import KeyRevoked
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
from llmring_server.core.pagination import INVALID_CURSOR, Limit, PageParams
from llmring_server.db.database import Database
from llmring_server.db.quotas import Quota
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import InvalidRequest
from llmring_server.settings import Settings

# A key that was found valid is accepted for so many seconds without another lookup: a revoked key
# is rejected everywhere after that time.
CACHE_TTL = 5.0
# A key that was found invalid is rejected for so many seconds without another lookup.
NEGATIVE_CACHE_TTL = 1.0
CACHE_SIZE = 10_000


class _CachedCaller(NamedTuple):
    """The result of a lookup: the owner of a key, or None, and until when to trust it."""

    expires: float
    caller: Caller | None


class _CallerCache:
    """Results of lookups by the digests of the keys; the least recently used are dropped first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, _CachedCaller] = OrderedDict()

    def get(self, digest: bytes) -> _CachedCaller | None:
        entry = self._entries.get(digest)
        if entry:
            self._entries.move_to_end(digest)
        return entry

    def put(self, digest: bytes, entry: _CachedCaller) -> None:
        self._entries[digest] = entry
        self._entries.move_to_end(digest)
        if len(self._entries) > CACHE_SIZE:
            self._entries.popitem(last=False)

    def drop(self, digest: bytes) -> None:
        self._entries.pop(digest, None)

    def clear(self) -> None:
        self._entries.clear()


class IssuedKey(NamedTuple):
    """A new key. Its `secret` is not stored and cannot be shown again."""

    secret: str
    id: str
    project_id: ProjectId


@dataclass(slots=True)
class ApiKey:
    """An API key, without its secret. `last_used_at` is exact to the hour.

    `project` is null if the project has no name: that of a key of mode `open`, for example.
    """

    id: str
    project: str | None
    project_id: ProjectId
    label: str
    scopes: list[str]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyPage(PageParams):
    """A page of keys, also revoked and expired ones: a project's oldest key first."""

    limit: Limit = Field(1000, ge=1, le=1000)

    def last_key(self, project_id: ProjectId | None) -> dict[str, Any]:
        """Return the position of the key that the previous page ended with."""
        cursor = self.last(project_id, b"keys")
        if cursor is None:
            return {"last_project_id": None, "last_at": None, "last_id": None}
        try:
            last_project_id, last_at, last_id = cursor[0]
            return {
                "last_project_id": UUID(last_project_id),
                "last_at": datetime.fromisoformat(last_at),
                "last_id": str(last_id),
            }
        except (AttributeError, TypeError, ValueError) as exc:
            raise InvalidRequest(INVALID_CURSOR) from exc

    def next(self, project_id: ProjectId | None, last: ApiKey) -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        position = (str(last.project_id), last.created_at, last.id)
        return self.following(project_id, (position, None), b"keys")


class KeyOptions(NamedTuple):
    """Label, scopes and expiry of a new key."""

    label: str = ""
    scopes: Iterable[str] = DEFAULT_SCOPES
    expires_at: datetime | None = None

    def validated(self) -> dict[str, Any]:
        """Return the options as parameters of a statement; InvalidRequest if they are invalid."""
        if unknown := set(self.scopes) - set(SCOPES):
            raise InvalidRequest(
                f"scopes: unknown: {', '.join(sorted(unknown))}. Known: {', '.join(SCOPES)}."
            )
        if self.expires_at and self.expires_at <= datetime.now(UTC):
            raise InvalidRequest("expires_at: must be in the future")
        return self._asdict() | {"scopes": sorted(set(self.scopes))}


DEFAULT_KEY_OPTIONS = KeyOptions()


class ApiKeys(Repository):
    """The API keys of all projects. Where a `project_id` is optional, None means any project."""

    row_kind = "API key"
    sql = "access/keys"
    # A key is deleted with its project; a revoked or expired one also to make room for another.
    tables = (Table("api_keys", grants=("UPDATE", "DELETE")),)

    def __init__(self, database: Database, audit: AuditLog, settings: Settings) -> None:
        super().__init__(database)
        self._audit = audit
        self._quota = Quota(
            database,
            settings.max_keys,
            setting="LLMRING_MAX_KEYS",
            kind="valid API keys",
            remedy="revoke some",
        )
        # Separate caches, so that invalid keys, which anyone can make up, evict no valid ones.
        self._valid = _CallerCache()
        self._invalid = _CallerCache()

    def configure(self, settings: Settings) -> None:
        self._quota.limit = settings.max_keys

    async def issue(
        self, project: str, options: KeyOptions = DEFAULT_KEY_OPTIONS, *, actor: Actor
    ) -> IssuedKey:
        """Issue a key for the project with this name, which is created if it does not exist."""
        name, valid_options = project_name(project), options.validated()
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            row = await inside._fetch_one("create_project", project=name, project_id=new_id())
            return await inside._issue(row["project_id"], "key.issue", actor, **valid_options)

    async def issue_for(
        self, project_id: ProjectId, options: KeyOptions = DEFAULT_KEY_OPTIONS, *, actor: Actor
    ) -> IssuedKey:
        """Issue a key for an existing project."""
        valid_options = options.validated()
        slot = self._quota.slot(project_id)
        async with slot, self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            return await inside._issue(project_id, "key.issue", actor, **valid_options)

    async def rotate(
        self,
        id: str,
        overlap: timedelta,
        project_id: ProjectId | None = None,
        scopes: Iterable[str] = SCOPES,
        *,
        actor: Actor,
    ) -> IssuedKey:
        """Issue a key with the options of an existing one, which stays valid for `overlap`.

        NotFound if that key is not valid, or has a scope that is not among `scopes`.
        """
        slot = self._quota.slot(project_id)
        async with slot, self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            old = await inside._fetch_one(
                "replace",
                id=id,
                project_id=project_id,
                scopes=list(scopes),
                overlap=overlap.total_seconds(),
            )
            issued = await inside._issue(rotated_id=id, action="key.rotate", actor=actor, **old)
        self._valid.clear()
        return issued

    async def list(
        self, project_id: ProjectId | None = None, page: KeyPage | None = None
    ) -> list[ApiKey]:
        """Return a page of keys."""
        page = page or KeyPage()
        rows = await self._fetch_all(
            "list",
            project_id=project_id,
            limit=page.limit,
            offset=page.offset,
            **page.last_key(project_id),
        )
        return [ApiKey(**row) for row in rows]

    async def get(self, id: str, project_id: ProjectId | None = None) -> ApiKey:
        return ApiKey(**await self._fetch_one("get", project_id=project_id, id=id))

    async def revoke(
        self, id: str, project_id: ProjectId | None = None, *, actor: Actor
    ) -> datetime:
        """Revoke a key: this process rejects it at once, others within CACHE_TTL seconds.

        Return when it was revoked, which is earlier if it already had been.
        """
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            row = await inside._fetch_one("revoke", id=id, project_id=project_id)
            await inside._audit.record(actor, "key.revoke", id, row["project_id"])
        self._valid.clear()
        revoked_at: datetime = row["revoked_at"]
        if row["newly_revoked"] and self._database.announces:
            event = KeyRevoked(project_id=row["project_id"], key_id=id, revoked_at=revoked_at)
            self._database.events.announce([event])
        return revoked_at

    def cached_caller(self, key: str) -> Caller | None:
        """Return the owner of a key that was found valid a moment ago; None for any other key."""
        if self._database.in_caller_transaction:
            return None
        valid = self._valid.get(key_digest(key))
        return valid.caller if valid and valid.expires > time.monotonic() else None

    async def caller(
        self, key: str, before_lookup: Callable[[], None] | None = None
    ) -> Caller | None:
        """Return the owner of a key; None if it was never issued, has expired or is revoked.

        `before_lookup` is called before the database is queried for a key that was not recently
        found valid. It may reject the request by raising.
        """
        digest = key_digest(key)
        if self._database.in_caller_transaction:
            # A key that was issued in this transaction may be rolled back: it must not be cached.
            return (await self._look_up(key, digest)).caller
        now = time.monotonic()
        valid = self._valid.get(digest)
        if valid and valid.expires > now:
            return valid.caller
        invalid = None if valid else self._invalid.get(digest)
        if invalid and invalid.expires > now:
            return None
        if before_lookup and not valid and key_id(key):
            before_lookup()
        entry = await self._look_up(key, digest)
        if entry.caller:
            self._valid.put(digest, entry)
            self._invalid.drop(digest)
        else:
            self._invalid.put(digest, entry)
            self._valid.drop(digest)
        return entry.caller

    async def _look_up(self, key: str, digest: bytes) -> _CachedCaller:
        """Query the database for the owner of a key."""
        id = key_id(key)
        # How long the database compares digests tells nothing about the secret of a key.
        rows = await self._fetch_all("valid_key", id=id, digest=digest) if id else []
        now = time.monotonic()
        if not rows or not id:
            return _CachedCaller(now + NEGATIVE_CACHE_TTL, None)
        [row] = rows
        caller = Caller(row["project_id"], frozenset(row["scopes"]), id)
        return _CachedCaller(now + min(CACHE_TTL, row["seconds_left"] or CACHE_TTL), caller)

    async def _issue(
        self,
        project_id: ProjectId,
        action: Action,
        actor: Actor,
        rotated_id: str = "",
        **options: Any,
    ) -> IssuedKey:
        """Store a new key and record it in the audit log, in the transaction of the caller."""
        secret = new_api_key()
        id = secret.removeprefix(PREFIX)[:ID_LENGTH]
        key = {"project_id": project_id, "new_id": id, "digest": key_digest(secret), **options}
        quota = self._quota.limit
        await self._quota.add(
            project_id,
            lambda: self._fetch_all("insert_key", quota=quota, **key),
            lambda: self._fetch_all("delete_invalid_keys", project_id=project_id, quota=quota),
        )
        await self._audit.record(actor, action, f"{rotated_id} {id}".strip(), project_id)
        return IssuedKey(secret, id, project_id)
