"""What a template is, and what is asked of one."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel, Field

from llmring_server.core.identity import ProjectId
from llmring_server.core.pagination import PageParams, Position
from llmring_server.core.strict_json import SmallJsonObject

Label = Annotated[str, Field(max_length=255, pattern=r"\S")]
Text = Annotated[str, Field(max_length=200_000)]
Temperature = Annotated[Decimal, Field(ge=0, le=2, strict=False)]
Tokens = Annotated[int, Field(gt=0, lt=2**31)]

MODEL, TEMPERATURE = "claude-3-sonnet-20240229", Decimal("0.7")

# What a version is of; of these, what may be nothing.
CONTENT = {
    "name", "description", "system_prompt", "model", "temperature", "max_tokens", "tool_config",
}  # fmt: skip
CLEARABLE = {"description", "system_prompt", "max_tokens"}


class NewTemplate(BaseModel, strict=True):
    """A template to make."""

    name: Label
    created_by: Label
    description: Text | None = None
    system_prompt: Text | None = None
    model: Label = MODEL
    temperature: Temperature = TEMPERATURE
    max_tokens: Tokens | None = None
    tool_config: SmallJsonObject = {}
    shared: bool = False


class TemplateUpdate(BaseModel, strict=True):
    """What is to be different; null is as good as absent, unless it is to clear a field."""

    name: Label | None = None
    description: Text | None = None
    system_prompt: Text | None = None
    model: Label | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    tool_config: SmallJsonObject | None = None
    is_active: bool | None = None
    shared: bool | None = None

    def given(self, *, clears: bool) -> dict[str, Any]:
        said = self.model_dump(exclude_unset=True)
        return {
            name: value
            for name, value in said.items()
            if value is not None or (clears and name in CLEARABLE)
        }


class TemplatePage(PageParams):
    """Which templates: after so many, or after a cursor, the newest first."""

    created_by: Label | None = None
    limit: int = Field(50, ge=1, le=100)

    def next(self, project_id: ProjectId, last: "Template") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(project_id, Position(last.created_at, last.id))


class VersionPage(PageParams):
    """Which versions, the newest first."""

    limit: int = Field(50, ge=1, le=100)

    def place(self, project_id: ProjectId, id: UUID) -> dict[str, Any]:
        """Return after which version the page begins."""
        last, _ = self.last(project_id, id.bytes) or (None, None)
        return {"last_version": last}

    def next(self, project_id: ProjectId, last: "TemplateVersion", id: UUID) -> str:
        return self.following(project_id, (last.version, id), id.bytes)


@dataclass(slots=True)
class TemplateVersion:
    """What a template said once."""

    version: int
    name: str
    description: str | None
    system_prompt: str | None
    model: str
    temperature: Decimal
    max_tokens: int | None
    tool_config: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: asyncpg.Record) -> Self:
        return cls(**dict(row) | {"tool_config": orjson.loads(row["tool_config"])})


@dataclass(slots=True)
class Template:
    """A template as it is now. Whose another's is, and who made it, is not told."""

    id: UUID
    version: int
    name: str
    description: str | None
    system_prompt: str | None
    model: str
    temperature: Decimal
    max_tokens: int | None
    tool_config: dict[str, Any]
    project_id: ProjectId | None
    created_by: str
    is_active: bool
    shared: bool
    usage_count: int
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    api_key_id: None = None

    @classmethod
    def of(cls, project_id: ProjectId, row: asyncpg.Record) -> Self:
        told = dict(row) | {"tool_config": orjson.loads(row["tool_config"])}
        mine = told.pop("project_id") == project_id
        told["project_id"] = project_id if mine else None
        return cls(**told if mine else told | {"created_by": ""})


@dataclass(slots=True)
class TemplateUsage:
    """How often a template was used."""

    template_id: UUID
    template_name: str
    usage_count: int
    last_used_at: datetime | None
    created_at: datetime


@dataclass(slots=True)
class RenderedTemplate:
    """A template, filled in."""

    template_id: UUID
    version: int
    system_prompt: str | None
    model: str
    temperature: Decimal
    max_tokens: int | None
    tool_config: dict[str, Any]
