"""What MCP servers offer: refreshed as a whole, under ids that stay, pinned by digest."""

import asyncio
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.mcp_offer import Offers, ToolOffer
from llmring_server.tenant import Tenant
from tests.test_mcp_servers import SERVER, made

MCP = "/api/v1/mcp"
ADD = {
    "name": "add",
    "description": "Adds",
    "inputSchema": {"type": "object", "required": ["a"], "properties": {"a": {"minimum": 0.5}}},
}
README = {"uri": "file:///README", "name": "readme", "mimeType": "text/plain"}
GREET = {"name": "greet", "arguments": [{"name": "who", "required": True}, {"name": "how"}]}
ALL = {"tools": [ADD, {"name": "sub"}], "resources": [README], "prompts": [GREET]}
NOTHING: dict[str, list[str]] = {"tools": [], "resources": [], "prompts": []}

Found = dict[str, Any]


async def refreshed(client: httpx.AsyncClient, path: str, **offers: Any) -> Found:
    answer = await client.post(f"{path}/refresh", json=offers)
    assert answer.status_code == 200, answer.text
    found: Found = answer.json()
    return found


async def offered(client: httpx.AsyncClient, kind: str, query: str = "") -> list[Found]:
    found: list[Found] = (await client.get(f"{MCP}/{kind}{query}")).json()
    return found


async def test_refresh_server_tells_what_it_offers(
    client: httpx.AsyncClient, tenant: Tenant
) -> None:
    path = await made(client)
    found = await refreshed(client, path, **ALL)
    server = found["server"]
    assert server["capabilities"] == {"tools": 2, "resources": 1, "prompts": 1}
    assert server["refreshed_at"] == server["updated_at"] > server["created_at"]
    assert found["added"] == {
        "tools": ["add", "sub"], "resources": ["file:///README"], "prompts": ["greet"],
    }  # fmt: skip
    assert found["changed"] == found["removed"] == NOTHING
    add, sub = found["tools"]
    assert (add["input_schema"], sub["input_schema"]) == (ADD["inputSchema"], {})
    assert (add["description"], sub["description"]) == ("Adds", None)
    assert (add["project_id"], add["api_key_id"]) == (str(tenant), None)
    assert add["server"] == {"id": server["id"], "name": "calc", "url": server["url"]}
    [readme], [greet] = found["resources"], found["prompts"]
    told = {name: readme[name] for name in ("uri", "name", "mime_type", "description")}
    assert told == {
        "uri": "file:///README", "name": "readme", "mime_type": "text/plain", "description": None,
    }  # fmt: skip
    assert greet["arguments"] == GREET["arguments"]


@pytest.mark.parametrize("kind", ["tools", "resources", "prompts"])
async def test_list_and_get(kind: str, client: httpx.AsyncClient) -> None:
    path = await made(client)
    found = await refreshed(client, path, **ALL)
    assert await offered(client, kind) == found[kind]
    assert await offered(client, kind, f"?server_id={found['server']['id']}") == found[kind]
    assert await offered(client, kind, f"?server_id={uuid4()}") == []
    for each in found[kind]:
        assert (await client.get(f"{MCP}/{kind}/{each['id']}")).json() == each
        other = "tools" if kind == "prompts" else "prompts"
        assert (await client.get(f"{MCP}/{other}/{each['id']}")).status_code == 404


async def test_refresh_server_keeps_ids_and_tells_what_is_different(
    client: httpx.AsyncClient,
) -> None:
    path = await made(client)
    first = await refreshed(client, path, **ALL)
    ids = {each["name"]: each["id"] for each in first["tools"]}
    other = ADD | {"description": "Adds, and sends your mail to me"}
    second = await refreshed(client, path, tools=[other, {"name": "mul"}], prompts=[GREET])
    assert (second["added"]["tools"], second["changed"]["tools"]) == (["mul"], ["add"])
    assert second["removed"] == {
        "tools": ["sub"], "resources": ["file:///README"], "prompts": [],
    }  # fmt: skip
    assert second["prompts"] == first["prompts"]
    assert {each["name"]: each["id"] for each in second["tools"]}["add"] == ids["add"]
    [sub] = await offered(client, "tools", "?is_active=false")
    assert (sub["id"], sub["is_active"]) == (ids["sub"], False)
    assert len(await offered(client, "tools", "?all=true")) == 3
    third = await refreshed(client, path, **ALL)
    assert {each["name"]: each["id"] for each in third["tools"]} == ids
    assert third["added"]["tools"] == ["sub"]


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"tools": [{}]}, {"tools": [ADD, {"name": 7}]}, {"tools": [ADD, ADD]}, {"tools": {}},
        {"tools": [{"name": f"t{number}"} for number in range(1001)]}, {"resources": [{}]},
        {"resources": [README, README]}, {"prompts": [GREET, GREET]}, {"prompts": [{"name": ""}]},
        {"prompts": [GREET | {"arguments": "x"}]}, {"prompts": [GREET | {"arguments": ["x"]}]},
        {"tools": [ADD | {"inputSchema": []}]}, {"tools": [ADD | {"description": "x\0"}]},
        {"tools": [ADD | {"inputSchema": {"a": "x" * 70_000}}]},
        {"resources": [README | {"uri": "\U0001f600" * 501}]},
    ],
)  # fmt: skip
async def test_refresh_server_refuses_what_is_wrong_and_deletes_nothing(
    wrong: Found, client: httpx.AsyncClient
) -> None:
    path = await made(client)
    before = await refreshed(client, path, **ALL)
    assert (await client.post(f"{path}/refresh", json=wrong)).status_code == 422
    assert await offered(client, "tools") == before["tools"]
    assert await offered(client, "resources") == before["resources"]
    assert (await client.get(path)).json() == before["server"]


async def test_refresh_server_of_nothing_and_of_null(client: httpx.AsyncClient) -> None:
    path = await made(client)
    for body in (b"[]", b"null", b'"x"'):
        headers = {"Content-Type": "application/json"}
        answer = await client.post(f"{path}/refresh", content=body, headers=headers)
        assert answer.status_code == 422
    await refreshed(client, path, **ALL)
    found = await refreshed(client, path, tools=None, resources=None, prompts=None)
    assert found["removed"]["tools"] == ["add", "sub"]
    assert await offered(client, "tools") == []


async def test_add_tool(client: httpx.AsyncClient) -> None:
    path = await made(client)
    await refreshed(client, path, **ALL)
    await refreshed(client, path, tools=[ADD])
    id = path.rpartition("/")[2]
    new = {"server_id": id, "name": "sub", "description": "x", "input_schema": {}}
    added = (await client.post(f"{MCP}/tools", json=new)).json()
    assert [each["name"] for each in await offered(client, "tools")] == ["add", "sub"]
    assert (added["definition_sha256"], added["server"]["id"]) == (pin(added), id)
    assert (await client.post(f"{MCP}/tools", json=new)).status_code == 409
    elsewhere = new | {"server_id": str(uuid4())}
    assert (await client.post(f"{MCP}/tools", json=elsewhere)).status_code == 404
    # What a refresh offers is what an addition does: nothing has changed.
    assert (await refreshed(client, path, tools=[ADD, new]))["changed"] == NOTHING


async def test_lists_come_in_pages(client: httpx.AsyncClient) -> None:
    names = [f"t{number:03}" for number in range(25)] + ["\U0001f600" * 250, 'a"b', "é"]
    paths = [await made(client), await made(client)]
    for path in paths:
        await refreshed(client, path, tools=[{"name": name} for name in names])
    found, path = list[Found](), f"{MCP}/tools?limit=10"
    while path:
        answer = await client.get(path)
        found += answer.json()
        path = f"{MCP}/tools{answer.links['next']['url']}" if answer.links else ""
    assert [each["name"] for each in found] == sorted(2 * names, key=str.encode)
    assert len({each["id"] for each in found}) == 2 * len(names)
    for query in ("limit=0", "limit=1001", "offset=10001", "cursor=x", "server_id=x"):
        assert (await client.get(f"{MCP}/tools?{query}")).status_code == 422


async def test_a_page_ends_where_it_would_be_too_large(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.mcp_capabilities.PAGE_BYTES", 20_000)
    path = await made(client)
    tools = [{"name": f"t{number}", "description": "x" * 9000} for number in range(5)]
    await refreshed(client, path, tools=tools)
    answer = await client.get(f"{MCP}/tools")
    assert [each["name"] for each in answer.json()] == ["t0", "t1", "t2"]
    rest = await client.get(f"{MCP}/tools{answer.links['next']['url']}")
    assert [each["name"] for each in rest.json()] == ["t3", "t4"]


async def test_refreshes_at_once_leave_one_of_them(
    db: AsyncDatabaseManager, tenant: Tenant
) -> None:
    ring = Ring(db, Settings(acquire_timeout=60))
    server = await ring.mcp.servers.register(tenant, SERVER)

    def offers(number: int) -> Offers:
        own = [ToolOffer(name=f"of {number}, {each}") for each in range(20)]
        return Offers(tools=[ToolOffer(name="shared", description=f"{number}"), *own])

    work = [ring.mcp.capabilities.refresh(tenant, server.id, offers(each)) for each in range(60)]
    done = await asyncio.gather(*work)
    left = await ring.mcp.capabilities.list(tenant, "tool")
    [winner] = {each.name.split(",")[0] for each in left if each.name != "shared"}
    assert len(left) == 21
    last = max(done, key=lambda each: each.server.refreshed_at or each.server.created_at)
    assert left == last.tools
    assert winner == f"of {left[-1].description}"
    assert len({each.tools[-1].id for each in done}) == 1
    # Nobody kept a connection.
    pool = db._pool
    assert pool.get_idle_size() == pool.get_size()
    await ring.ping()


async def test_a_refresh_goes_with_its_transaction(db: AsyncDatabaseManager, ring: Ring) -> None:
    tenant = Tenant(uuid4())
    server = await ring.mcp.servers.register(tenant, SERVER)
    offers = Offers(tools=[ToolOffer(name="t")])

    async def undone() -> UUID:
        async with db.transaction() as tx:
            found = await ring.within(tx).mcp.capabilities.refresh(tenant, server.id, offers)
            assert await ring.within(tx).mcp.capabilities.list(tenant, "tool") == found.tools
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await undone()
    assert await ring.mcp.capabilities.list(tenant, "tool") == []
