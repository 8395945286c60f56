"""What the published client sends, word for word: every request has an answer."""

from decimal import Decimal
from pathlib import Path

import httpx

from llmring_server import Ring
from llmring_server.tenant import Tenant

# A line a request, as it was recorded; U is an id of whatever its path names.
RECORDED = Path(__file__).with_name("traffic.txt").read_text().splitlines()


async def thing(client: httpx.AsyncClient, line: str) -> str:
    """Make what a line names by U, and return its id."""
    assert "/conversations/U" in line or "/log" in line, "make its like here"
    return str((await client.post("/api/v1/conversations", json={})).json()["id"])


async def test_every_recorded_request_succeeds(
    client: httpx.AsyncClient, key: str, ring: Ring, tenant: Tenant
) -> None:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for line in RECORDED:
        method, target, *body = line.split(maxsplit=2)
        id = await thing(client, line) if "U" in target or '"U"' in line else ""
        content = body[0].replace('"U"', f'"{id}"') if body else None
        answer = await client.request(
            method, target.replace("/U", f"/{id}"), content=content, headers=headers
        )
        assert answer.status_code == 200, (line, answer.text)
    summary = (await ring.usage.stats(tenant)).summary
    # Three by /log, and the decorator's, which no other request tells of.
    assert (summary.total_requests, summary.unpriced_requests) == (4, 1)
    assert summary.total_cost == Decimal("0.1") + 2 * Decimal("0.0000475")
