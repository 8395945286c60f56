"""A tool is pinned by its definition: one that changes asks to be looked at."""

from hashlib import sha256

import httpx
import orjson

from tests.mcp.test_capabilities import ADD, MCP, NOTHING, Found, offered, refreshed
from tests.mcp.test_servers import made


def pin(tool: Found) -> str:
    """Return what the pin of a tool must be, made by other means (RFC 8785 for what it holds)."""
    names = "description", "input_schema", "name"
    text = orjson.dumps({name: tool[name] for name in names}, option=orjson.OPT_SORT_KEYS)
    return sha256(text).hexdigest()


async def test_acknowledge_tool_ends_the_question_that_a_change_asks(
    client: httpx.AsyncClient,
) -> None:
    path = await made(client)
    [before] = (await refreshed(client, path, tools=[ADD]))["tools"]
    assert (before["definition_sha256"], before["definition_changed_at"]) == (pin(before), None)
    same = {**ADD, "inputSchema": dict(reversed(ADD["inputSchema"].items()))}  # type: ignore[attr-defined]
    assert (await refreshed(client, path, tools=[same]))["changed"] == NOTHING
    other = ADD | {"description": "Other"}
    [after] = (await refreshed(client, path, tools=[other]))["tools"]
    assert after["definition_sha256"] == pin(after) != pin(before)
    # It goes on asking.
    [again] = (await refreshed(client, path, tools=[other]))["tools"]
    assert again["definition_changed_at"] == after["definition_changed_at"] > after["created_at"]
    assert [each["id"] for each in await offered(client, "tools", "?changed=true")] == [after["id"]]
    url = f"{MCP}/tools/{after['id']}/acknowledge"
    stale = await client.post(url, json={"definition_sha256": pin(before)})
    assert (stale.status_code, (await offered(client, "tools", "?changed=true"))) == (409, [again])
    agreed = await client.post(url, json={"definition_sha256": pin(after)})
    assert (agreed.status_code, agreed.json()["definition_changed_at"]) == (200, None)
    assert await offered(client, "tools", "?changed=true") == []


async def test_what_was_changed_back_asks_nothing(client: httpx.AsyncClient) -> None:
    path = await made(client)
    for description, asks in (("a", False), ("b", True), ("c", True), ("a", False)):
        offers = {"tools": [ADD | {"description": description}]}
        [tool] = (await refreshed(client, path, **offers))["tools"]
        assert bool(tool["definition_changed_at"]) is asks
    # Nor does it help to go away for a while.
    await refreshed(client, path)
    [tool] = (await refreshed(client, path, tools=[ADD | {"description": "d"}]))["tools"]
    assert tool["definition_changed_at"]
