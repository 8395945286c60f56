"""What types look like on the wire, as JSON Schema: what is really read, and really written."""

from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

Schema = dict[str, Any]
Mode = JsonSchemaMode

_REF = "#/components/schemas/{model}"
_NULL = {"type": "null"}


class _Wire(GenerateJsonSchema):
    """Decimals are numbers, as `render` writes them; those of models are text."""

    _in_model = False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        outer, self._in_model = self._in_model, True
        try:
            return super().model_schema(schema)
        finally:
            self._in_model = outer

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        described = super().decimal_schema(schema)
        if self.mode == "validation":
            number: JsonSchemaValue = described["anyOf"][0]
            return number
        return described if self._in_model else {"type": "number"}

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: FBT001, as pydantic has it
        """What has a default is always written, though it need not be read."""
        written = self.mode == "serialization" and field["type"] != "typed-dict-field"
        return written or super().field_is_required(field, total)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002, a name needs no title
        return False


class Schemas:
    """Schemas by reference: those that have a name are kept under it."""

    def __init__(self) -> None:
        self.named: Schema = {}

    def of(self, kind: Any, mode: Mode = "serialization") -> Schema:
        schema = TypeAdapter[Any](kind).json_schema(
            mode=mode, ref_template=_REF, schema_generator=_Wire
        )
        for name, inner in schema.pop("$defs", {}).items():
            self._keep(name, inner)
        return self._keep(schema["title"], schema) if "title" in schema else schema

    def _keep(self, name: str, schema: Schema) -> Schema:
        if self.named.setdefault(name, schema) != schema:
            raise ValueError(f"two different things are called {name}")
        return {"$ref": _REF.format(model=name)}


def parameters(model: type[BaseModel]) -> list[Schema]:
    """Describe the parameters of a query."""
    schema = model.model_json_schema(schema_generator=_Wire)
    required = schema.get("required", ())
    return [_parameter(name, each, name in required) for name, each in schema["properties"].items()]


def _parameter(name: str, schema: Schema, required: bool) -> Schema:  # noqa: FBT001, as it is said
    said = {"name": name, "in": "query", "required": required, "schema": given(schema)}
    if schema.get("type") != "array":
        return said | {"allowEmptyValue": not required}
    # a,b: in one parameter, with commas between; said twice is said once.
    schema.pop("uniqueItems", None)
    return said | {"style": "form", "explode": False}


def given(schema: Schema) -> Schema:
    """Describe a parameter that is given: then it is not null."""
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != _NULL]
    schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
    if schema.get("default", ...) is None:
        del schema["default"]
    return schema
