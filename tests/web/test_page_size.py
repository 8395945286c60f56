"""Page sizes: a page of large items is bounded in bytes, and `Link` leads to the next one."""

from typing import Any

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.mcp import ExecutionPage, NewToolExecution
from tests.support.mcp import SERVER, make_tool_of

API = "/api/v1"
# Every module with a list of items that can be large.
MODULES = (
    "aliases.service",
    "conversations.service",
    "mcp.capabilities",
    "mcp.executions",
    "mcp.servers",
    "templates.service",
)
PAGE_BYTES = 50_000
COUNT = 6
# 20,000 bytes in UTF-8.
LARGE = "\N{GRINNING FACE}" * 5000
# 6 bytes each, as JSON.
CONTROLS = "\x01" * 3500


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in MODULES:
        monkeypatch.setattr(f"llmring_server.{module}.MAX_PAGE_BYTES", PAGE_BYTES)


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    response = await client.post(f"{API}{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def pages(client: httpx.AsyncClient, path: str, query: str = "") -> list[list[Any]]:
    """Return all pages of a list, without the empty one at its end."""
    found: list[list[Any]] = []
    url = f"{API}{path}{query}"
    while True:
        response = await client.get(url)
        assert response.status_code == 200, response.text
        if not response.json():
            return found
        assert len(response.content) < PAGE_BYTES + 25_000
        found.append(response.json())
        url = f"{API}{path}{response.links['next']['url']}"


def check(found: list[list[Any]], name: str, expected: list[Any]) -> None:
    assert [len(page) for page in found] == [3, 3]
    assert [each[name] for page in found for each in page] == expected


@pytest.mark.parametrize("text", [LARGE, CONTROLS])
@pytest.mark.parametrize("query", ["", "?q=tea"])
async def test_pages_of_conversations_are_bounded(
    query: str, text: str, client: httpx.AsyncClient
) -> None:
    fields = {"title": "tea", "system_prompt": text}
    ids = [(await post(client, "/conversations", **fields))["id"] for _ in range(COUNT)]
    check(await pages(client, "/conversations", query), "id", ids[::-1])


async def test_pages_of_templates_are_bounded(client: httpx.AsyncClient) -> None:
    fields = {"name": "a", "created_by": "large", "description": CONTROLS[1:]}
    ids = [(await post(client, "/templates", **fields))["id"] for _ in range(COUNT)]
    check(await pages(client, "/templates", "?created_by=large"), "id", ids[::-1])


async def test_pages_of_versions_are_bounded(client: httpx.AsyncClient) -> None:
    path = f"/templates/{(await post(client, '/templates', name='a', created_by='b'))['id']}"
    for _ in range(COUNT - 1):
        await client.put(f"{API}{path}", json={"system_prompt": LARGE})
    found = await pages(client, f"{path}/versions")
    assert [[each["version"] for each in page] for page in found] == [[6, 5, 4], [3, 2, 1]]
    cursor = {"cursor": "x"}
    assert (await client.get(f"{API}{path}/versions", params=cursor)).status_code == 422


@pytest.mark.parametrize("query", ["", "?profile=default"])
async def test_pages_of_aliases_are_bounded(query: str, client: httpx.AsyncClient) -> None:
    names = [f"{n}{LARGE[:63]}" for n in range(COUNT)]
    for name in names:
        fields = {"alias": name, "model": "a:b", "metadata": {"a": LARGE}}
        await post(client, "/aliases/bind", **fields)
    check(await pages(client, "/aliases", query), "alias", names)


async def test_pages_of_aliases_continue_across_profiles(
    client: httpx.AsyncClient,
) -> None:
    for profile in "abc":
        await post(client, "/aliases/bind", alias="a", model="a:b", profile=profile)
    found = await pages(client, "/aliases", "?limit=1")
    assert [page[0]["profile"] for page in found] == ["a", "b", "c"]


async def test_pages_of_servers_are_bounded(client: httpx.AsyncClient) -> None:
    fields = SERVER | {"capabilities": {"a": LARGE}}
    ids = [(await post(client, "/mcp/servers", **fields))["id"] for _ in range(COUNT)]
    check(await pages(client, "/mcp/servers"), "id", ids[::-1])


@pytest.mark.parametrize("large", [{"description": LARGE}, {"inputSchema": {"a": LARGE}}])
async def test_pages_of_tools_are_bounded(large: dict[str, Any], client: httpx.AsyncClient) -> None:
    server = (await post(client, "/mcp/servers", **SERVER))["id"]
    names = [f"t{n}" for n in range(COUNT)]
    tools = [{"name": name} | large for name in names]
    await post(client, f"/mcp/servers/{server}/refresh", tools=tools)
    check(await pages(client, "/mcp/tools", f"?server_id={server}&limit=9"), "name", names)


@pytest.mark.parametrize("large", [{"output": {"a": LARGE}}, {"error": LARGE}, {"error": CONTROLS}])
async def test_pages_of_executions_are_bounded(
    large: dict[str, Any], ring: Ring, project_id: ProjectId
) -> None:
    tool, history = await make_tool_of(ring, project_id), ring.mcp.executions.history
    for _ in range(COUNT):
        await ring.mcp.executions.record(project_id, tool, NewToolExecution(input={}, **large))
    first = await history(project_id, tool)
    assert len(first) == 3
    page = ExecutionPage()
    next_page = ExecutionPage(cursor=page.next(project_id, first[-1]))
    assert len(await history(project_id, tool, next_page)) == 3


async def test_a_system_prompt_is_bounded(client: httpx.AsyncClient) -> None:
    path = f"{API}/conversations"
    id = (await post(client, "/conversations", system_prompt="\U0001f600" * 200_000))["id"]
    for response in (
        await client.post(path, json={"system_prompt": "x" * 200_001}),
        await client.patch(f"{path}/{id}", json={"system_prompt": "x" * 200_001}),
    ):
        assert response.status_code == 422
