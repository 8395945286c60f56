"""What an MCP request's body names must be one's own, too."""

import orjson

from llmring_server import Ring
from tests.support.isolation import Intruder, Victim, intruder, victim
from tests.support.mcp import make_tool_of

__all__ = ["intruder", "victim"]


async def test_nothing_is_offered_or_done_under_another_s_id(
    intruder: Intruder, victim: Victim, ring: Ring
) -> None:
    """A body may name what a path does not."""
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
        answer = await intruder.send("POST", f"/api/v1/mcp{path}", orjson.dumps(body))
        assert answer.status_code == 404
    found = await intruder.send("GET", f"/api/v1/mcp/tools?server_id={victim.mcp['servers']}")
    assert found.json() == []
    assert await ring.mcp.executions.history(intruder.key.project_id, mine) == []
    assert await victim.everything(ring) == before
