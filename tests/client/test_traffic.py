"""Recorded requests of the published client: each of them succeeds."""

import re
from decimal import Decimal
from pathlib import Path

import httpx

from llmring_server import Ring
from llmring_server.core.identity import ProjectId

# One recorded request per line; U stands for an id of the object that the path names.
RECORDED = Path(__file__).with_name("traffic.txt").read_text().splitlines()


async def thing(client: httpx.AsyncClient, line: str) -> str:
    """Create the object that U stands for in a line, and return its id."""
    if found := re.search("/mcp/(servers|tools|resources|prompts)", line):
        return await offered(client, found[1])
    assert "/conversations/U" in line or "/log" in line, "make its like here"
    return str((await client.post("/api/v1/conversations", json={})).json()["id"])


async def offered(client: httpx.AsyncClient, kind: str) -> str:
    """Register a server with a tool, a resource and a prompt; return the id of that kind."""
    server = {"name": "calc", "url": "stdio://calc", "transport_type": "stdio"}
    made = (await client.post("/api/v1/mcp/servers", json=server)).json()
    prompt = {"name": "p", "arguments": [{"name": "x"}]}
    offers = {"tools": [{"name": "t"}], "resources": [{"uri": "r"}], "prompts": [prompt]}
    response = await client.post(f"/api/v1/mcp/servers/{made['id']}/refresh", json=offers)
    found = response.json() | {"servers": [made]}
    return str(found[kind][0]["id"])


async def test_every_recorded_request_succeeds(
    client_of_each_kind: httpx.AsyncClient, key: str, ring: Ring, project_id: ProjectId
) -> None:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for line in RECORDED:
        method, target, *body = line.split(maxsplit=2)
        id = await thing(client_of_each_kind, line) if "U" in target or '"U"' in line else ""
        content = body[0].replace('"U"', f'"{id}"') if body else None
        response = await client_of_each_kind.request(
            method, re.sub(r"\bU\b", id, target), content=content, headers=headers
        )
        assert response.status_code == 200, (line, response.text)
    summary = (await ring.usage.stats(project_id)).summary
    # Three by /log, and the decorator's, which no other request reports.
    assert (summary.total_requests, summary.unpriced_requests) == (4, 1)
    assert summary.total_cost == Decimal("0.1") + 2 * Decimal("0.0000475")
