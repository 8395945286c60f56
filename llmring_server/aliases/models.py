"""Alias models: bindings, the requests that make them, and pages of them."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Self

import asyncpg
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, RootModel

from llmring_server.core.identity import ProjectId
from llmring_server.core.pagination import Cursor, Limit, PageParams
from llmring_server.core.strict_json import NOT_BLANK, JsonReader, SmallJsonObject, load_json

DEFAULT_PROFILE = "default"
MAX_BINDINGS = 1_000

# The API has routes of these names below `/aliases/`, so aliases of these names could not be read.
RESERVED_NAMES = ("bind", "bulk_upsert", "resolve")


def _check_not_reserved(name: str) -> str:
    if name in RESERVED_NAMES:
        raise ValueError(f"must not be one of {', '.join(RESERVED_NAMES)}")
    return name


def _default_profile_if_null(value: object) -> object:
    return DEFAULT_PROFILE if value is None else value


Name = Annotated[str, Field(max_length=64, pattern=NOT_BLANK)]
NewName = Annotated[
    Name,
    AfterValidator(_check_not_reserved),
    Field(json_schema_extra={"not": {"enum": [*RESERVED_NAMES]}}),
]
# The second form is a model without its provider, or another alias.
Model = Annotated[
    str,
    Field(
        max_length=255,
        pattern=r"^([^: \t\r\n]+:[^ \t\r\n]|[^: \t\r\n][^:]*$)",
        description="`provider:model`, the name of another alias of the profile, or the bare name"
        " of a model.",
    ),
]
Profile = Annotated[
    Name, BeforeValidator(_default_profile_if_null, json_schema_input_type=Name | None)
]


class BindAlias(BaseModel, strict=True):
    """An alias, and the model or other alias to bind it to in a profile."""

    alias: NewName
    model: Model
    profile: Profile = DEFAULT_PROFILE
    metadata: SmallJsonObject | None = None


class BindAliases(RootModel[Annotated[list[BindAlias], Field(max_length=MAX_BINDINGS)]]):
    """Aliases to bind, all or none."""


class AliasPage(PageParams):
    """With `profile`, only aliases of this profile.

    A page is shorter than `limit` if the metadata is large.
    """

    profile: Name | None = Field(None, description="Only aliases of this profile.")
    limit: Limit = Field(MAX_BINDINGS, ge=1, le=MAX_BINDINGS)
    cursor: Cursor = Field(None, max_length=1200)

    def last_binding(self, project_id: ProjectId) -> tuple[str | None, str | None]:
        """Return the alias and the profile that the previous page ended with."""
        cursor = self.last(project_id, b"aliases")
        if cursor is None:
            return None, None
        alias, profile = cursor[0]
        return alias, profile

    def next(self, project_id: ProjectId, last: "AliasBinding") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(project_id, ((last.alias, last.profile), None), b"aliases")


@dataclass(slots=True)
class AliasBinding:
    """The model that an alias is bound to in a profile.

    `id` is derived from the alias and the profile; older servers returned a number there.
    """

    id: int
    project_id: ProjectId
    profile: str
    alias: str
    model: str
    metadata: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(
        cls, row: asyncpg.Record | dict[str, Any], read_json: JsonReader = load_json
    ) -> Self:
        fields = dict(row)
        if fields["metadata"] is not None:
            fields["metadata"] = read_json(fields["metadata"])
        return cls(id=_binding_id(row["profile"], row["alias"]), **fields)


def _binding_id(profile: str, alias: str) -> int:
    return int.from_bytes(sha256(f"{profile}\0{alias}".encode()).digest()[:6])
