"""Route table: every URL with its method, handler, required scopes and body limit.

A route may need several scopes; PUBLIC routes need no authentication. Routes without a limit take
no body.
"""

from llmring_server.access import api as access
from llmring_server.aliases import api as aliases
from llmring_server.conversations import api as conversations
from llmring_server.mcp import api as mcp
from llmring_server.pricing import api as pricing
from llmring_server.receipts import api as receipts
from llmring_server.registry import api as registry
from llmring_server.templates import api as templates
from llmring_server.usage import api as usage
from llmring_server.web import about, api_page, health, openapi
from llmring_server.web.request_limits import KIB, MIB
from llmring_server.web.router import Route, RouteGroup

PUBLIC = None

USAGE = RouteGroup(
    "usage",
    "Log LLM calls; list, export and summarize them.",
    Route("POST", "/api/v1/log", usage.log_call, "log:write", 256 * KIB),
    Route("POST", "/api/v1/logs/batch", usage.log_calls, "log:write", 16 * MIB),
    Route("GET", "/api/v1/logs", usage.list_calls, "read"),
    Route("GET", "/api/v1/logs/export", usage.export_calls, "read"),
    Route("GET", "/api/v1/stats", usage.get_usage_stats, "read"),
)

PRICING = RouteGroup(
    "pricing",
    "What calls cost, and the prices that are used.",
    Route("GET", "/api/v1/logs/{id}/cost", pricing.explain_cost, "read"),
    Route("GET", "/api/v1/prices", pricing.list_prices, "read"),
)

REGISTRY = RouteGroup(
    "registry",
    "The model registry: limits, capabilities and prices of models, by version.",
    Route("GET", "/registry", registry.get_registry, PUBLIC),
    Route("GET", "/registry.json", registry.get_registry, PUBLIC, same_as="/registry"),
    Route("GET", "/registry/manifest.json", registry.get_manifest, PUBLIC),
    Route("GET", "/registry/v/{id}/registry.json", registry.get_registry_version, PUBLIC),
    Route("GET", "/registry/{provider}/models.json", registry.get_provider_models, PUBLIC),
    Route(
        "GET", "/registry/{provider}/v/{version}/models.json", registry.get_provider_version, PUBLIC
    ),
)

CONVERSATIONS = RouteGroup(
    "conversations",
    "Conversations, their messages, and logged exchanges with a model.",
    Route("GET", "/api/v1/conversations", conversations.list_conversations, "conversations"),
    Route(
        "POST", "/api/v1/conversations", conversations.create_conversation, "conversations", 8 * MIB
    ),
    Route(
        "POST",
        "/api/v1/conversations/log",
        conversations.log_exchange,
        "conversations",
        "max_messages_bytes",
    ),
    Route(
        "DELETE", "/api/v1/conversations/old-messages", conversations.delete_old_messages, "admin"
    ),
    Route("GET", "/api/v1/conversations/{id}", conversations.get_conversation, "conversations"),
    Route(
        "PATCH",
        "/api/v1/conversations/{id}",
        conversations.update_conversation,
        "conversations",
        8 * MIB,
    ),
    Route(
        "DELETE", "/api/v1/conversations/{id}", conversations.delete_conversation, "conversations"
    ),
    Route(
        "GET", "/api/v1/conversations/{id}/messages", conversations.list_messages, "conversations"
    ),
    Route(
        "POST",
        "/api/v1/conversations/{id}/messages",
        conversations.add_message,
        "conversations",
        "max_messages_bytes",
    ),
    Route(
        "POST",
        "/api/v1/conversations/{id}/messages/batch",
        conversations.add_messages,
        "conversations",
        "max_messages_bytes",
    ),
    Route(
        "GET",
        "/conversations",
        conversations.list_conversations,
        "conversations",
        same_as="/api/v1/conversations",
    ),
    Route(
        "GET",
        "/conversations/{id}",
        conversations.get_conversation,
        "conversations",
        same_as="/api/v1/conversations/{id}",
    ),
)

TEMPLATES = RouteGroup(
    "templates",
    "Versioned prompt templates.",
    Route("GET", "/api/v1/templates", templates.list_templates, "conversations"),
    Route("POST", "/api/v1/templates", templates.create_template, "conversations", 2 * MIB),
    Route("GET", "/api/v1/templates/stats", templates.get_template_stats, "conversations"),
    Route("GET", "/api/v1/templates/{id}", templates.get_template, "conversations"),
    Route("PUT", "/api/v1/templates/{id}", templates.update_template, "conversations", 2 * MIB),
    Route("PATCH", "/api/v1/templates/{id}", templates.patch_template, "conversations", 2 * MIB),
    Route("DELETE", "/api/v1/templates/{id}", templates.delete_template, "conversations"),
    Route("POST", "/api/v1/templates/{id}/use", templates.use_template, "conversations"),
    Route(
        "POST",
        "/api/v1/templates/{id}/render",
        templates.render_template,
        "conversations",
        256 * KIB,
    ),
    Route(
        "GET", "/api/v1/templates/{id}/versions", templates.list_template_versions, "conversations"
    ),
    Route(
        "GET",
        "/api/v1/templates/{id}/versions/{version}",
        templates.get_template_version,
        "conversations",
    ),
)

ALIASES = RouteGroup(
    "aliases",
    "Names for models, per profile.",
    Route("GET", "/api/v1/aliases", aliases.list_aliases, "read"),
    Route("POST", "/api/v1/aliases/bind", aliases.bind_alias, "conversations", 256 * KIB),
    Route("POST", "/api/v1/aliases/bulk_upsert", aliases.bind_aliases, "conversations", 256 * KIB),
    Route("GET", "/api/v1/aliases/resolve", aliases.resolve_alias, "read"),
    Route("GET", "/api/v1/aliases/{alias:path}", aliases.get_alias, "read"),
    Route("PUT", "/api/v1/aliases/{alias:path}", aliases.put_alias, "conversations", 256 * KIB),
    Route("DELETE", "/api/v1/aliases/{alias:path}", aliases.delete_alias, "conversations"),
)

RECEIPTS = RouteGroup(
    "receipts",
    "Signed receipts for calls, and the public keys that verify them.",
    Route("GET", "/api/v1/receipts", receipts.list_receipts, "read"),
    Route("POST", "/api/v1/receipts", receipts.import_receipt, "log:write", 256 * KIB),
    Route(
        "GET",
        "/api/v1/receipts/public-key.pem",
        receipts.get_public_key_pem_compat,
        PUBLIC,
        same_as="/receipts/public-key.pem",
    ),
    Route("GET", "/api/v1/receipts/public-keys.json", receipts.get_public_key_document, PUBLIC),
    Route("POST", "/api/v1/receipts/verify", receipts.verify_receipt, PUBLIC, 256 * KIB),
    Route(
        "POST", "/api/v1/receipts/issue", receipts.issue_receipt, ("log:write", "read"), 256 * KIB
    ),
    Route(
        "POST",
        "/api/v1/receipts/generate",
        receipts.generate_receipt,
        ("log:write", "read"),
        2 * MIB,
    ),
    Route("POST", "/api/v1/receipts/preview", receipts.preview_receipt, "read", 2 * MIB),
    Route("GET", "/api/v1/receipts/uncertified", receipts.list_uncertified_calls, "read"),
    Route("GET", "/api/v1/receipts/{id}", receipts.get_receipt, "read"),
    Route("GET", "/api/v1/receipts/{id}/logs", receipts.list_receipt_calls, "read"),
    Route("GET", "/api/v1/receipts/{id}/export", receipts.export_receipt, "read"),
    Route("GET", "/api/v1/receipts/{id}/proof/{log_id}", receipts.get_receipt_proof, "read"),
    Route("GET", "/receipts/public-key.pem", receipts.get_public_key_pem, PUBLIC),
    Route("GET", "/receipts/public-key.jwk", receipts.get_public_key_jwk, PUBLIC),
    Route("GET", "/receipts/public-keys.json", receipts.list_public_keys, PUBLIC),
    Route("GET", "/.well-known/jwks.json", receipts.get_jwks, PUBLIC),
)

MCP = RouteGroup(
    "mcp",
    "A catalog of MCP servers, their tools, resources and prompts, and tool executions.",
    Route("GET", "/api/v1/mcp/servers", mcp.list_mcp_servers, "mcp"),
    Route("POST", "/api/v1/mcp/servers", mcp.register_mcp_server, "mcp", 256 * KIB),
    Route("GET", "/api/v1/mcp/servers/{id}", mcp.get_mcp_server, "mcp"),
    Route("PUT", "/api/v1/mcp/servers/{id}", mcp.update_mcp_server, "mcp", 256 * KIB),
    Route("PATCH", "/api/v1/mcp/servers/{id}", mcp.patch_mcp_server, "mcp", 256 * KIB),
    Route("DELETE", "/api/v1/mcp/servers/{id}", mcp.delete_mcp_server, "mcp"),
    Route("GET", "/api/v1/mcp/servers/{id}/secret", mcp.get_mcp_server_secret, "mcp:secrets"),
    Route("POST", "/api/v1/mcp/servers/{id}/refresh", mcp.refresh_mcp_server, "mcp", 16 * MIB),
    Route("GET", "/api/v1/mcp/tools", mcp.list_tools, "mcp"),
    Route("POST", "/api/v1/mcp/tools", mcp.add_tool, "mcp", 256 * KIB),
    Route("GET", "/api/v1/mcp/tools/{id}", mcp.get_tool, "mcp"),
    Route("POST", "/api/v1/mcp/tools/{id}/acknowledge", mcp.acknowledge_tool, "mcp", 256 * KIB),
    Route("POST", "/api/v1/mcp/tools/{id}/execute", mcp.record_execution, "mcp", 2 * MIB),
    Route("GET", "/api/v1/mcp/tools/{id}/history", mcp.list_executions, "mcp"),
    Route("GET", "/api/v1/mcp/tools/{id}/stats", mcp.get_tool_stats, "mcp"),
    Route("GET", "/api/v1/mcp/resources", mcp.list_resources, "mcp"),
    Route("GET", "/api/v1/mcp/resources/{id}", mcp.get_resource, "mcp"),
    Route("GET", "/api/v1/mcp/resources/{id}/content", mcp.get_resource_content, "mcp"),
    Route("PUT", "/api/v1/mcp/resources/{id}/content", mcp.set_resource_content, "mcp", 2 * MIB),
    Route("GET", "/api/v1/mcp/prompts", mcp.list_prompts, "mcp"),
    Route("GET", "/api/v1/mcp/prompts/{id}", mcp.get_prompt, "mcp"),
    Route("GET", "/api/v1/mcp/prompts/{id}/content", mcp.get_prompt_content, "mcp"),
    Route("PUT", "/api/v1/mcp/prompts/{id}/content", mcp.set_prompt_content, "mcp", 2 * MIB),
    Route("POST", "/api/v1/mcp/prompts/{id}/render", mcp.render_prompt, "mcp", 256 * KIB),
)

ACCESS = RouteGroup(
    "access",
    "API keys of a project.",
    Route("POST", "/api/v1/cli/register", access.register_key, PUBLIC, 256 * KIB),
    Route("GET", "/api/v1/keys", access.list_keys, "admin"),
    Route("POST", "/api/v1/keys", access.issue_key, "admin", 256 * KIB),
    Route("GET", "/api/v1/keys/{id}", access.get_key, "admin"),
    Route("DELETE", "/api/v1/keys/{id}", access.revoke_key, "admin"),
    Route("POST", "/api/v1/keys/{id}/rotate", access.rotate_key, "admin", 256 * KIB),
)

ABOUT = RouteGroup(
    "about",
    "The server itself, and this description of its API.",
    Route("GET", "/", about.get_root, PUBLIC),
    Route("GET", "/docs", api_page.get_api_docs, PUBLIC),
    Route("GET", "/redoc", api_page.get_api_docs, PUBLIC, same_as="/docs"),
    Route("GET", "/openapi.json", openapi.get_openapi, PUBLIC),
)

HEALTH = RouteGroup(
    "health",
    "Whether the server runs and can serve requests.",
    Route("GET", "/health", health.get_health, PUBLIC),
    Route("GET", "/health/live", health.get_liveness, PUBLIC),
    Route("GET", "/health/ready", health.get_readiness, PUBLIC),
)

API_GROUPS = [USAGE, PRICING, REGISTRY, CONVERSATIONS, TEMPLATES, ALIASES, RECEIPTS, MCP, ACCESS]
# An application that mounts this one may answer these paths itself.
META_GROUPS = [ABOUT, HEALTH]

API = [route for group in API_GROUPS for route in group.routes]
META = [route for group in META_GROUPS for route in group.routes]
