"""Numbers of more than 64 bits: refused wherever JSON of any shape is taken."""

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from tests.support.conversations import EXCHANGE
from tests.support.isolation import CANARY, mcp_of

NUMBERS = "-9223372036854775809", "18446744073709551616", "-1e999", "1e400"
HOLE = "HOLE"
FIELDS = {
    "/api/v1/log": {
        "provider": "p", "model": "m", "input_tokens": 1, "output_tokens": 1,
        "metadata": {"n": HOLE},
    },
    "/api/v1/conversations/log": EXCHANGE | {"messages": [{"role": "user", "content": [HOLE]}]},
    "/api/v1/conversations/{conversation}/messages": {"role": "user", "tool_results": [HOLE]},
    "/api/v1/templates": {"name": "n", "created_by": "c", "tool_config": {"n": HOLE}},
    "/api/v1/templates/{template}/render": {"variables": {"n": HOLE}},
    "/api/v1/aliases/bind": {"alias": "a", "model": "p:m", "metadata": {"n": HOLE}},
    "/api/v1/mcp/servers/{servers}/refresh": {"tools": [{"name": "t", "inputSchema": {"n": HOLE}}]},
    "/api/v1/mcp/tools/{tools}/execute": {"input": {"n": HOLE}},
    "/api/v1/mcp/prompts/{prompts}/render": {"n": HOLE},
}  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("path", FIELDS)
async def test_a_number_that_nobody_can_write_is_refused(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId, path: str, number: str
) -> None:
    made = {
        "conversation": (await client.post("/api/v1/conversations", json={})).json()["id"],
        "template": (
            await client.post("/api/v1/templates", json={"name": CANARY, "created_by": "me"})
        ).json()["id"],
        **await mcp_of(ring, project_id),
    }
    body = httpx.Request("POST", "http://x", json=FIELDS[path]).content.decode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": "key"}
    content = body.replace(f'"{HOLE}"', number)
    answer = await client.post(path.format(**made), content=content, headers=headers)
    assert answer.status_code in {400, 422}, answer.text
    assert number not in answer.text
