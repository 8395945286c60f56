"""A project with the largest items that the API stores, and the routes that list or export them."""

from pathlib import Path
from uuid import UUID

API = "/api/v1"
CONVERSATION, TOOL, SERVER, TEMPLATE = (
    UUID(text)
    for text in (
        "0f4a7e1e-0000-7000-8000-000000000001",
        "0f4a7e1e-0000-7000-8000-000000000002",
        "0f4a7e1f-0000-7000-8000-000000000001",
        "0f4a7e1f-0000-7000-8001-000000000001",
    )
)
RECEIPT = UUID("0193780a-0000-7000-8000-000000000001")

# Each with the largest number of items that it takes.
LISTS = {
    "logs": f"{API}/logs?limit=500",
    "receipts": f"{API}/receipts?limit=10000",
    "receipt logs": f"{API}/receipts/{RECEIPT}/logs?limit=1000",
    "uncertified": f"{API}/receipts/uncertified?limit=1000",
    "conversations": f"{API}/conversations?limit=500",
    "search": f"{API}/conversations?limit=500&q=tea",
    "messages": f"{API}/conversations/{CONVERSATION}/messages?limit=1000",
    "newest messages": f"{API}/conversations/{CONVERSATION}/messages?limit=1000&order=desc",
    "conversation": f"{API}/conversations/{CONVERSATION}?message_limit=1000",
    "aliases": f"{API}/aliases?limit=1000",
    "executions": f"{API}/mcp/tools/{TOOL}/history?limit=1000",
    "servers": f"{API}/mcp/servers?limit=1000",
    "tools": f"{API}/mcp/tools?limit=1000",
    "tools of a server": f"{API}/mcp/tools?server_id={SERVER}&limit=1000",
    "templates": f"{API}/templates?limit=100",
    "template versions": f"{API}/templates/{TEMPLATE}/versions?limit=100",
}
EXPORTS = {
    "export, CSV": f"{API}/logs/export",
    "export, JSON lines": f"{API}/logs/export?format=jsonl",
    "receipt export": f"{API}/receipts/{RECEIPT}/export",
}


def seed_script(project_id: UUID, mcp_schema: str) -> str:
    """Return SQL statements that store such items; the search path names the other schema."""
    return (
        Path(__file__)
        .with_suffix(".sql")
        .read_text()
        .format(
            project=project_id,
            mcp=mcp_schema,
            conversation=CONVERSATION,
            tool=TOOL,
            server=SERVER,
            template=TEMPLATE,
        )
    )
