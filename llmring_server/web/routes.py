"""Every URL we answer, on one screen."""

from collections.abc import Awaitable, Sequence

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmring_server.caller import Scope as Needed
from llmring_server.web import (
    aliases,
    batch,
    conversations,
    export,
    keys,
    mcp_capabilities,
    mcp_executions,
    mcp_servers,
    meta,
    openapi,
    prices,
    receipts,
    registration,
    registry,
    signers,
    templates,
    usage,
)
from llmring_server.web.body import KIB
from llmring_server.web.endpoint import Endpoint, Handler

SMALL, MEDIUM, CHAT, LARGE = 256 * KIB, 2 * 1024 * KIB, 8 * 1024 * KIB, 16 * 1024 * KIB


class Only(Route):
    """A route whose path, unless it has parameters, is no other's: `log` is not an id."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        # `Exact` has found those with the right method.
        alone = match is Match.PARTIAL and not self.param_convertors
        return Match.FULL if alone else match, child


def get(path: str, handler: Handler, needs: Needed | None = "read") -> Route:
    return Only(path, Endpoint(handler, needs, 0), methods=["GET"])


def public(path: str, handler: Handler) -> Route:
    return get(path, handler, None)


def post(path: str, handler: Handler, needs: Needed | None, cap: int = SMALL) -> Route:
    return Only(path, Endpoint(handler, needs, cap), methods=["POST"])


def patch(path: str, handler: Handler, needs: Needed, cap: int = SMALL) -> Route:
    return Only(path, Endpoint(handler, needs, cap), methods=["PATCH"])


def put(path: str, handler: Handler, needs: Needed, cap: int = SMALL) -> Route:
    return Route(path, Endpoint(handler, needs, cap), methods=["PUT"])


def delete(path: str, handler: Handler, needs: Needed) -> Route:
    return Only(path, Endpoint(handler, needs, 0), methods=["DELETE"])


META = [
    public("/", meta.root),
    public("/health", meta.health),
    public("/health/live", meta.live),
    public("/health/ready", meta.ready),
    public("/openapi.json", openapi.openapi),
]

API = [
    post("/api/v1/log", usage.log, "log:write"),
    post("/api/v1/logs/batch", batch.log_many, "log:write", LARGE),
    get("/api/v1/logs", usage.logs),
    get("/api/v1/logs/export", export.export),
    get("/api/v1/logs/{id}/cost", prices.explain),
    get("/api/v1/stats", usage.stats),
    get("/api/v1/prices", prices.prices),
    get("/conversations", conversations.list_conversations, "conversations"),
    get("/conversations/{id}", conversations.get, "conversations"),
    get("/api/v1/conversations", conversations.list_conversations, "conversations"),
    post("/api/v1/conversations", conversations.create, "conversations", CHAT),
    post("/api/v1/conversations/log", conversations.log, "conversations", CHAT),
    delete("/api/v1/conversations/old-messages", conversations.forget, "admin"),
    get("/api/v1/conversations/{id}", conversations.get, "conversations"),
    patch("/api/v1/conversations/{id}", conversations.update, "conversations", CHAT),
    delete("/api/v1/conversations/{id}", conversations.delete, "conversations"),
    get("/api/v1/conversations/{id}/messages", conversations.messages, "conversations"),
    post("/api/v1/conversations/{id}/messages", conversations.add, "conversations", CHAT),
    post(
        "/api/v1/conversations/{id}/messages/batch",
        conversations.add_batch,
        "conversations",
        CHAT,
    ),
    post("/api/v1/cli/register", registration.register, None),
    get("/api/v1/keys", keys.list_keys, "admin"),
    post("/api/v1/keys", keys.issue_key, "admin"),
    get("/api/v1/keys/{id}", keys.get_key, "admin"),
    delete("/api/v1/keys/{id}", keys.revoke_key, "admin"),
    post("/api/v1/keys/{id}/rotate", keys.rotate_key, "admin"),
    get("/api/v1/templates", templates.list_templates, "conversations"),
    post("/api/v1/templates", templates.create_template, "conversations", MEDIUM),
    get("/api/v1/templates/stats", templates.template_stats, "conversations"),
    get("/api/v1/templates/{id}", templates.get_template, "conversations"),
    put("/api/v1/templates/{id}", templates.change_template, "conversations", MEDIUM),
    patch("/api/v1/templates/{id}", templates.amend_template, "conversations", MEDIUM),
    delete("/api/v1/templates/{id}", templates.delete_template, "conversations"),
    post("/api/v1/templates/{id}/use", templates.use_template, "conversations", 0),
    post("/api/v1/templates/{id}/render", templates.render_template, "conversations"),
    get("/api/v1/templates/{id}/versions", templates.list_versions, "conversations"),
    get("/api/v1/templates/{id}/versions/{version}", templates.get_version, "conversations"),
    get("/api/v1/aliases", aliases.list_aliases),
    post("/api/v1/aliases/bind", aliases.bind_alias, "conversations"),
    post("/api/v1/aliases/bulk_upsert", aliases.bind_aliases, "conversations"),
    get("/api/v1/aliases/resolve", aliases.resolve_alias),
    get("/api/v1/aliases/{alias:path}", aliases.get_alias),
    put("/api/v1/aliases/{alias:path}", aliases.rebind_alias, "conversations"),
    delete("/api/v1/aliases/{alias:path}", aliases.delete_alias, "conversations"),
    get("/api/v1/receipts", receipts.list_receipts),
    post("/api/v1/receipts", receipts.store_receipt, "log:write"),
    public("/api/v1/receipts/public-key.pem", signers.old_key_pem),
    public("/api/v1/receipts/public-keys.json", signers.old_public_keys),
    post("/api/v1/receipts/verify", receipts.verify_receipt, None),
    post("/api/v1/receipts/issue", receipts.issue_receipt, "log:write"),
    post("/api/v1/receipts/generate", receipts.generate_receipt, "log:write", MEDIUM),
    post("/api/v1/receipts/preview", receipts.preview_receipt, "read", MEDIUM),
    get("/api/v1/receipts/uncertified", receipts.uncertified),
    get("/api/v1/receipts/{id}", receipts.get_receipt),
    get("/api/v1/receipts/{id}/logs", receipts.receipt_logs),
    get("/api/v1/receipts/{id}/export", export.export_receipt),
    get("/api/v1/receipts/{id}/proof/{log_id}", receipts.receipt_proof),
    public("/receipts/public-key.pem", signers.key_pem),
    public("/receipts/public-key.jwk", signers.key_jwk),
    public("/receipts/public-keys.json", signers.public_keys),
    public("/.well-known/jwks.json", signers.jwks),
    get("/api/v1/mcp/servers", mcp_servers.list_servers, "mcp"),
    post("/api/v1/mcp/servers", mcp_servers.register_server, "mcp"),
    get("/api/v1/mcp/servers/{id}", mcp_servers.get_server, "mcp"),
    put("/api/v1/mcp/servers/{id}", mcp_servers.change_server, "mcp"),
    patch("/api/v1/mcp/servers/{id}", mcp_servers.amend_server, "mcp"),
    delete("/api/v1/mcp/servers/{id}", mcp_servers.delete_server, "mcp"),
    get("/api/v1/mcp/servers/{id}/secret", mcp_servers.get_secret, "mcp:secrets"),
    post("/api/v1/mcp/servers/{id}/refresh", mcp_servers.refresh_server, "mcp", MEDIUM),
    get("/api/v1/mcp/tools", mcp_capabilities.list_tools, "mcp"),
    post("/api/v1/mcp/tools", mcp_capabilities.add_tool, "mcp"),
    get("/api/v1/mcp/tools/{id}", mcp_capabilities.get_tool, "mcp"),
    post("/api/v1/mcp/tools/{id}/acknowledge", mcp_capabilities.acknowledge_tool, "mcp"),
    post("/api/v1/mcp/tools/{id}/execute", mcp_executions.record_execution, "mcp", MEDIUM),
    get("/api/v1/mcp/tools/{id}/history", mcp_executions.list_executions, "mcp"),
    get("/api/v1/mcp/tools/{id}/stats", mcp_executions.tool_stats, "mcp"),
    get("/api/v1/mcp/resources", mcp_capabilities.list_resources, "mcp"),
    get("/api/v1/mcp/resources/{id}", mcp_capabilities.get_resource, "mcp"),
    get("/api/v1/mcp/resources/{id}/content", mcp_capabilities.get_resource_content, "mcp"),
    put(
        "/api/v1/mcp/resources/{id}/content", mcp_capabilities.keep_resource_content, "mcp", MEDIUM
    ),
    get("/api/v1/mcp/prompts", mcp_capabilities.list_prompts, "mcp"),
    get("/api/v1/mcp/prompts/{id}", mcp_capabilities.get_prompt, "mcp"),
    get("/api/v1/mcp/prompts/{id}/content", mcp_capabilities.get_prompt_content, "mcp"),
    put("/api/v1/mcp/prompts/{id}/content", mcp_capabilities.keep_prompt_content, "mcp", MEDIUM),
    post("/api/v1/mcp/prompts/{id}/render", mcp_capabilities.render_prompt, "mcp"),
    public("/registry", registry.listing),
    public("/registry.json", registry.listing),
    public("/registry/manifest.json", registry.manifest),
    public("/registry/v/{id}/registry.json", registry.edition),
    public("/registry/{provider}/models.json", registry.models),
    public("/registry/{provider}/v/{version}/models.json", registry.version),
]


class Exact:
    """Looks up a path without parameters, in place of trying one route after another.

    The last of 50 routes costs as much as the rest of a request; a look-up costs nothing. What it
    does not find, it leaves to the router.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self.app = app
        self._exact = {
            (method, route.path): route
            for route in routes
            if not route.param_convertors
            for method in route.methods or ()
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if route := self._exact.get((scope["method"], path)):
                scope["route"] = route
                return route.app(scope, receive, send)
        return self.app(scope, receive, send)
