"""Alias bindings: what an alias means in a profile, such as dev, staging or prod."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Self

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, RootModel

from llmring_server.core.identity import ProjectId
from llmring_server.core.pagination import MAX_PAGE_BYTES, PageParams
from llmring_server.core.strict_json import SmallJsonObject, dump_json
from llmring_server.db.repository import Repository

DEFAULT, MAX_BINDINGS = "default", 1_000

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


class BindAlias(BaseModel, strict=True):
    """An alias, and the `provider:model` that it means in a profile."""

    alias: Free
    model: Model
    profile: Profile = DEFAULT
    metadata: SmallJsonObject | None = None


class BindAliases(RootModel[Annotated[list[BindAlias], Field(max_length=MAX_BINDINGS)]]):
    """Many of them."""


class AliasPage(PageParams):
    """Which bindings: of a profile, or of all, in the order of their aliases."""

    profile: Name | None = None
    limit: int = Field(MAX_BINDINGS, ge=1, le=MAX_BINDINGS)
    cursor: str | None = Field(None, max_length=1200)

    def place(self, project_id: ProjectId) -> dict[str, str | None]:
        """Return after which binding the page begins."""
        [alias, profile], _ = self.last(project_id, b"aliases") or ((None, None), None)
        return {"last_alias": alias, "last_profile": profile}

    def next(self, project_id: ProjectId, last: "AliasBinding") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(project_id, ((last.alias, last.profile), None), b"aliases")


@dataclass(slots=True)
class AliasBinding:
    """What an alias means. `id` is made of its names: clients once had numbers there."""

    id: int
    project_id: ProjectId
    profile: str
    alias: str
    model: str
    metadata: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: asyncpg.Record) -> Self:
        project_id, profile, alias, model, metadata, *times = row
        id = int.from_bytes(sha256(f"{profile}\0{alias}".encode()).digest()[:6])
        return cls(
            id, project_id, profile, alias, model, metadata and orjson.loads(metadata), *times
        )


class Aliases(Repository):
    """The alias bindings of every project."""

    sql = "aliases/aliases"

    async def bind(self, project_id: ProjectId, bind: BindAlias) -> AliasBinding:
        """Let an alias mean a model, whatever it meant before."""
        [binding] = await self.bind_many(project_id, [bind])
        return binding

    async def bind_many(
        self, project_id: ProjectId, binds: Sequence[BindAlias]
    ) -> list[AliasBinding]:
        """Bind all of them or none; of the same alias and profile, the last."""
        last = {(bind.profile, bind.alias): bind.model_dump() for bind in binds}
        bindings = dump_json(list(last.values()), "metadata").decode()
        rows = await self._fetch_all("bind", project_id=project_id, bindings=bindings)
        return [AliasBinding.of(row) for row in rows]

    async def list(
        self, project_id: ProjectId, wanted: AliasPage | None = None
    ) -> list[AliasBinding]:
        """Return bindings in the order of their aliases; fewer than wanted where they are large."""
        wanted = wanted or AliasPage()
        params = wanted.model_dump(include={"profile", "limit", "offset"}) | wanted.place(
            project_id
        )
        rows = await self._fetch_all("list", project_id=project_id, most=MAX_PAGE_BYTES, **params)
        return [AliasBinding.of(row) for row in rows]

    async def get(self, project_id: ProjectId, alias: str, profile: str = DEFAULT) -> AliasBinding:
        row = await self._fetch_one("get", project_id=project_id, alias=alias, profile=profile)
        return AliasBinding.of(row)

    async def resolve(
        self, project_id: ProjectId, alias: str, profile: str = DEFAULT
    ) -> str | None:
        """Return what an alias means in a profile, and in no other one."""
        rows = await self._fetch_all("get", project_id=project_id, alias=alias, profile=profile)
        return rows[0]["model"] if rows else None

    async def delete(self, project_id: ProjectId, alias: str, profile: str = DEFAULT) -> bool:
        """Let an alias mean nothing; return if it meant something."""
        return bool(
            await self._fetch_all("delete", project_id=project_id, alias=alias, profile=profile)
        )
