"""Alias bindings: what an alias means in a profile, such as dev, staging or prod."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Self

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, RootModel

from llmring_server.bounded import Json, dumped
from llmring_server.pages import PAGE_BYTES, Paged
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant

DEFAULT, MOST = "default", 1_000

Name = Annotated[str, Field(max_length=64, pattern=r"\S")]

# What the API calls its own: below `/aliases/`, nobody could ask for an alias of that name.
TAKEN = ("bind", "bulk_upsert", "resolve")


def _free(name: str) -> str:
    if name in TAKEN:
        raise ValueError(f"must not be one of {', '.join(TAKEN)}")
    return name


Free = Annotated[Name, AfterValidator(_free), Field(json_schema_extra={"not": {"enum": [*TAKEN]}})]
Model = Annotated[
    str,
    Field(max_length=255, pattern=r"^[^: \t\r\n]+:[^ \t\r\n]", description="provider:model"),
]


def _usual(value: object) -> object:
    return DEFAULT if value is None else value


Profile = Annotated[Name, BeforeValidator(_usual, json_schema_input_type=Name | None)]


class Bind(BaseModel, strict=True):
    """An alias, and the `provider:model` that it means in a profile."""

    alias: Free
    model: Model
    profile: Profile = DEFAULT
    metadata: Json | None = None


class Binds(RootModel[Annotated[list[Bind], Field(max_length=MOST)]]):
    """Many of them."""


class Wanted(Paged):
    """Which bindings: of a profile, or of all, in the order of their aliases."""

    profile: Name | None = None
    limit: int = Field(MOST, ge=1, le=MOST)
    cursor: str | None = Field(None, max_length=1200)

    def place(self, tenant: Tenant) -> dict[str, str | None]:
        """Return after which binding the page begins."""
        [alias, profile], _ = self.last(tenant, b"aliases") or ((None, None), None)
        return {"last_alias": alias, "last_profile": profile}

    def next(self, tenant: Tenant, last: "Binding") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(tenant, ((last.alias, last.profile), None), b"aliases")


@dataclass(slots=True)
class Binding:
    """What an alias means. `id` is made of its names: clients once had numbers there."""

    id: int
    project_id: Tenant
    profile: str
    alias: str
    model: str
    metadata: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: asyncpg.Record) -> Self:
        tenant, profile, alias, model, metadata, *times = row
        id = int.from_bytes(sha256(f"{profile}\0{alias}".encode()).digest()[:6])
        return cls(id, tenant, profile, alias, model, metadata and orjson.loads(metadata), *times)


class Aliases(Repository):
    """The alias bindings of every tenant."""

    noun = "aliases"

    async def bind(self, tenant: Tenant, bind: Bind) -> Binding:
        """Let an alias mean a model, whatever it meant before."""
        [binding] = await self.bind_many(tenant, [bind])
        return binding

    async def bind_many(self, tenant: Tenant, binds: Sequence[Bind]) -> list[Binding]:
        """Bind all of them or none; of the same alias and profile, the last."""
        last = {(bind.profile, bind.alias): bind.model_dump() for bind in binds}
        bindings = dumped(list(last.values()), "metadata").decode()
        rows = await self._all("bind", tenant=tenant, bindings=bindings)
        return [Binding.of(row) for row in rows]

    async def list(self, tenant: Tenant, wanted: Wanted | None = None) -> list[Binding]:
        """Return bindings in the order of their aliases; fewer than wanted where they are large."""
        wanted = wanted or Wanted()
        params = wanted.model_dump(include={"profile", "limit", "offset"}) | wanted.place(tenant)
        rows = await self._all("list", tenant=tenant, most=PAGE_BYTES, **params)
        return [Binding.of(row) for row in rows]

    async def get(self, tenant: Tenant, alias: str, profile: str = DEFAULT) -> Binding:
        row = await self._one("get", tenant=tenant, alias=alias, profile=profile)
        return Binding.of(row)

    async def resolve(self, tenant: Tenant, alias: str, profile: str = DEFAULT) -> str | None:
        """Return what an alias means in a profile, and in no other one."""
        rows = await self._all("get", tenant=tenant, alias=alias, profile=profile)
        return rows[0]["model"] if rows else None

    async def delete(self, tenant: Tenant, alias: str, profile: str = DEFAULT) -> bool:
        """Let an alias mean nothing; return if it meant something."""
        return bool(await self._all("delete", tenant=tenant, alias=alias, profile=profile))
