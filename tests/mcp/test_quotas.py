"""Quotas of an MCP server: how many capabilities it may offer, and of which size together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Settings, build
from tests.support.mcp import (
    MCP,
    SERVER,
    Json,
    json_bytes,
    list_capabilities,
    refresh,
    register,
)

KINDS = ("tools", "resources", "prompts")
MAX_BYTES = 10_000
# One of each kind, with every member that counts.
TOOL = {"name": "t", "description": "Does", "inputSchema": {"type": "object"}, "title": "T"}
RESOURCE = {"uri": "r", "name": 'n"', "description": "x\n", "mimeType": "text/plain", "size": 7}
PROMPT = {"name": "\x01 ü", "arguments": [{"name": "who"}], "icons": []}
BYTES = (
    json_bytes("t", "Does", {"type": "object"}, {"title": "T"})
    + json_bytes("r", 'n"', "x\n", "text/plain", None, {"size": 7})
    + json_bytes("\x01 ü", None, [{"name": "who"}], {"icons": []})
)


@asynccontextmanager
async def client_of(
    db: AsyncDatabaseManager, key: str, **settings: int
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with these settings."""
    app = build(db, Settings.model_validate({"auth": "open", **settings}))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"X-API-Key": key}
    ) as client:
        yield client


@pytest.fixture
async def client(db: AsyncDatabaseManager, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with the default quotas."""
    async with client_of(db, key) as client:
        yield client


@pytest.fixture
async def limited(db: AsyncDatabaseManager, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app whose quotas are small."""
    limits = {"max_mcp_capabilities": 3, "max_mcp_definition_bytes": MAX_BYTES}
    async with client_of(db, key, **limits) as client:
        yield client


def offered(kind: str, count: int, **members: Any) -> list[Json]:
    name = "uri" if kind == "resources" else "name"
    return [{name: f"n{number:04}", **members} for number in range(count)]


async def state_of(client: httpx.AsyncClient, path: str) -> list[Any]:
    """Return all that is stored of a server."""
    query = f"?server_id={path.rpartition('/')[2]}"
    lists = [await list_capabilities(client, kind, query) for kind in KINDS]
    return [(await client.get(path)).json(), *lists]


async def check_refused(client: httpx.AsyncClient, path: str, says: str, **body: Any) -> None:
    """Check that a refresh exceeds a quota and changes nothing."""
    before = await state_of(client, path)
    response = await client.post(f"{path}/refresh", json=body)
    assert (response.status_code, response.json()["code"]) == (409, "quota_exceeded")
    assert says in response.json()["detail"]
    assert await state_of(client, path) == before


async def check_that_one_more_is_accepted(
    client: httpx.AsyncClient, path: str, **fields: Any
) -> None:
    """Add four tools at once, and check that exactly one of them is accepted."""
    new = fields | {"server_id": path.rpartition("/")[2]}
    requests = [client.post(f"{MCP}/tools", json=new | {"name": f"new {n}"}) for n in range(4)]
    responses = await asyncio.gather(*requests)
    assert sorted(response.status_code for response in responses) == [200, 409, 409, 409]
    codes = {response.json().get("code") for response in responses}
    assert codes == {None, "quota_exceeded"}
    count = len(await list_capabilities(client, "tools", f"?server_id={new['server_id']}"))
    assert (await client.get(path)).json()["capabilities"]["tools"] == count


# Number.


@pytest.mark.parametrize("member", [*KINDS, "resourceTemplates", "resource_templates"])
async def test_no_server_offers_more_than_a_thousand_of_a_kind(
    client: httpx.AsyncClient, member: str
) -> None:
    path = await register(client)
    kind = "resources" if "resource" in member else member
    await refresh(client, path, **{kind: offered(kind, 1)})
    says = f"at most 1,000 {kind}, and this one would offer 1,001"
    await check_refused(client, path, says, **{member: offered(kind, 1001)})
    # What is in the list does not matter: it is refused before it is validated.
    await check_refused(client, path, says, **{member: [None] * 1001})


async def test_resources_and_their_templates_count_together(client: httpx.AsyncClient) -> None:
    path = await register(client)
    templates = offered("resources", 500)
    resources = [{"uri": f"file:///{number}"} for number in range(501)]
    await check_refused(client, path, "1,001", resources=resources, resourceTemplates=templates)
    await refresh(client, path, resources=resources[1:], resourceTemplates=templates)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lower_maximum_is_for_each_kind(limited: httpx.AsyncClient, kind: str) -> None:
    path = await register(limited)
    await refresh(limited, path, **{each: offered(each, 3) for each in KINDS})
    more = {each: offered(each, 4 if each == kind else 3) for each in KINDS}
    await check_refused(limited, path, f"at most 3 {kind}, and this one would offer 4", **more)


async def test_tools_are_added_up_to_the_maximum(limited: httpx.AsyncClient) -> None:
    path = await register(limited)
    await refresh(limited, path, tools=offered("tools", 2), resources=offered("resources", 3))
    await check_that_one_more_is_accepted(limited, path)


async def test_capabilities_that_are_no_longer_offered_do_not_count(
    limited: httpx.AsyncClient,
) -> None:
    path = await register(limited)
    first = await refresh(limited, path, tools=offered("tools", 3))
    await refresh(limited, path, tools=[TOOL])
    await check_refused(limited, path, "at most 3 tools", tools=[TOOL, *offered("tools", 3)])
    again = await refresh(limited, path, tools=offered("tools", 3))
    assert again["tools"] == first["tools"]


# Bytes.


@pytest.mark.parametrize(
    "longer",
    [
        {"tools": [TOOL | {"name": "tt"}]},
        {"tools": [TOOL | {"description": "Does."}]},
        {"tools": [TOOL | {"inputSchema": {"type": "object "}}]},
        {"tools": [TOOL | {"title": "TT"}]},
        {"resources": [RESOURCE | {"uri": "rr"}]},
        {"resources": [RESOURCE | {"name": 'n""'}]},
        {"resources": [RESOURCE | {"mimeType": "text/plain;"}]},
        {"prompts": [PROMPT | {"name": "\x01\x01 ü"}]},
        {"prompts": [PROMPT | {"arguments": [{"name": "whom"}]}]},
    ],
    ids=lambda longer: str(*longer) + " " + str(len(str(longer))),
)
async def test_definitions_fit_together_to_the_byte(
    limited: httpx.AsyncClient, longer: dict[str, list[Json]]
) -> None:
    path = await register(limited)
    padding = json_bytes("p", "", {}, {})
    padded = {"name": "p", "description": "x" * (MAX_BYTES - BYTES - padding)}
    fitting: Json = {"tools": [TOOL, padded], "resources": [RESOURCE], "prompts": [PROMPT]}
    await refresh(limited, path, **fitting)
    larger = fitting | longer
    larger["tools"] = [*larger["tools"][:1], padded]
    await check_refused(limited, path, "at most 9 KiB of JSON together", **larger)


async def test_tools_are_added_up_to_the_bytes(limited: httpx.AsyncClient) -> None:
    path = await register(limited)
    await refresh(limited, path, prompts=[{"name": "p", "description": "x" * 5000}])
    await check_that_one_more_is_accepted(limited, path, description="x" * 3000)


async def test_contents_do_not_count(limited: httpx.AsyncClient) -> None:
    path = await register(limited)
    result = await refresh(limited, path, resources=[RESOURCE | {"content": "x" * MAX_BYTES}])
    url = f"{MCP}/resources/{result['resources'][0]['id']}/content"
    response = await limited.put(url, json={"content": "x" * 2 * MAX_BYTES})
    assert response.status_code == 200


# Servers that offered more before there was a quota.


async def test_a_server_beyond_its_quotas_stays_as_it_is(
    client: httpx.AsyncClient, limited: httpx.AsyncClient
) -> None:
    path = await register(client)
    large = offered("tools", 6, description="x" * 5000)
    before = (await refresh(client, path, tools=large))["tools"]
    query = f"?server_id={path.rpartition('/')[2]}"
    # A client sends back what it read.
    listed = await list_capabilities(limited, "tools", query)
    assert listed == before
    assert (await refresh(limited, path, tools=listed))["tools"] == before
    # Neither their number nor their bytes may grow.
    await check_refused(limited, path, "at most 3 tools", tools=[*large, {"name": "x"}])
    longer = [*large[:5], {"name": "n0005", "description": "x" * 5001}]
    await check_refused(limited, path, "at most 9 KiB", tools=longer)
    await check_refused(limited, path, "at most 9 KiB", tools=large, prompts=[PROMPT])
    new = {"server_id": path.rpartition("/")[2], "name": "x"}
    response = await limited.post(f"{MCP}/tools", json=new)
    assert (response.status_code, response.json()["code"]) == (409, "quota_exceeded")
    # They may shrink, but not grow again.
    fewer = await refresh(limited, path, tools=large[:5])
    assert fewer["tools"] == before[:5]
    await check_refused(limited, path, "at most 3 tools", tools=large)
    # What else is stored of it is changed as before.
    assert (await limited.put(path, json={"name": "other"})).status_code == 200


# The largest server.


async def test_the_lists_of_the_largest_server_fit_in_eight_mebibytes(
    client: httpx.AsyncClient,
) -> None:
    url = "stdio://" + "\U0001f600" * 3 + '"' * 989
    assert (len(url), json_bytes(url)) == (1000, 2000)
    path = await register(client, name="\x01" * 255, url=url)
    names = ["\x01" * 251 + f"{number:04}" for number in range(1000)]
    fixed = 1000 * (json_bytes(names[0], "", {}, {}) + 6)
    description = "x" * ((4 * 1024**2 - fixed) // 1000)
    tools = [{"name": name, "description": description} for name in names]
    await refresh(client, path, tools=tools)
    query = f"?server_id={path.rpartition('/')[2]}"
    response = await client.get(f"{MCP}/tools{query}")
    assert len(response.json()) == 1000
    assert 7 * 1024**2 < len(response.content) <= 8 * 1024**2
    # What was read may be sent back, with all that a response has.
    result = await refresh(client, path, tools=response.json())
    assert result["tools"] == response.json()
    assert not any(result[change]["tools"] for change in ("added", "changed", "removed"))


async def test_the_url_of_a_server_is_bounded_in_bytes(client: httpx.AsyncClient) -> None:
    for url, status in (
        ("stdio://" + "x" * 992, 200),
        ("http://h/" + "\U0001f600" * 497, 200),
        ("http://h/" + "\U0001f600" * 498, 422),
        ("stdio://" + "\U0001f600" * 4 + '"' * 988, 422),
    ):
        response = await client.post(f"{MCP}/servers", json=SERVER | {"url": url})
        assert response.status_code == status
    assert response.json()["detail"] == "url: must be at most 2,000 bytes of JSON"
