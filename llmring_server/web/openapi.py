"""OpenAPI document (3.1): generated from the route table and the annotations of the handlers."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import getdoc
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema
from starlette.responses import Response

from llmring_server.errors import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    RateLimited,
    RequestInProgress,
    RingError,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    UriTooLong,
)
from llmring_server.web.about import NAME, VERSION
from llmring_server.web.endpoint import BodyOptions, Endpoint, annotations_of, media_types
from llmring_server.web.problems import MEDIA_TYPE, Problem
from llmring_server.web.request import Request, render
from llmring_server.web.request_limits import JSON
from llmring_server.web.router import Route, RouteGroup

Schema = dict[str, Any]

INTRODUCTION = """Records LLM calls exactly once, with exact costs, and returns usage statistics.

In addition to the schemas: text is UTF-8 without U+0000. A parameter without a value counts as
absent. Below `/api/v1`, unknown parameters are refused (422). Unknown fields of a body are ignored
and reported: in `warnings` of the response, or else in the header `X-Warnings`; with `strict=true`
they are refused (422). A number without a fraction is an integer: 12.0 is 12. No number is 2^64 or
larger, and JSON is nested at most 32 levels deep. A trailing slash in a path is ignored.

If the server has a read replica, lists, statistics and exports may be a moment old. Responses to
methods other than GET then have an `X-LLMRing-Position`: send it with a GET that must see what the
request has written.
"""

TEXT: Schema = {"type": "string"}
SECONDS: Schema = {"type": "integer", "minimum": 0}

# Response headers: description and schema.
HEADERS: Mapping[str, tuple[str, Schema]] = {
    "X-Request-ID": ("The id of the request, as in the server's log.", TEXT | {"format": "uuid"}),
    "Retry-After": ("Seconds to wait before a retry.", SECONDS),
    "Idempotent-Replayed": ("`true` if this is the stored response to an earlier request.", TEXT),
    "X-Warnings": (
        "Fields of the request that were not stored as they were sent: a JSON list of their paths.",
        TEXT,
    ),
    "Link": ('The next page, if there is one: `<?...>; rel="next"`.', TEXT),
    "ETag": ("The version of the response, for `If-None-Match`.", TEXT),
    "X-LLMRing-Position": (
        "If the server has a read replica: a position that includes what the request has written.",
        TEXT,
    ),
    "X-LLMRing-Replica-Lag": (
        "How old the data is at most, in seconds; absent if no read replica answered.",
        {"type": "number", "minimum": 0},
    ),
    "X-Registry-Stale": ("Seconds since the data became stale; absent if fresh.", SECONDS),
}

_POSITION: Schema = {
    "name": "X-LLMRing-Position",
    "in": "header",
    "description": (
        "The `X-LLMRing-Position` of an earlier response: the data includes what that request has"
        " written, also if a read replica answers."
    ),
    "schema": TEXT,
}

# Ways to authenticate, by mode. In mode `parent` the application around this one decides.
_API_KEY = (
    {"X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
    {"Bearer": {"type": "http", "scheme": "bearer"}},
)
_PROXY_HEADERS = ("X-User-ID", "X-Project-ID", "X-Proxy-Signature")
SECURITY_SCHEMES: Mapping[str, Sequence[Schema]] = {
    "keys": _API_KEY,
    "open": _API_KEY,
    "proxy": [{name: {"type": "apiKey", "in": "header", "name": name} for name in _PROXY_HEADERS}],
    "parent": [],
}

_REF_TEMPLATE = "#/components/schemas/{model}"
_NULL = {"type": "null"}


async def get_openapi(request: Request) -> Annotated[Response, {JSON: dict[str, Any]}]:
    """Show this document."""
    # The first request takes a quarter of a second; others need not wait for it.
    content = await asyncio.to_thread(request.app.openapi, request.scope.get("root_path", ""))
    return Response(content, media_type=JSON)


def openapi_document(groups: Sequence[RouteGroup], auth: str, prefix: str) -> bytes:
    """Describe an app with these routes, mounted under `prefix`."""
    builder = _OpenApiBuilder(SECURITY_SCHEMES[auth], groups)
    document = {
        "openapi": "3.1.0",
        "info": {"title": NAME, "version": VERSION, "description": INTRODUCTION},
        "servers": [{"url": prefix or "/"}],
        "tags": [{"name": group.tag, "description": group.description} for group in groups],
        "paths": builder.paths(),
        "components": builder.components(),
    }
    return render(document)


class _JsonSchema(GenerateJsonSchema):
    """The schemas of models as `render` writes them.

    Decimals are numbers, but strings in serialized models. A component has the name of its class;
    only where two classes share a name, the name of the package comes before it.
    """

    _is_in_model = False

    def normalize_name(self, name: str) -> str:
        parts = name.split(".")
        if len(parts) > 1:
            # A qualified name: `llmring_server.<package>.<module>.<class>`.
            name = parts[1].capitalize() + parts[-1]
        return super().normalize_name(name)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        outer, self._is_in_model = self._is_in_model, True
        try:
            return super().model_schema(schema)
        finally:
            self._is_in_model = outer

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        described = super().decimal_schema(schema)
        if self.mode == "validation":
            number: JsonSchemaValue = described["anyOf"][0]
            return number
        return described if self._is_in_model else {"type": "number"}

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: FBT001, pydantic's signature
        """Mark fields with a default as required in responses: they are always written."""
        is_written = self.mode == "serialization" and field["type"] != "typed-dict-field"
        return is_written or super().field_is_required(field, total)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002, pydantic's signature
        return False


class SchemaRegistry:
    """The schemas of all types of an API, generated together so that their names are unique."""

    def __init__(self, types: Iterable[tuple[Any, JsonSchemaMode]]) -> None:
        # By identity: types need not be hashable, and different types may look the same.
        inputs = {
            (id(kind), mode): (id(kind), mode, TypeAdapter[Any](kind)) for kind, mode in types
        }
        self._schemas, definitions = TypeAdapter.json_schemas(
            inputs.values(), ref_template=_REF_TEMPLATE, schema_generator=_JsonSchema
        )
        self.components: Schema = definitions.get("$defs", {})

    def schema(self, kind: Any, mode: JsonSchemaMode) -> Schema:
        """Return the schema of a type, by reference if it is a component."""
        # A copy, since callers add to it.
        return dict(self._schemas[id(kind), mode])


def parameters(model: type[BaseModel]) -> list[Schema]:
    """Describe the parameters of a query string."""
    schema = model.model_json_schema(schema_generator=_JsonSchema)
    required = schema.get("required", ())
    return [
        _query_parameter(name, property_schema, is_required=name in required)
        for name, property_schema in schema["properties"].items()
    ]


def _query_parameter(name: str, schema: Schema, *, is_required: bool) -> Schema:
    parameter = {
        "name": name,
        "in": "query",
        "required": is_required,
        "description": schema.pop("description", ""),
        "schema": without_null(schema),
    }
    if schema.get("type") != "array":
        return parameter | {"allowEmptyValue": not is_required}
    # A list is one parameter, with commas between its items; duplicates are allowed.
    schema.pop("uniqueItems", None)
    return parameter | {"style": "form", "explode": False}


def without_null(schema: Schema) -> Schema:
    """Describe an optional parameter when it is present: then it is not null."""
    alternatives = [alternative for alternative in schema.pop("anyOf", []) if alternative != _NULL]
    if len(alternatives) == 1:
        schema |= alternatives[0]
    elif alternatives:
        schema["anyOf"] = alternatives
    if schema.get("default", ...) is None:
        del schema["default"]
    return schema


class _OpenApiBuilder:
    """Describes routes one by one, and collects the components that they share."""

    def __init__(self, security_schemes: Sequence[Schema], groups: Sequence[RouteGroup]) -> None:
        self._security_schemes = security_schemes
        self._groups = groups
        endpoints = [route.endpoint for group in groups for route in group.routes]
        types = [type_ for endpoint in endpoints for type_ in _types(endpoint)]
        self._schemas = SchemaRegistry([(Problem, "serialization"), *types])
        problem = self._schemas.schema(Problem, "serialization")
        self._problem_content = {MEDIA_TYPE: {"schema": problem}}
        self._errors: Schema = {}
        self._operation_ids: set[str] = set()

    def paths(self) -> dict[str, Schema]:
        paths: dict[str, Schema] = {}
        for group in self._groups:
            for route in group.routes:
                operation = self._operation(route, group.tag)
                paths.setdefault(route.path_format, {})[route.method.lower()] = operation
        return paths

    def components(self) -> Schema:
        return {
            "schemas": self._schemas.components,
            "responses": self._errors,
            "headers": {
                name: {"description": description, "schema": schema}
                for name, (description, schema) in HEADERS.items()
            },
            "securitySchemes": {
                name: scheme for way in self._security_schemes for name, scheme in way.items()
            },
        }

    def _operation(self, route: Route, tag: str) -> Schema:
        endpoint = route.endpoint
        scopes = endpoint.required_scopes
        operation: Schema = {
            "operationId": self._operation_id(route),
            "tags": [tag],
            "summary": summary(route),
            "description": _description(route),
            "security": [
                {name: list(scopes) for name in way} for way in self._security_schemes if scopes
            ],
            "parameters": [*self._parameters(endpoint)],
            "responses": self._responses(endpoint, is_read=route.method == "GET"),
        }
        if scopes and route.method == "GET":
            operation["parameters"].append(_POSITION)
        if route.same_as:
            operation["deprecated"] = True
        if endpoint.body_type:
            operation["requestBody"] = {
                "required": not endpoint.is_body_optional,
                "content": self._content(endpoint.body_type, "validation"),
            }
        return operation

    def _operation_id(self, route: Route) -> str:
        """Return the name of the handler, and of its path if another path has the same handler."""
        name = route.handler.__name__
        if name in self._operation_ids:
            name = "_".join([name, "at", *re.findall(r"\w+", route.path_format)])
        self._operation_ids.add(name)
        return name

    def _parameters(self, endpoint: Endpoint) -> Iterator[Schema]:
        for name, kind in endpoint.path_params.items():
            schema = self._schemas.schema(kind, "validation")
            yield {"name": name, "in": "path", "required": True, "schema": schema}
        if endpoint.query_model:
            yield from parameters(endpoint.query_model)
        if endpoint.has_body_options:
            yield from parameters(BodyOptions)
        if endpoint.key_type:
            schema = self._schemas.schema(endpoint.key_type, "validation")
            yield {
                "name": "Idempotency-Key",
                "in": "header",
                "description": schema.pop("description"),
                "schema": without_null(schema),
            }
        if "ETag" in annotations_of(endpoint.response_type):
            yield {
                "name": "If-None-Match",
                "in": "header",
                "description": "The `ETag` of a response that you have: 304 if it is current.",
                "schema": TEXT,
            }

    def _content(self, annotation: Any, mode: JsonSchemaMode) -> Schema:
        return {
            media: {"schema": self._schemas.schema(kind, mode)}
            for media, kind in media_types(annotation).items()
        }

    def _responses(self, endpoint: Endpoint, *, is_read: bool) -> Schema:
        annotations = annotations_of(endpoint.response_type)
        names = [item for item in annotations if isinstance(item, str)]
        if endpoint.key_type:
            names.append("Idempotent-Replayed")
        if endpoint.has_body_options:
            names.append("X-Warnings")
        if endpoint.required_scopes:
            names.append("X-LLMRing-Replica-Lag" if is_read else "X-LLMRing-Position")
        headers = _header_refs([*names, "X-Request-ID"])
        content = self._content(endpoint.response_type, "serialization")
        responses = {"200": {"description": "Success.", "headers": headers, "content": content}}
        if "ETag" in annotations:
            responses["304"] = {"description": "Not modified.", "headers": headers}
        for error in _errors(endpoint):
            responses[str(error.status)] = self._error(error)
        return responses

    def _error(self, error: type[RingError]) -> Schema:
        names = ["X-Request-ID"]
        if error.retry_after or error is RateLimited:
            names.append("Retry-After")
        self._errors[error.__name__] = {
            "description": error.detail,
            "headers": _header_refs(names),
            "content": self._problem_content,
        }
        return {"$ref": f"#/components/responses/{error.__name__}"}


def _types(endpoint: Endpoint) -> Iterator[tuple[Any, JsonSchemaMode]]:
    """List all types of an endpoint that have a schema."""
    for kind in endpoint.path_params.values():
        yield kind, "validation"
    if endpoint.key_type:
        yield endpoint.key_type, "validation"
    if endpoint.body_type:
        for kind in media_types(endpoint.body_type).values():
            yield kind, "validation"
    for kind in media_types(endpoint.response_type).values():
        yield kind, "serialization"


def summary(route: Route) -> str:
    """Return the docstring of a handler, on one line."""
    return " ".join((getdoc(route.handler) or "").split())


def _description(route: Route) -> str:
    paragraphs = [_access(route.scopes)]
    if route.same_as:
        paragraphs.insert(0, f"Same as `{route.same_as}`.")
    if route.endpoint.query_model:
        paragraphs.append(f"Query: {getdoc(route.endpoint.query_model)}")
    return "\n\n".join(paragraphs)


def _access(scopes: Sequence[str]) -> str:
    if not scopes:
        return "Public: no authentication."
    names = " and ".join(f"`{scope}`" for scope in scopes)
    return f"Requires the {'scope' if len(scopes) == 1 else 'scopes'} {names}."


def _header_refs(names: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _errors(endpoint: Endpoint) -> list[type[RingError]]:
    """List the errors that an endpoint may respond with, by what it reads."""
    has_input = endpoint.query_model or endpoint.body_type or endpoint.known_params_only
    possible: dict[type[RingError], Any] = {
        BadRequest: True,
        Unauthenticated: endpoint.required_scopes,
        Forbidden: endpoint.required_scopes,
        NotFound: endpoint.path_params,
        Conflict: False,
        QuotaExceeded: False,
        RequestInProgress: endpoint.key_type,
        BodyTooLarge: endpoint.body_type,
        UriTooLong: endpoint.query_model or endpoint.path_params,
        UnsupportedMediaType: endpoint.body_type,
        InvalidRequest: has_input,
        RateLimited: endpoint.required_scopes,
        Unavailable: True,
    }
    annotated = [item for item in annotations_of(endpoint.response_type) if isinstance(item, type)]
    return [error for error, applies in possible.items() if applies or error in annotated]
