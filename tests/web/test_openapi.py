"""OpenAPI document: complete, true to what is served, and stable in its public names."""

import asyncio
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr, create_model

from llmring_server import NewCall, Ring, Server
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES
from llmring_server.routes import API, API_GROUPS, META, META_GROUPS
from llmring_server.web.openapi import SchemaRegistry, openapi_document
from tests.conftest import CALL
from tests.support.isolation import mcp_of
from tests.support.signing import SEED

HERE = Path(__file__).parent
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


@cache
def document(auth: str = "keys") -> dict[str, Any]:
    described: dict[str, Any] = orjson.loads(openapi_document(API_GROUPS + META_GROUPS, auth, ""))
    return described


async def test_the_document_is_public_and_names_its_server(client: httpx.AsyncClient) -> None:
    response = await client.get("/openapi.json", headers={"X-API-Key": ""})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    [server] = response.json()["servers"]
    assert server["url"] == (client.base_url.path.rstrip("/") or "/")
    assert response.json() | {"servers": []} == document() | {"servers": []}


async def test_openapi_describes_what_is_read(client: httpx.AsyncClient) -> None:
    described = document()["components"]["schemas"]["NewCall"]
    assert described["required"] == ["provider", "model"]
    # `usage` or another name may stand for a total.
    assert described["allOf"] == [
        {"anyOf": [{"required": [name]} for name in ("usage", f"{kind}_tokens", other)]}
        for kind, other in (("input", "prompt_tokens"), ("output", "completion_tokens"))
    ]
    cost, _null = described["properties"]["cost"]["anyOf"]
    # The bounds are for numbers, the pattern for text.
    pattern = r"^[0-9]{1,9}(\.[0-9]{1,20})?$"
    types = ["number", "string"]
    bounds = {"minimum": 0, "exclusiveMaximum": 10**9}
    assert cost == {"type": types, "pattern": pattern, **bounds}
    for amount, status in ((0, 200), (10**9, 422), (999_999_999.99, 200), ("1", 200), ("-1", 422)):
        response = await client.post("/api/v1/log", json=CALL | {"cost": amount})
        assert response.status_code == status


def test_money_is_a_number_except_in_statistics() -> None:
    schemas = document()["components"]["schemas"]
    for name, kind in (
        ("LoggedCall", "number"),
        ("Call", "number"),
        ("CostLine", "number"),
        ("LabelTotals", "string"),
        ("StatsPeriod", "string"),
        ("OriginTotals", "number"),
    ):
        properties = schemas[name]["properties"]
        assert properties.get("cost", properties.get("amount"))["type"] == kind


@pytest.mark.parametrize(
    ("auth", "ways"),
    [
        ("keys", [{"X-API-Key"}, {"Bearer"}]),
        ("open", [{"X-API-Key"}, {"Bearer"}]),
        ("proxy", [{"X-User-ID", "X-Project-ID", "X-Proxy-Signature"}]),
        ("parent", []),
    ],
)
def test_each_mode_has_its_security_schemes(auth: str, ways: list[set[str]]) -> None:
    described = document(auth)
    assert [{*each} for each in described["paths"]["/api/v1/stats"]["get"]["security"]] == ways
    schemes = described["components"]["securitySchemes"]
    assert schemes.keys() == {name for way in ways for name in way}


def test_an_optional_body_is_described_as_such() -> None:
    paths = document()["paths"]
    required = [
        paths[f"/api/v1/aliases/{name}"]["post"]["requestBody"]["required"]
        for name in ("bind", "bulk_upsert")
    ]
    assert required == [True, False]
    assert "/api/v1/aliases/{alias}" in paths


def configured(config: Path, variables: dict[str, str]) -> Path:
    """Write a configuration with these values, since its dictionaries cannot read variables."""
    text = (HERE / config.name).read_text()
    for name, value in variables.items():
        if name != "LLMRING_TEST_KEY":
            text = text.replace(f"${{{name}}}", value)
    config.write_text(text)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("examples", [10, pytest.param(50, marks=pytest.mark.full)])
async def test_schemathesis_finds_nothing(alone: Ring, tmp_path: Path, examples: int) -> None:
    key = await alone.keys.issue("tests", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY)
    conversation = str((await alone.conversations.create(key.project_id)).id)
    changes: dict[str, Any] = {"auth": "keys", "failed_auth_limit": 0, "acquire_timeout": 30}
    changes["receipts_private_key_b64"] = SecretStr(SEED)
    changes["sealing_keys"] = (SecretStr("a" * 64),)
    call = await alone.usage.log(key.project_id, NewCall(**CALL))
    variables = {
        "LLMRING_TEST_KEY": key.secret,
        "LLMRING_TEST_CONVERSATION": conversation,
        "LLMRING_TEST_CALL": str(call.log_id),
    }
    for kind, id in (await mcp_of(alone, key.project_id)).items():
        variables[f"LLMRING_TEST_{kind.upper()}"] = str(id)
    deleted = await mcp_of(alone, key.project_id)
    variables["LLMRING_TEST_DELETED_SERVER"] = str(deleted["servers"])
    reviewed = (await mcp_of(alone, key.project_id))["tools"]
    tool = await alone.mcp.capabilities.get(key.project_id, "tool", reviewed)
    variables["LLMRING_TEST_REVIEWED_TOOL"] = str(reviewed)
    variables["LLMRING_TEST_DEFINITION"] = str(tool.definition_sha256)
    config = configured(tmp_path / "schemathesis.toml", variables)
    environment = os.environ | variables | {"PYTHONPATH": str(HERE.parents[1])}
    async with (
        Ring.open(alone.settings.model_copy(update=changes)) as served,
        Server(served, port=0) as server,
    ):
        process = await asyncio.create_subprocess_exec(
            SCHEMATHESIS, f"--config-file={config}", "run",
            f"{server.url}/openapi.json", "--checks=all", "--no-color",
            f"--max-examples={examples}",
            cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    # The key is still valid at the end.
    assert await Ring(alone.db).keys.caller(key.secret)


def test_operation_ids_are_names_of_handlers() -> None:
    paths = document()["paths"]
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len({*ids}) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", id) for id in ids)
    assert paths["/api/v1/log"]["post"]["operationId"] == "log_call"
    assert paths["/api/v1/conversations"]["get"]["operationId"] == "list_conversations"
    # A second path of a handler.
    assert paths["/conversations"]["get"]["operationId"] == "list_conversations_at_conversations"


def test_every_parameter_of_a_query_or_header_is_described() -> None:
    undescribed = {
        (path, parameter["name"])
        for path, operations in document()["paths"].items()
        for operation in operations.values()
        for parameter in operation["parameters"]
        if parameter["in"] != "path" and not parameter["description"]
    }
    assert undescribed == set()


def test_paths_for_older_clients_are_deprecated() -> None:
    paths = document()["paths"]
    deprecated = {
        path: operation["description"].partition("\n")[0]
        for path, operations in paths.items()
        for operation in operations.values()
        if operation.get("deprecated")
    }
    assert deprecated == {
        "/redoc": "Same as `/docs`.",
        "/registry.json": "Same as `/registry`.",
        "/conversations": "Same as `/api/v1/conversations`.",
        "/conversations/{id}": "Same as `/api/v1/conversations/{id}`.",
        "/api/v1/receipts/public-key.pem": "Same as `/receipts/public-key.pem`.",
    }
    assert all(route.same_as in paths for route in API + META if route.same_as)


def test_an_operation_names_all_scopes_that_it_needs() -> None:
    operation = document()["paths"]["/api/v1/receipts/issue"]["post"]
    assert operation["security"] == [
        {"X-API-Key": ["log:write", "read"]},
        {"Bearer": ["log:write", "read"]},
    ]
    assert operation["description"] == "Requires the scopes `log:write` and `read`."


def test_classes_that_share_a_name_are_separate_components() -> None:
    first = create_model("Page", __module__="llmring_server.mcp.models", size=(int, ...))
    second = create_model("Page", __module__="llmring_server.templates.models", text=(str, ...))
    other = create_model("Other", __module__="llmring_server.mcp.models", page=(first, ...))
    types: list[Any] = [list[second], other]
    schemas = SchemaRegistry([(each, "serialization") for each in types])
    assert schemas.components.keys() == {"McpPage", "TemplatesPage", "Other"}
    reference = {"$ref": "#/components/schemas/McpPage"}
    assert schemas.components["Other"]["properties"]["page"] == reference
    assert schemas.schema(types[0], "serialization") == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/TemplatesPage"},
    }


# Public: clients are generated from these names. Change them only deliberately.
COMPONENTS = {
    "About",
    "Acknowledgement",
    "AddedMcpTool",
    "AddedMessage",
    "AliasBinding",
    "AliasUpdate",
    "ApiKey",
    "BatchResponse",
    "BindAlias",
    "BindAliases",
    "BodyMemoryStats",
    "BoundAliases",
    "Call",
    "CapabilityNames",
    "CapabilityRefresh",
    "CapabilityRefreshResult",
    "CommitQueueStats",
    "ConsideredSource",
    "Conversation",
    "ConversationWithMessages",
    "CostExplanation",
    "CostLine",
    "DatabaseWarning",
    "DeletedAlias",
    "DeletedConversation",
    "DeletedMcpServer",
    "DeletedMessages",
    "DeletedTemplate",
    "EarlierProviderFile",
    "EmbeddedPostgresStats",
    "Exchange",
    "ExchangeMessage",
    "ExchangeMetadata",
    "ExchangeResponse",
    "ExportedCall",
    "Health",
    "InclusionProof",
    "IssueRequest",
    "IssuedBatchReceipt",
    "IssuedKeyResponse",
    "Jwk",
    "Jwks",
    "JwksKey",
    "KeyRotation",
    "LabelTotals",
    "Liveness",
    "LoggedBatchCall",
    "LoggedCall",
    "LoggedExchange",
    "LongReadStats",
    "Manifest",
    "ManifestEntry",
    "McpPrompt",
    "McpPromptOfServer",
    "McpResource",
    "McpResourceOfServer",
    "McpServer",
    "McpServerRef",
    "McpServerSecret",
    "McpServerUpdate",
    "McpTool",
    "MessageBatch",
    "MessageResponse",
    "ModelCatalog",
    "ModelInfo",
    "ModuleStats",
    "NewCall",
    "NewContent",
    "NewConversation",
    "NewKey",
    "NewMcpServer",
    "NewMessage",
    "NewTemplate",
    "NewTool",
    "NewToolExecution",
    "OfferedPrompt",
    "OfferedResource",
    "OfferedTool",
    "OriginTotals",
    "PoolStats",
    "PriceDetail",
    "PriceList",
    "Problem",
    "PromptArguments",
    "PromptContent",
    "PublicKey",
    "PublicKeyCompat",
    "PublicKeyDocument",
    "Readiness",
    "Receipt",
    "ReceiptBatchSummary",
    "ReceiptCall",
    "ReceiptCallPage",
    "ReceiptCalls",
    "ReceiptEnvelope",
    "ReceiptGroupTotals",
    "ReceiptList",
    "ReceiptPreview",
    "ReceiptRequest",
    "ReceiptToStore",
    "RecordedToolExecution",
    "RegistrationRequest",
    "RegistrationResponse",
    "RegistryProvider",
    "RegistryProviderFile",
    "RejectedBatchCall",
    "RenderRequest",
    "RenderedPrompt",
    "RenderedTemplate",
    "RequestWarning",
    "ResolvedAlias",
    "ResourceContent",
    "RevokedKey",
    "SecretPresence",
    "ServerStats",
    "Signature",
    "SlotStats",
    "StatsPeriod",
    "StatsSummary",
    "StoredReceiptResponse",
    "Template",
    "TemplateUpdate",
    "TemplateUsage",
    "TemplateVersion",
    "ToolExecution",
    "ToolStats",
    "UsageStats",
    "VerificationResult",
}

TAGS = [
    "usage",
    "pricing",
    "registry",
    "conversations",
    "templates",
    "aliases",
    "receipts",
    "mcp",
    "access",
    "about",
    "health",
]

ERRORS = {
    "BadRequest",
    "BodyTooLarge",
    "UriTooLong",
    "Conflict",
    "Forbidden",
    "InvalidRequest",
    "NotFound",
    "QuotaExceeded",
    "RateLimited",
    "RequestInProgress",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedMediaType",
}

CODES = [
    "bad_request",
    "body_too_large",
    "cannot_listen",
    "conflict",
    "database_access_denied",
    "decryption_failed",
    "forbidden",
    "headers_too_large",
    "http_version_not_supported",
    "idempotency_key_reused",
    "internal_error",
    "invalid_settings",
    "invalid_template",
    "listen_not_permitted",
    "lock_timeout",
    "method_not_allowed",
    "missing_arguments",
    "missing_privilege",
    "missing_variables",
    "not_found",
    "not_migrated",
    "overloaded",
    "port_in_use",
    "postgres_not_found",
    "postgres_start_failed",
    "quota_exceeded",
    "rate_limited",
    "receipts_not_configured",
    "registry_stale",
    "request_in_progress",
    "request_timeout",
    "result_too_long",
    "secrets_not_configured",
    "signing_key_error",
    "unauthenticated",
    "unavailable",
    "unsafe_database",
    "unsupported_media_type",
    "uri_too_long",
    "validation_error",
]


def test_the_names_of_components() -> None:
    names = {*document()["components"]["schemas"]}
    added, removed = sorted(names - COMPONENTS), sorted(COMPONENTS - names)
    assert names == COMPONENTS, f"added: {added}; removed: {removed}"


def test_the_tags() -> None:
    described = document()
    assert [tag["name"] for tag in described["tags"]] == TAGS
    assert all(tag["description"] for tag in described["tags"])
    operations = [each for path in described["paths"].values() for each in path.values()]
    assert all(operation["tags"][0] in TAGS for operation in operations)


def test_the_errors_and_their_codes() -> None:
    components = document()["components"]
    assert components["responses"].keys() == ERRORS
    problem = components["schemas"]["Problem"]["properties"]["code"]
    assert sorted(problem["examples"]) == CODES
    # A list of examples, so that a new code breaks no client.
    assert (problem["type"], "enum" in problem) == ("string", False)
