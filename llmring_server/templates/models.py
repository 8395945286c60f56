"""Template models: templates, their versions, and the requests that create and change them."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self
from uuid import UUID

import asyncpg
from pydantic import BaseModel, Field

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import FormerKeyId
from llmring_server.core.numbers import WHOLE
from llmring_server.core.pagination import INVALID_CURSOR, Limit, PageParams
from llmring_server.core.strict_json import NOT_BLANK, JsonReader, SmallJsonObject, load_json
from llmring_server.errors import InvalidRequest

DEFAULT_MODEL = "claude-3-sonnet-20240229"
DEFAULT_TEMPERATURE = Decimal("0.7")

# A change of any of these creates a version.
VERSIONED_FIELDS = frozenset(
    {
        "name",
        "description",
        "system_prompt",
        "model",
        "temperature",
        "max_tokens",
        "tool_config",
    }
)

# These can be null.
NULLABLE_FIELDS = frozenset({"description", "system_prompt", "max_tokens"})


Label = Annotated[str, Field(max_length=255, pattern=NOT_BLANK)]
Text = Annotated[str, Field(max_length=200_000)]
Temperature = Annotated[Decimal, Field(ge=0, le=2, strict=False)]
MaxTokens = Annotated[int, Field(gt=0, lt=2**31), WHOLE]


class NewTemplate(BaseModel, strict=True):
    """A template to create."""

    name: Label
    created_by: Label
    description: Text | None = None
    system_prompt: Text | None = None
    model: Label = DEFAULT_MODEL
    temperature: Temperature = DEFAULT_TEMPERATURE
    max_tokens: MaxTokens | None = None
    tool_config: SmallJsonObject = {}
    shared: bool = False


class TemplateUpdate(BaseModel, strict=True):
    """The fields of a template to change. `PUT` ignores null; `PATCH` clears fields with it."""

    name: Label | None = None
    description: Text | None = None
    system_prompt: Text | None = None
    model: Label | None = None
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    tool_config: SmallJsonObject | None = None
    is_active: bool | None = None
    shared: bool | None = None

    def changes(self, *, clears: bool) -> dict[str, Any]:
        """Return the fields that are set and not null; with `clears`, also nulls that clear."""
        fields = self.model_dump(exclude_unset=True)
        return {
            name: value
            for name, value in fields.items()
            if value is not None or (clears and name in NULLABLE_FIELDS)
        }


class TemplatePage(PageParams):
    """With `created_by`, only the project's own templates by this author.

    A page is shorter than `limit` if the templates are large.
    """

    created_by: Label | None = Field(
        None, description="Only the project's own templates by this author."
    )
    limit: Limit = Field(50, ge=1, le=100)

    def position(self, project_id: ProjectId) -> dict[str, Any]:
        """Return the template after which the page begins, and whether it is the project's own."""
        is_own, id = self.last(project_id) or (None, None)
        # Lists used to be ordered by time alone, and so were their cursors.
        if id and not isinstance(is_own, bool):
            raise InvalidRequest(INVALID_CURSOR)
        return {"last_is_own": is_own, "last_id": id and UUID(id)}

    def next(self, project_id: ProjectId, last: "Template") -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(project_id, (last.project_id is not None, last.id))


class VersionPage(PageParams):
    """A page is shorter than `limit` if the versions are large."""

    limit: Limit = Field(50, ge=1, le=100)

    def last_version(self, project_id: ProjectId, template_id: UUID) -> int | None:
        """Return the version that the previous page ended with."""
        cursor = self.last(project_id, template_id.bytes)
        if cursor is None:
            return None
        version: int = cursor[0]
        return version

    def next(self, project_id: ProjectId, last: "TemplateVersion", template_id: UUID) -> str:
        """Return the cursor of the page that follows the one that ends with `last`."""
        return self.following(project_id, (last.version, template_id), template_id.bytes)


@dataclass(slots=True)
class TemplateVersion:
    """A version of a template's content."""

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
    def from_row(cls, row: asyncpg.Record, read_json: JsonReader = load_json) -> Self:
        fields = dict(row)
        fields["tool_config"] = read_json(fields["tool_config"])
        return cls(**fields)


@dataclass(slots=True)
class Template:
    """A template in its current version.

    Other projects see neither the `project_id` nor the author of a shared template. They see who
    shares it, in `shared_by`: the name of the project, if it has one.
    """

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
    shared_by: str | None = None
    api_key_id: FormerKeyId = None

    @classmethod
    def from_row(
        cls, project_id: ProjectId, row: asyncpg.Record, read_json: JsonReader = load_json
    ) -> Self:
        """Return a template as the project `project_id` sees it."""
        fields = dict(row)
        fields["tool_config"] = read_json(fields["tool_config"])
        if fields["project_id"] != project_id:
            fields["project_id"] = None
            fields["created_by"] = ""
        return cls(**fields)


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
    """A template with its variables filled in."""

    template_id: UUID
    version: int
    system_prompt: str | None
    model: str
    temperature: Decimal
    max_tokens: int | None
    tool_config: dict[str, Any]
