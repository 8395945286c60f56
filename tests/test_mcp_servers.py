"""MCP servers over HTTP, under both kinds of app: what is said of them, and what opens them."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.caller import USUAL
from llmring_server.errors import Invalid, Sealed
from llmring_server.keys import Wanted
from llmring_server.mcp_server import NewServer, ServerChange
from llmring_server.reach import is_public
from llmring_server.tenant import Tenant, of_key

ROOT = "/api/v1/mcp/servers"
URL = "http://localhost:8080/mcp"
SENT: dict[str, Any] = {"name": "calc", "url": URL, "transport_type": "http"}
SERVER = NewServer(**SENT)

PUBLIC = ["https://example.org/mcp", "wss://a.b.example.com", "http://93.184.215.14:8080/"]
PUBLIC += ["http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/", "https://münchen.example"]
PRIVATE = [
    "http://169.254.169.254/", "http://10.0.0.1", "http://127.0.0.2", "http://2130706433",
    "http://0x7f000001", "http://127.1", "http://0177.0.0.1", "http://[::ffff:127.0.0.1]",
    "http://[::]", "http://[::1]:80", "http://localhost", "http://localhost.", "http://a.localhost",
    "http://100.64.0.1", "http://[64:ff9b::7f00:1]", "http://[2002:7f00:1::]", "http://[fe80::1]",
    "http://127.0.0.1.nip.io", "http://10-0-0-1.sslip.io", "http://intern", "http://db.internal",
    "http://\uff11\uff12\uff17.0.0.1", "http://%31%32%37.0.0.1", "http://224.0.0.1",
    "stdio://python -m x",
]  # fmt: skip
BROKEN = [
    "file:///etc/passwd", "javascript:alert(1)", "gopher://host", "http://user:secret@host/",
    "http://user@host", "http://host\n", "http://", "http:///path", "http://host:99999", "http://[::",
    "host", "", "stdio://", "stdio:// ", "http://" + "h" * 994,
]  # fmt: skip


async def made(client: httpx.AsyncClient, **more: Any) -> str:
    """Register a server; return its path."""
    answer = await client.post(ROOT, json=SENT | more)
    assert answer.status_code == 200, answer.text
    return f"{ROOT}/{answer.json()['id']}"


async def test_register_server_and_get_server(client: httpx.AsyncClient, tenant: Tenant) -> None:
    path = await made(client, capabilities={}, project_id=str(uuid4()), is_active=False)
    found = (await client.get(path)).json()
    assert {name: found[name] for name in SENT} == SENT
    assert (found["project_id"], found["api_key_id"]) == (str(tenant), None)
    assert (found["is_active"], found["capabilities"], found["auth_config"]) == (True, {}, None)
    assert found["created_at"].endswith("Z")
    assert found["refreshed_at"] is None


@pytest.mark.parametrize("place", [*PUBLIC, *PRIVATE[:-2]])
async def test_register_server_takes_any_url_since_nobody_calls_it(place: str, ring: Ring) -> None:
    new = NewServer(name="n", url=place, transport_type="stdio")
    assert (await ring.mcp.servers.register(Tenant(uuid4()), new)).url == place


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None}, {"name": ""}, {"name": "x" * 256}, {"name": "a\0"},
        {"transport_type": "tcp"}, {"capabilities": []}, {"auth_config": "x"},
        {"capabilities": {"a": "x" * 66_000}},
        {"auth_config": {"a": "x" * 66_000}},
    ],
)  # fmt: skip
async def test_register_server_refuses_what_is_wrong(
    wrong: dict[str, Any], client: httpx.AsyncClient
) -> None:
    answer = await client.post(ROOT, json=SENT | wrong)
    assert answer.status_code == 422
    assert (await client.get(ROOT)).json() == []


@pytest.mark.parametrize("place", PUBLIC)
def test_what_is_public(place: str) -> None:
    assert is_public(place)


@pytest.mark.parametrize("place", PRIVATE)
async def test_a_policy_keeps_to_the_public(place: str, db: AsyncDatabaseManager) -> None:
    servers = Ring(db, Settings(mcp_urls="public")).mcp.servers
    tenant = Tenant(uuid4())
    with pytest.raises(Invalid, match="public host"):
        await servers.register(tenant, NewServer(name="n", url=place, transport_type="http"))
    found = await servers.register(tenant, SERVER.model_copy(update={"url": PUBLIC[0]}))
    with pytest.raises(Invalid, match="public host"):
        await servers.change(tenant, found.id, ServerChange(url=place))
    assert [each.url for each in await servers.list(tenant)] == [PUBLIC[0]]


async def test_list_servers_of_one_kind_or_all(client: httpx.AsyncClient) -> None:
    paths = [await made(client, name=name) for name in ("a", "b", "c")]
    await client.put(paths[1], json={"is_active": False})
    for query, names in (
        ("", "ca"), ("?is_active=", "ca"), ("?is_active=true", "ca"), ("?is_active=false", "b"),
        ("?all=true", "cba"), (f"?is_active=false&project_id={uuid4()}", "b"),
    ):  # fmt: skip
        found = (await client.get(ROOT + query)).json()
        assert "".join(each["name"] for each in found) == names, query


async def test_list_servers_in_pages(client: httpx.AsyncClient) -> None:
    for name in "abcde":
        await made(client, name=name)
    path, names = f"{ROOT}?limit=2", ""
    while path:
        answer = await client.get(path)
        names += "".join(each["name"] for each in answer.json())
        link = answer.links.get("next")
        path = f"{ROOT}{link['url']}" if link else ""
    assert names == "edcba"
    for query in ("limit=0", "limit=1001", "cursor=x", "is_active=x"):
        assert (await client.get(f"{ROOT}?{query}")).status_code == 422


async def test_change_server_ignores_null_and_amend_server_clears_with_it(
    client: httpx.AsyncClient,
) -> None:
    path = await made(client, capabilities={"a": 1})
    for answer in (
        await client.put(path, json={"name": "other", "capabilities": None}),
        await client.patch(path, json={}),
        await client.put(path, json={}),
        await client.patch(path, json={"name": None}),
    ):
        assert answer.json()["name"] == "other", answer.text
        assert answer.json()["capabilities"] == {"a": 1}
    cleared = (await client.patch(path, json={"capabilities": None, "url": "stdio://x"})).json()
    assert (cleared["capabilities"], cleared["url"]) == (None, "stdio://x")
    assert (await client.put(path, json={"transport_type": "stdio"})).json()["name"] == "other"


async def test_delete_server(client: httpx.AsyncClient) -> None:
    path = await made(client)
    assert (await client.delete(path)).json() == {"message": "Server deleted successfully"}
    for answer in (await client.get(path), await client.delete(path)):
        assert answer.status_code == 404


async def test_no_secret_is_kept_without_a_key(client: httpx.AsyncClient) -> None:
    path = await made(client, auth_config={})
    for answer in (
        await client.post(ROOT, json=SENT | {"auth_config": {"token": "canary"}}),
        await client.put(path, json={"auth_config": {"token": "canary"}}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "secrets_not_configured")
        assert "canary" not in answer.text
    assert (await client.get(f"{path}/secret")).json() == {"auth_config": None}


KEYS = [digit * 64 for digit in "abc"]


def with_keys(db: AsyncDatabaseManager, *keys: str) -> Ring:
    return Ring(db, Settings.model_validate({"auth": "open", "sealing_keys": keys}))


async def test_get_secret_needs_its_scope_and_is_audited(db: AsyncDatabaseManager) -> None:
    ring = with_keys(db, KEYS[0])
    project, secret = f"project {uuid4()}", {"type": "bearer", "token": f"canary {uuid4()}"}
    usual = await ring.keys.issue(project, Wanted(scopes=USUAL))
    reader = await ring.keys.issue(project, Wanted(scopes=["mcp:secrets"]))
    settings = ring.settings.model_copy(update={"auth": "keys"})
    transport = httpx.ASGITransport(app=build(db, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        client.headers["X-API-Key"] = usual.secret
        path = await made(client, auth_config=secret)
        for answer in (
            await client.get(path), await client.get(ROOT), await client.get("/api/v1/mcp/tools"),
            await client.put(path, json={"name": "b"}),
            await client.post(f"{path}/refresh", json={}),
        ):  # fmt: skip
            assert secret["token"] not in answer.text
        assert (await client.get(path)).json()["auth_config"] == {"configured": True}
        assert (await client.get(f"{path}/secret")).status_code == 403
        client.headers["X-API-Key"] = reader.secret
        answer = await client.get(f"{path}/secret")
    assert (answer.status_code, answer.json()) == (200, {"auth_config": secret})
    assert answer.headers["Cache-Control"] == "no-store"
    [event, *_] = await ring.audit.events((await ring.mcp.servers.list(usual.tenant))[0].created_at)
    assert (event.action, event.actor) == ("mcp.secret.read", reader.id)
    assert path.endswith(event.target)
    sealed = f"SELECT secret FROM {db.schema}_mcp.servers WHERE tenant = $1"  # noqa: S608, our own
    assert secret["token"].encode() not in await db.fetch_value(sealed, usual.tenant)


async def test_a_secret_is_good_at_its_place_only(
    db: AsyncDatabaseManager, owner: AsyncDatabaseManager
) -> None:
    ring, tenant = with_keys(db, KEYS[0]), of_key(str(uuid4()))
    new = SERVER.model_copy(update={"auth_config": {"token": "x"}})
    one, two = [await ring.mcp.servers.register(tenant, new) for _ in range(2)]
    table = f"{db.schema}_mcp.servers"
    sealed = await db.fetch_value(f"SELECT secret FROM {table} WHERE id = $1", one.id)  # noqa: S608
    await owner.execute(f"UPDATE {table} SET secret = $1 WHERE id = $2", sealed, two.id)  # noqa: S608
    assert await ring.mcp.servers.secret(tenant, one.id) == {"token": "x"}
    with pytest.raises(Sealed):
        await ring.mcp.servers.secret(tenant, two.id)
    with pytest.raises(Sealed):
        await with_keys(db, KEYS[1]).mcp.servers.secret(tenant, one.id)
