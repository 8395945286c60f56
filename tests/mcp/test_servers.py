"""MCP servers: register, list, update and delete them, and which URLs are accepted."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest
from llmring_server.mcp import McpServerUpdate, NewMcpServer
from llmring_server.mcp.urls import is_public
from tests.support.mcp import NEW_SERVER, SERVER, SERVERS, register

PUBLIC_URLS = [
    "https://example.org/mcp",
    "wss://a.b.example.com",
    "http://93.184.215.14:8080/",
    "http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
    "https://münchen.example",
    "http://[64:ff9b::5db8:d70e]",
    "http://[::ffff:93.184.215.14]",
    "http://192.0.1.1",
]
PRIVATE_URLS = [
    "http://169.254.169.254/",
    "http://10.0.0.1",
    "http://127.0.0.2",
    "http://2130706433",
    "http://0x7f000001",
    "http://127.1",
    "http://0177.0.0.1",
    "http://[::ffff:127.0.0.1]",
    "http://[::]",
    "http://[::1]:80",
    "http://localhost",
    "http://localhost.",
    "http://a.localhost",
    "http://100.64.0.1",
    "http://[64:ff9b::7f00:1]",
    "http://[2002:7f00:1::]",
    "http://[fe80::1]",
    "http://127.0.0.1.nip.io",
    "http://10-0-0-1.sslip.io",
    "http://intern",
    "http://db.internal",
    "http://\uff11\uff12\uff17.0.0.1",
    "http://%31%32%37.0.0.1",
    "http://224.0.0.1",
    "http://[::127.0.0.1]/",
    "http://[::7f00:1]",
    "http://[fec0::1]",
    "http://[::ffff:0:127.0.0.1]",
    "http://[64:ff9b:1::7f00:1]",
    "http://192.0.0.8",
    "http://[::ffff:192.0.0.8]",
    "http://localhost.localdomain",
    "http://foo.test",
]
STDIO_URLS = ["stdio://python -m x", "stdio://example.org/x"]
INVALID_URLS = [
    "file:///etc/passwd",
    "javascript:alert(1)",
    "gopher://host",
    "http://user:secret@host/",
    "http://user@host",
    "http://host\n",
    "http://",
    "http:///path",
    "http://host:99999",
    "http://[::",
    "host",
    "",
    "stdio://",
    "stdio:// ",
    "http://" + "h" * 994,
]


async def test_get_server(client: httpx.AsyncClient, project_id: ProjectId) -> None:
    path = await register(client, capabilities={}, project_id=str(uuid4()), is_active=False)
    server = (await client.get(path)).json()
    assert {name: server[name] for name in SERVER} == SERVER
    assert (server["project_id"], server["api_key_id"]) == (str(project_id), None)
    assert (server["is_active"], server["capabilities"], server["auth_config"]) == (True, {}, None)
    assert server["created_at"].endswith("Z")
    assert server["refreshed_at"] is None


@pytest.mark.parametrize(
    "invalid",
    [
        {"name": None},
        {"name": ""},
        {"name": "x" * 256},
        {"name": "a\0"},
        {"transport_type": "tcp"},
        {"capabilities": []},
        {"auth_config": "x"},
        {"capabilities": {"a": "x" * 66_000}},
        {"auth_config": {"a": "x" * 66_000}},
    ],
)
async def test_register_server_rejects_invalid_fields(
    invalid: dict[str, Any], client: httpx.AsyncClient
) -> None:
    response = await client.post(SERVERS, json=SERVER | invalid)
    assert response.status_code == 422
    assert (await client.get(SERVERS)).json() == []


async def test_list_servers_that_are_active_or_inactive_or_all(client: httpx.AsyncClient) -> None:
    paths = [await register(client, name=name) for name in ("a", "b", "c")]
    await client.put(paths[1], json={"is_active": False})
    for query, names in (
        ("", "ca"),
        ("?is_active=", "ca"),
        ("?is_active=true", "ca"),
        ("?is_active=false", "b"),
        ("?all=true", "cba"),
        (f"?is_active=false&project_id={uuid4()}", "b"),
    ):
        servers = (await client.get(SERVERS + query)).json()
        assert "".join(server["name"] for server in servers) == names, query


async def test_list_servers_in_pages(client: httpx.AsyncClient) -> None:
    for name in "abcde":
        await register(client, name=name)
    path, names = f"{SERVERS}?limit=2", ""
    while path:
        response = await client.get(path)
        names += "".join(server["name"] for server in response.json())
        link = response.links.get("next")
        path = f"{SERVERS}{link['url']}" if link else ""
    assert names == "edcba"
    for query in ("limit=0", "limit=1001", "cursor=x", "is_active=x"):
        assert (await client.get(f"{SERVERS}?{query}")).status_code == 422


async def test_update_server_ignores_null(client: httpx.AsyncClient) -> None:
    path = await register(client, capabilities={"a": 1})
    for response in (
        await client.put(path, json={"name": "other", "capabilities": None}),
        await client.put(path, json={}),
    ):
        assert response.json()["name"] == "other", response.text
        assert response.json()["capabilities"] == {"a": 1}
    assert (await client.put(path, json={"transport_type": "stdio"})).json()["name"] == "other"


async def test_patch_server_clears_with_null(client: httpx.AsyncClient) -> None:
    path = await register(client, capabilities={"a": 1})
    for body in ({}, {"name": None}):
        response = await client.patch(path, json=body)
        assert (response.status_code, response.json()["name"]) == (200, "calc")
        assert response.json()["capabilities"] == {"a": 1}
    cleared = (await client.patch(path, json={"capabilities": None, "url": "stdio://x"})).json()
    assert (cleared["capabilities"], cleared["url"]) == (None, "stdio://x")


async def test_delete_server(client: httpx.AsyncClient) -> None:
    path = await register(client)
    assert (await client.delete(path)).json() == {"message": "Server deleted successfully"}
    for response in (await client.get(path), await client.delete(path)):
        assert response.status_code == 404


@pytest.mark.parametrize("mcp_url", [*PUBLIC_URLS, *PRIVATE_URLS])
async def test_any_host_is_accepted_by_default(mcp_url: str, ring: Ring) -> None:
    new = NewMcpServer(name="n", url=mcp_url, transport_type="stdio")
    assert (await ring.mcp.servers.register(ProjectId(uuid4()), new)).url == mcp_url


@pytest.mark.parametrize("mcp_url", INVALID_URLS)
async def test_invalid_urls_are_rejected(mcp_url: str, client: httpx.AsyncClient) -> None:
    path = await register(client)
    for response in (
        await client.post(SERVERS, json=SERVER | {"url": mcp_url}),
        await client.patch(path, json={"url": mcp_url}),
        await client.put(path, json={"url": mcp_url}),
    ):
        assert response.status_code == 422
        assert response.json()["detail"].startswith("url: ")
        assert "secret" not in response.text
    assert (await client.get(path)).json()["url"] == SERVER["url"]


@pytest.mark.parametrize("mcp_url", PUBLIC_URLS)
def test_public_urls(mcp_url: str) -> None:
    assert is_public(mcp_url)


@pytest.mark.parametrize("mcp_url", [*PRIVATE_URLS, *STDIO_URLS])
async def test_only_public_urls_are_accepted_if_so_configured(
    mcp_url: str, db: AsyncDatabaseManager
) -> None:
    servers = Ring(db, Settings(mcp_urls="public")).mcp.servers
    project_id = ProjectId(uuid4())
    with pytest.raises(InvalidRequest, match="public host"):
        await servers.register(
            project_id, NewMcpServer(name="n", url=mcp_url, transport_type="http")
        )
    public = NEW_SERVER.model_copy(update={"url": PUBLIC_URLS[0]})
    server = await servers.register(project_id, public)
    with pytest.raises(InvalidRequest, match="public host"):
        await servers.update(project_id, server.id, McpServerUpdate(url=mcp_url))
    assert [each.url for each in await servers.list(project_id)] == [PUBLIC_URLS[0]]
