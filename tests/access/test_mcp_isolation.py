"""MCP isolation: ids in the body of a request must belong to the caller's project."""

import orjson

from llmring_server import Ring
from tests.support.isolation import Intruder, Victim, intruder, victim
from tests.support.mcp import make_tool_of

__all__ = ["intruder", "victim"]


async def test_bodies_cannot_use_ids_of_another_project(
    intruder: Intruder, victim: Victim, ring: Ring
) -> None:
    """The body can contain ids of servers, conversations and calls."""
    mine = await make_tool_of(ring, intruder.key.project_id)
    before = await victim.everything(ring)
    for path, body in (
        ("/tools", {"server_id": str(victim.mcp["servers"]), "name": "mine"}),
        (
            f"/tools/{mine}/execute",
            {"input": {}, "conversation_id": str(victim.conversation_id)},
        ),
        (f"/tools/{mine}/execute", {"input": {}, "log_id": str(victim.log_id)}),
    ):
        response = await intruder.send("POST", f"/api/v1/mcp{path}", orjson.dumps(body))
        assert response.status_code == 404
    found = await intruder.send("GET", f"/api/v1/mcp/tools?server_id={victim.mcp['servers']}")
    assert found.json() == []
    assert await ring.mcp.executions.history(intruder.key.project_id, mine) == []
    assert await victim.everything(ring) == before
