"""Credentials of MCP servers: encrypted, readable with a scope only, re-encrypted while serving."""

import asyncio
from uuid import UUID, uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import DEFAULT_SCOPES, LIBRARY, ProjectId, project_of_key
from llmring_server.errors import DecryptionFailed
from llmring_server.mcp import McpServerUpdate, NewMcpServer
from llmring_server.mcp.secrets import LOCAL_KEY_NAME
from tests.support.mcp import MCP, NEW_SERVER, SERVER, SERVERS, register

KEYS = [digit * 64 for digit in "abc"]

Stored = tuple[ProjectId, UUID, int]


def ring_with_keys(db: AsyncDatabaseManager, *keys: str) -> Ring:
    return Ring(db, Settings.model_validate({"auth": "open", "sealing_keys": keys}))


def server_with_token(number: int) -> NewMcpServer:
    return NEW_SERVER.model_copy(update={"auth_config": {"token": number}})


async def test_no_secret_is_stored_without_a_key(client: httpx.AsyncClient) -> None:
    path = await register(client, auth_config={})
    for response in (
        await client.post(SERVERS, json=SERVER | {"auth_config": {"token": "canary"}}),
        await client.put(path, json={"auth_config": {"token": "canary"}}),
    ):
        assert (response.status_code, response.json()["code"]) == (422, "secrets_not_configured")
        assert "canary" not in response.text
    assert (await client.get(f"{path}/secret")).json() == {"auth_config": None}


async def test_get_secret_needs_its_scope_and_is_audited(db: AsyncDatabaseManager) -> None:
    ring = ring_with_keys(db, KEYS[0])
    project, secret = f"project {uuid4()}", {"type": "bearer", "token": f"canary {uuid4()}"}
    usual = await ring.keys.issue(project, KeyOptions(scopes=DEFAULT_SCOPES), actor=LIBRARY)
    reader = await ring.keys.issue(project, KeyOptions(scopes=["mcp:secrets"]), actor=LIBRARY)
    settings = ring.settings.model_copy(update={"auth": "keys"})
    transport = httpx.ASGITransport(app=build(db, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        client.headers["X-API-Key"] = usual.secret
        path = await register(client, auth_config=secret)
        for response in (
            await client.get(path),
            await client.get(SERVERS),
            await client.get(f"{MCP}/tools"),
            await client.put(path, json={"name": "b"}),
            await client.post(f"{path}/refresh", json={}),
        ):
            assert secret["token"] not in response.text
        assert (await client.get(path)).json()["auth_config"] == {"configured": True}
        assert (await client.get(f"{path}/secret")).status_code == 403
        client.headers["X-API-Key"] = reader.secret
        response = await client.get(f"{path}/secret")
    assert (response.status_code, response.json()) == (200, {"auth_config": secret})
    assert response.headers["Cache-Control"] == "no-store"
    [server] = await ring.mcp.servers.list(usual.project_id)
    [event, *_] = await ring.audit.events(server.created_at)
    assert (event.action, event.actor) == ("mcp.secret.read", reader.id)
    assert path.endswith(event.target)
    stored = f"SELECT secret FROM {db.schema}_mcp.servers WHERE project_id = $1"  # noqa: S608, our own
    assert secret["token"].encode() not in await db.fetch_value(stored, usual.project_id)


async def test_the_placeholder_of_a_secret_does_not_replace_it(db: AsyncDatabaseManager) -> None:
    servers, project_id = ring_with_keys(db, KEYS[0]).mcp.servers, project_of_key(str(uuid4()))
    server = await servers.register(project_id, server_with_token(1))
    assert server.auth_config
    placeholder = server.auth_config.model_dump()
    await servers.update(project_id, server.id, McpServerUpdate(auth_config=placeholder, name="n"))
    assert await servers.read_secret(project_id, server.id, actor=LIBRARY) == {"token": 1}
    keyless = ring_with_keys(db).mcp.servers
    update = McpServerUpdate(auth_config=placeholder, name="m")
    assert (await keyless.patch(project_id, server.id, update)).name == "m"
    assert await servers.read_secret(project_id, server.id, actor=LIBRARY) == {"token": 1}
    copied = NEW_SERVER.model_copy(update={"auth_config": placeholder})
    assert (await keyless.register(project_id, copied)).auth_config is None
    await servers.patch(project_id, server.id, McpServerUpdate(auth_config=None))
    assert await servers.read_secret(project_id, server.id, actor=LIBRARY) is None


async def test_a_secret_is_bound_to_its_project_and_server(
    db: AsyncDatabaseManager, owner: AsyncDatabaseManager
) -> None:
    ring, project_id = ring_with_keys(db, KEYS[0]), project_of_key(str(uuid4()))
    new = NEW_SERVER.model_copy(update={"auth_config": {"token": "x"}})
    one, two = [await ring.mcp.servers.register(project_id, new) for _ in range(2)]
    table = f"{db.schema}_mcp.servers"
    encrypted = await db.fetch_value(f"SELECT secret FROM {table} WHERE id = $1", one.id)  # noqa: S608, our own
    await owner.execute(f"UPDATE {table} SET secret = $1 WHERE id = $2", encrypted, two.id)  # noqa: S608, our own
    secret = await ring.mcp.servers.read_secret(project_id, one.id, actor=LIBRARY)
    assert secret == {"token": "x"}
    with pytest.raises(DecryptionFailed):
        await ring.mcp.servers.read_secret(project_id, two.id, actor=LIBRARY)
    with pytest.raises(DecryptionFailed):
        await ring_with_keys(db, KEYS[1]).mcp.servers.read_secret(project_id, one.id, actor=LIBRARY)
    assert LOCAL_KEY_NAME in DecryptionFailed.detail
    other = ProjectId(uuid4())
    await owner.execute(f"UPDATE {table} SET project_id = $1 WHERE id = $2", other, one.id)  # noqa: S608, our own
    with pytest.raises(DecryptionFailed):
        await ring.mcp.servers.read_secret(other, one.id, actor=LIBRARY)


async def check_all_are_readable(ring: Ring, stored: list[Stored]) -> None:
    for project_id, id, number in stored:
        secret = await ring.mcp.servers.read_secret(project_id, id, actor=LIBRARY)
        assert secret == {"token": number}


async def test_secrets_are_readable_while_they_are_reencrypted(
    db: AsyncDatabaseManager, owner: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.mcp.servers.REENCRYPT_BATCH_SIZE", 7)
    old = ring_with_keys(db, KEYS[0])
    both = ring_with_keys(db, KEYS[1], KEYS[0])
    new = ring_with_keys(db, KEYS[1])
    stored: list[Stored] = []
    for number in range(30):
        project_id = project_of_key(str(number % 3))
        server = await old.mcp.servers.register(project_id, server_with_token(number))
        stored.append((project_id, server.id, number))
    other_key = ring_with_keys(db, KEYS[2])
    lost = await other_key.mcp.servers.register(stored[0][0], server_with_token(-1))
    servers = Ring(owner, both.settings).mcp.servers
    reencrypting = asyncio.create_task(servers.reencrypt_secrets(actor=LIBRARY))
    while not reencrypting.done():
        await check_all_are_readable(both, stored)
    reencrypted, undecryptable = await reencrypting
    assert (reencrypted >= len(stored), undecryptable >= 1) == (True, True)
    await check_all_are_readable(new, stored)
    with pytest.raises(DecryptionFailed):
        await new.mcp.servers.read_secret(stored[0][0], lost.id, actor=LIBRARY)
    assert (await both.mcp.servers.reencrypt_secrets(actor=LIBRARY))[0] == 0


async def is_waited_for(db: AsyncDatabaseManager, pid: int) -> bool:
    """Return whether a session waits for a lock that the session `pid` holds."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE $1::integer = ANY (pg_blocking_pids(pid))"
    return await db.fetch_value(waiting, pid) is not None


async def test_a_secret_that_changes_while_it_is_reencrypted_stays_changed(alone: Ring) -> None:
    project_id = ProjectId(uuid4())
    old = ring_with_keys(alone.db, KEYS[0]).mcp.servers
    ring = ring_with_keys(alone.db, KEYS[1], KEYS[0])
    server = await old.register(project_id, server_with_token(1))
    async with alone.db.transaction() as tx:
        pid = await tx.fetch_value("SELECT pg_backend_pid()")
        update = McpServerUpdate(auth_config={"token": 2})
        await ring.within(tx).mcp.servers.update(project_id, server.id, update)
        # It reads the old secret, and waits for the lock of the row to replace it.
        reencrypting = asyncio.create_task(ring.mcp.servers.reencrypt_secrets(actor=LIBRARY))
        while not await is_waited_for(alone.db, pid):
            assert not reencrypting.done()
    assert await reencrypting == (0, 0)
    secret = await ring.mcp.servers.read_secret(project_id, server.id, actor=LIBRARY)
    assert secret == {"token": 2}
