"""The API described to programs (OpenAPI 3.1): made of the routes, and of what handlers declare."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import getdoc
from typing import Annotated, Any, cast

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema
from starlette.responses import Response
from starlette.routing import Route

from llmring_server.errors import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    RequestInProgress,
    RingError,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from llmring_server.web.endpoint import Endpoint, by_media, notes
from llmring_server.web.health import VERSION
from llmring_server.web.problems import MEDIA_TYPE, Problem
from llmring_server.web.request import Request, render
from llmring_server.web.request_limits import JSON

Schema = dict[str, Any]


Mode = JsonSchemaMode


_REF = "#/components/schemas/{model}"


_NULL = {"type": "null"}


class _JsonSchema(GenerateJsonSchema):
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


class SchemaRegistry:
    """Schemas by reference: those that have a name are kept under it."""

    def __init__(self) -> None:
        self.named: Schema = {}

    def of(self, kind: Any, mode: Mode = "serialization") -> Schema:
        schema = TypeAdapter[Any](kind).json_schema(
            mode=mode, ref_template=_REF, schema_generator=_JsonSchema
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
    schema = model.model_json_schema(schema_generator=_JsonSchema)
    required = schema.get("required", ())
    return [_parameter(name, each, name in required) for name, each in schema["properties"].items()]


def _parameter(name: str, schema: Schema, required: bool) -> Schema:  # noqa: FBT001, as it is said
    said = {"name": name, "in": "query", "required": required, "schema": without_null(schema)}
    if schema.get("type") != "array":
        return said | {"allowEmptyValue": not required}
    # a,b: in one parameter, with commas between; said twice is said once.
    schema.pop("uniqueItems", None)
    return said | {"style": "form", "explode": False}


def without_null(schema: Schema) -> Schema:
    """Describe a parameter that is given: then it is not null."""
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != _NULL]
    schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
    if schema.get("default", ...) is None:
        del schema["default"]
    return schema


INTRODUCTION = """Records LLM calls exactly once, with exact costs, and adds them up.

What no schema says: text is UTF-8 without U+0000. A parameter without a value is as good as absent.
Fields and parameters that are not known are ignored. Whole numbers are written without a point, no
number is 2^64 or larger, and JSON is nested 32 deep at most. A slash at a path's end is ignored.
"""


TEXT: Schema = {"type": "string"}


SECONDS: Schema = {"type": "integer", "minimum": 0}


# Headers of answers: what they tell, and how.
HEADERS: Mapping[str, tuple[str, Schema]] = {
    "X-Request-ID": ("Names this request, in the server's log, too.", TEXT | {"format": "uuid"}),
    "Retry-After": ("Seconds to wait before another try.", SECONDS),
    "Idempotent-Replayed": ("`true`: this is the answer that was given before.", TEXT),
    "Link": ('The next page, if there may be one: `<?...>; rel="next"`.', TEXT),
    "ETag": ("Names what is answered; `If-None-Match` asks for anything else.", TEXT),
    "X-Registry-Stale": ("Seconds by which this is older than it should be, if it is.", SECONDS),
}


# How to say who is calling, by mode. In mode `parent`, the application around us decides.
_KEYS = (
    {"X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
    {"Bearer": {"type": "http", "scheme": "bearer"}},
)


_PROOF = "X-User-ID", "X-Project-ID", "X-Proxy-Signature"


SCHEMES: Mapping[str, Sequence[Schema]] = {
    "keys": _KEYS,
    "open": _KEYS,
    "proxy": [{name: {"type": "apiKey", "in": "header", "name": name} for name in _PROOF}],
    "parent": [],
}


async def get_openapi(request: Request) -> Annotated[Response, {JSON: dict[str, Any]}]:
    """Describe this API: this document."""
    content = request.scope["app"].state.describe(request.scope.get("root_path", ""))
    return Response(content, media_type=JSON)


def openapi_document(routes: Iterable[Route], auth: str, prefix: str) -> bytes:
    """Describe `routes` as they are found under `prefix`."""
    description, paths = _OpenApiBuilder(SCHEMES[auth]), dict[str, Schema]()
    for route in routes:
        paths.setdefault(route.path_format, {}).update(description.of(route))
    document = {
        "openapi": "3.1.0",
        "info": {"title": "LLMRing Server", "version": VERSION, "description": INTRODUCTION},
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": description.components(),
    }
    return render(document)


class _OpenApiBuilder:
    """Routes described one by one, and what their descriptions share."""

    def __init__(self, schemes: Sequence[Schema]) -> None:
        self._schemes = schemes
        self._schemas = SchemaRegistry()
        self._problem = {MEDIA_TYPE: {"schema": self._schemas.of(Problem)}}
        self._errors: Schema = {}

    def of(self, route: Route) -> Schema:
        endpoint = cast("Endpoint", route.app)
        method = min(set(route.methods or ()) - {"HEAD"}).lower()
        operation = {
            "operationId": "_".join(re.findall(r"\w+", method + route.path_format)),
            "tags": [endpoint.handler.__module__.rpartition(".")[2]],
            "summary": getdoc(endpoint.handler),
            "description": _words(endpoint),
            "security": [
                {name: [endpoint.needs] for name in way} for way in self._schemes if endpoint.needs
            ],
            "parameters": [*self._parameters(endpoint)],
            "responses": self._responses(endpoint),
        }
        if endpoint.body:
            content = self._content(endpoint.body, "validation")
            operation["requestBody"] = {"required": not endpoint.optional, "content": content}
        return {method: operation}

    def components(self) -> Schema:
        return {
            "schemas": self._schemas.named,
            "responses": self._errors,
            "headers": {
                name: {"description": text, "schema": schema}
                for name, (text, schema) in HEADERS.items()
            },
            "securitySchemes": {name: each for way in self._schemes for name, each in way.items()},
        }

    def _parameters(self, endpoint: Endpoint) -> Iterator[Schema]:
        for name, kind in endpoint.parts.items():
            schema = self._schemas.of(kind, "validation")
            yield {"name": name, "in": "path", "required": True, "schema": schema}
        if endpoint.query:
            yield from parameters(endpoint.query)
        if endpoint.key:
            schema = self._schemas.of(endpoint.key, "validation")
            yield {"name": "Idempotency-Key", "in": "header", "schema": without_null(schema)}
        if "ETag" in notes(endpoint.gives):
            yield {"name": "If-None-Match", "in": "header", "schema": TEXT}

    def _content(self, annotation: Any, mode: Mode = "serialization") -> Schema:
        return {
            media: {"schema": self._schemas.of(kind, mode)}
            for media, kind in by_media(annotation).items()
        }

    def _responses(self, endpoint: Endpoint) -> Schema:
        noted = notes(endpoint.gives)
        names = [note for note in noted if isinstance(note, str)]
        names += ["Idempotent-Replayed"] * bool(endpoint.key) + ["X-Request-ID"]
        done = {"description": "Done.", "headers": _headers(names)}
        same = {"304": done | {"description": "As it was."}} if "ETag" in noted else {}
        answers = {"200": done | {"content": self._content(endpoint.gives)}} | same
        return answers | {str(error.status): self._error(error) for error in _errors(endpoint)}

    def _error(self, error: type[RingError]) -> Schema:
        names = ["X-Request-ID"] + ["Retry-After"] * (error.retry_after or error is RateLimited)
        self._errors[error.__name__] = {
            "description": error.detail,
            "headers": _headers(names),
            "content": self._problem,
        }
        return {"$ref": f"#/components/responses/{error.__name__}"}


def _words(endpoint: Endpoint) -> str:
    who = f"Needs the scope `{endpoint.needs}`." if endpoint.needs else "For anyone."
    return f"{who}\n\n{getdoc(endpoint.query)}" if endpoint.query else who


def _headers(names: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _errors(endpoint: Endpoint) -> list[type[RingError]]:
    """Name what may go wrong, by what a route takes."""
    possible = {
        BadRequest: True,
        Unauthenticated: endpoint.needs,
        Forbidden: endpoint.needs,
        NotFound: endpoint.parts,
        Conflict: False,
        RequestInProgress: endpoint.key,
        BodyTooLarge: endpoint.body,
        UnsupportedMediaType: endpoint.body,
        InvalidRequest: endpoint.query or endpoint.body,
        RateLimited: endpoint.needs,
        Unavailable: True,
    }
    noted = [note for note in notes(endpoint.gives) if isinstance(note, type)]
    return [error for error, may in possible.items() if may or error in noted]
