"""What an MCP server offers: tools, resources and prompts, as a client reports them."""

from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from uuid import UUID

import orjson
import rfc8785
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field

from llmring_server.bounded import Json, check, plain, written
from llmring_server.errors import Invalid
from llmring_server.ids import new_id
from llmring_server.mcp_server import Label

Kind = Literal["tool", "resource", "prompt"]

MOST, LONGEST_NAME = 1000, 2000
# Of a definition, of a content.
LARGEST, LONGEST = 64 * 1024, 2 * 1024 * 1024
_EXACT = 2**53


def _or_empty(value: object) -> object:
    return {} if value is None else value


def _short(name: str) -> str:
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"must be at most {LONGEST_NAME:,} bytes")
    return name


Short = Annotated[str, Field(max_length=255), AfterValidator(check)]
Text = Annotated[str, Field(max_length=50_000), AfterValidator(check)]
# No control characters: as JSON, in the cursor of a page, each is six.
_URI = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
Uri = Annotated[str, Field(max_length=1000, pattern=_URI), AfterValidator(_short)]
Schema = Annotated[Json, BeforeValidator(_or_empty, json_schema_input_type=dict[str, Any] | None)]
# Of prompts: one text, or messages; of resources, whatever they hold.
Content = Annotated[str | list[Any] | dict[str, Any], AfterValidator(check)]
Arguments = Annotated[dict[str, Any] | list[dict[str, Any]], AfterValidator(check)]


class Definition(NamedTuple):
    """What is stored of a capability, whatever its kind."""

    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    definition: Any = None
    content: Any = None


class ToolOffer(BaseModel, strict=True):
    """A tool that a server offers."""

    kind: ClassVar[Kind] = "tool"
    name: Label
    description: Text | None = None
    input_schema: Schema = Field({}, validation_alias=AliasChoices("inputSchema", "input_schema"))

    def stored(self) -> Definition:
        return Definition(self.name, None, self.description, None, self.input_schema)


class ResourceOffer(BaseModel, strict=True):
    """A resource that a server offers, and perhaps what is in it."""

    kind: ClassVar[Kind] = "resource"
    uri: Uri
    name: Short | None = None
    description: Text | None = None
    mime_type: Short | None = Field(None, validation_alias=AliasChoices("mimeType", "mime_type"))
    content: Content | None = None

    def stored(self) -> Definition:
        told = self.name, self.description, self.mime_type
        return Definition(self.uri, *told, None, self.content)


class PromptOffer(BaseModel, strict=True):
    """A prompt that a server offers, and perhaps what it says: a text, or messages."""

    kind: ClassVar[Kind] = "prompt"
    name: Label
    description: Text | None = None
    arguments: Arguments | None = None
    content: Content | None = None

    def stored(self) -> Definition:
        told = self.description, None, self.arguments, self.content
        return Definition(self.name, None, *told)


Offer = ToolOffer | ResourceOffer | PromptOffer


def digest(offer: Offer) -> bytes:
    """Return the SHA-256 of a definition as canonical JSON (RFC 8785), without its content."""
    definition = offer.model_dump(exclude={"content", "server_id"})
    return sha256(rfc8785.dumps(_exact(definition))).digest()


def _exact(value: Any) -> Any:
    """Take numbers as JSON has them everywhere: as those of 64 bits."""
    if isinstance(value, dict):
        return {key: _exact(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_exact(member) for member in value]
    large = type(value) is int and not -_EXACT < value < _EXACT
    return float(value) if large or isinstance(value, Decimal) else value


def rows(offers: Sequence[Offer]) -> str:
    """Write what statements take of them; Invalid if two have the same name."""
    if len({(each.kind, each.stored().name) for each in offers}) < len(offers):
        raise Invalid("tools, resources, prompts: two of a kind have the same name")
    return orjson.dumps([_row(each) for each in offers], plain).decode()


def _row(offer: Offer) -> dict[str, Any]:
    row = offer.stored()._asdict()
    # What is too large is refused before its digest, which takes longer.
    definition = written(row["definition"], "definition", LARGEST)
    size = len(definition.encode()) + len(orjson.dumps(offer.description))
    written(row["content"], "content", LONGEST)
    made = {"id": str(new_id()), "kind": offer.kind, "digest": digest(offer).hex()}
    return row | made | {"size": size}


class NewTool(ToolOffer, strict=True):
    """A tool to add to what a server offers."""

    server_id: Annotated[UUID, Field(strict=False)]


class Offers(BaseModel, strict=True):
    """All that a server offers: what is not named here, it offers no longer."""

    tools: Annotated[list[ToolOffer], Field(max_length=MOST)] | None = None
    resources: Annotated[list[ResourceOffer], Field(max_length=MOST)] | None = None
    prompts: Annotated[list[PromptOffer], Field(max_length=MOST)] | None = None

    def all(self) -> list[Offer]:
        return [*(self.tools or ()), *(self.resources or ()), *(self.prompts or ())]

    def counts(self) -> dict[str, int]:
        return {name: len(getattr(self, name) or ()) for name in type(self).model_fields}


class Contents(BaseModel, strict=True):
    """What is in a resource, or what a prompt says: a text, or messages."""

    content: Content


class Seen(BaseModel, strict=True):
    """The definition that someone has looked at."""

    definition_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
