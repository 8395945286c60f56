"""Where MCP servers may be: by default anywhere, since nobody calls them from here."""

from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest
from llmring_server.mcp.servers import NewServer, ServerChange
from llmring_server.mcp.urls import is_public
from tests.mcp.test_servers import ROOT, SENT, SERVER, made

PUBLIC = ["https://example.org/mcp", "wss://a.b.example.com", "http://93.184.215.14:8080/"]
PUBLIC += ["http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/", "https://münchen.example"]
PUBLIC += ["http://[64:ff9b::5db8:d70e]", "http://[::ffff:93.184.215.14]", "http://192.0.1.1"]
PRIVATE = [
    "http://169.254.169.254/", "http://10.0.0.1", "http://127.0.0.2", "http://2130706433",
    "http://0x7f000001", "http://127.1", "http://0177.0.0.1", "http://[::ffff:127.0.0.1]",
    "http://[::]", "http://[::1]:80", "http://localhost", "http://localhost.", "http://a.localhost",
    "http://100.64.0.1", "http://[64:ff9b::7f00:1]", "http://[2002:7f00:1::]", "http://[fe80::1]",
    "http://127.0.0.1.nip.io", "http://10-0-0-1.sslip.io", "http://intern", "http://db.internal",
    "http://\uff11\uff12\uff17.0.0.1", "http://%31%32%37.0.0.1", "http://224.0.0.1",
    "http://[::127.0.0.1]/", "http://[::7f00:1]", "http://[fec0::1]", "http://[::ffff:0:127.0.0.1]",
    "http://[64:ff9b:1::7f00:1]", "http://192.0.0.8", "http://[::ffff:192.0.0.8]",
    "http://localhost.localdomain", "http://foo.test",
    "stdio://python -m x", "stdio://example.org/x",
]  # fmt: skip
BROKEN = [
    "file:///etc/passwd", "javascript:alert(1)", "gopher://host", "http://user:secret@host/",
    "http://user@host", "http://host\n", "http://", "http:///path", "http://host:99999", "http://[::",
    "host", "", "stdio://", "stdio:// ", "http://" + "h" * 994,
]  # fmt: skip


@pytest.mark.parametrize("place", [*PUBLIC, *PRIVATE[:-2]])
async def test_register_server_takes_any_url_since_nobody_calls_it(place: str, ring: Ring) -> None:
    new = NewServer(name="n", url=place, transport_type="stdio")
    assert (await ring.mcp.servers.register(ProjectId(uuid4()), new)).url == place


@pytest.mark.parametrize("place", BROKEN)
async def test_register_server_refuses_what_is_no_url(
    place: str, client: httpx.AsyncClient
) -> None:
    path = await made(client)
    for answer in (
        await client.post(ROOT, json=SENT | {"url": place}),
        await client.patch(path, json={"url": place}),
        await client.put(path, json={"url": place}),
    ):
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("url: ")
        assert "secret" not in answer.text
    assert (await client.get(path)).json()["url"] == SENT["url"]


@pytest.mark.parametrize("place", PUBLIC)
def test_what_is_public(place: str) -> None:
    assert is_public(place)


@pytest.mark.parametrize("place", PRIVATE)
async def test_a_policy_keeps_to_the_public(place: str, db: AsyncDatabaseManager) -> None:
    servers = Ring(db, Settings(mcp_urls="public")).mcp.servers
    project_id = ProjectId(uuid4())
    with pytest.raises(InvalidRequest, match="public host"):
        await servers.register(project_id, NewServer(name="n", url=place, transport_type="http"))
    found = await servers.register(project_id, SERVER.model_copy(update={"url": PUBLIC[0]}))
    with pytest.raises(InvalidRequest, match="public host"):
        await servers.change(project_id, found.id, ServerChange(url=place))
    assert [each.url for each in await servers.list(project_id)] == [PUBLIC[0]]
