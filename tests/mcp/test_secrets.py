"""What opens MCP servers: sealed, told to few, and sealed again while serving."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.keys import KeyOptions
from llmring_server.core.identity import DEFAULT_SCOPES, LIBRARY, ProjectId, project_of_key
from llmring_server.errors import DecryptionFailed
from llmring_server.mcp.servers import NewServer, ServerChange
from tests.mcp.test_servers import ROOT, SENT, SERVER, made


async def test_no_secret_is_kept_without_a_key(client: httpx.AsyncClient) -> None:
    path = await made(client, auth_config={})
    for answer in (
        await client.post(ROOT, json=SENT | {"auth_config": {"token": "canary"}}),
        await client.put(path, json={"auth_config": {"token": "canary"}}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "secrets_not_configured")
        assert "canary" not in answer.text
    assert (await client.get(f"{path}/secret")).json() == {"auth_config": None}


Kept = tuple[ProjectId, UUID, int]

KEYS = [digit * 64 for digit in "abc"]


def with_keys(db: AsyncDatabaseManager, *keys: str) -> Ring:
    return Ring(db, Settings.model_validate({"auth": "open", "sealing_keys": keys}))


async def test_get_secret_needs_its_scope_and_is_audited(db: AsyncDatabaseManager) -> None:
    ring = with_keys(db, KEYS[0])
    project, secret = f"project {uuid4()}", {"type": "bearer", "token": f"canary {uuid4()}"}
    usual = await ring.keys.issue(project, KeyOptions(scopes=DEFAULT_SCOPES), actor=LIBRARY)
    reader = await ring.keys.issue(project, KeyOptions(scopes=["mcp:secrets"]), actor=LIBRARY)
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
    [event, *_] = await ring.audit.events(
        (await ring.mcp.servers.list(usual.project_id))[0].created_at
    )
    assert (event.action, event.actor) == ("mcp.secret.read", reader.id)
    assert path.endswith(event.target)
    sealed = f"SELECT secret FROM {db.schema}_mcp.servers WHERE project_id = $1"  # noqa: S608, our own
    assert secret["token"].encode() not in await db.fetch_value(sealed, usual.project_id)


async def test_what_is_told_of_a_secret_does_not_replace_it(db: AsyncDatabaseManager) -> None:
    servers, project_id = with_keys(db, KEYS[0]).mcp.servers, project_of_key(str(uuid4()))
    server = await servers.register(project_id, secret_of(1))
    told = server.auth_config
    assert told
    await servers.change(
        project_id, server.id, ServerChange(auth_config=told.model_dump(), name="n")
    )
    assert await servers.secret(project_id, server.id, actor=LIBRARY) == {"token": 1}
    keyless = with_keys(db).mcp.servers
    echo = ServerChange(auth_config=told.model_dump(), name="m")
    assert (await keyless.amend(project_id, server.id, echo)).name == "m"
    assert await servers.secret(project_id, server.id, actor=LIBRARY) == {"token": 1}
    copied = SERVER.model_copy(update={"auth_config": told.model_dump()})
    assert (await keyless.register(project_id, copied)).auth_config is None
    await servers.amend(project_id, server.id, ServerChange(auth_config=None))
    assert await servers.secret(project_id, server.id, actor=LIBRARY) is None


async def test_a_secret_is_good_at_its_place_only(
    db: AsyncDatabaseManager, owner: AsyncDatabaseManager
) -> None:
    ring, project_id = with_keys(db, KEYS[0]), project_of_key(str(uuid4()))
    new = SERVER.model_copy(update={"auth_config": {"token": "x"}})
    one, two = [await ring.mcp.servers.register(project_id, new) for _ in range(2)]
    table = f"{db.schema}_mcp.servers"
    sealed = await db.fetch_value(f"SELECT secret FROM {table} WHERE id = $1", one.id)  # noqa: S608, our own
    await owner.execute(f"UPDATE {table} SET secret = $1 WHERE id = $2", sealed, two.id)  # noqa: S608, our own
    assert await ring.mcp.servers.secret(project_id, one.id, actor=LIBRARY) == {"token": "x"}
    with pytest.raises(DecryptionFailed):
        await ring.mcp.servers.secret(project_id, two.id, actor=LIBRARY)
    with pytest.raises(DecryptionFailed):
        await with_keys(db, KEYS[1]).mcp.servers.secret(project_id, one.id, actor=LIBRARY)
    other = ProjectId(uuid4())
    await owner.execute(f"UPDATE {table} SET project_id = $1 WHERE id = $2", other, one.id)  # noqa: S608, our own
    with pytest.raises(DecryptionFailed):
        await ring.mcp.servers.secret(other, one.id, actor=LIBRARY)


def secret_of(number: int) -> NewServer:
    return SERVER.model_copy(update={"auth_config": {"token": number}})


async def read_all(ring: Ring, kept: list[Kept]) -> None:
    for project_id, id, number in kept:
        assert await ring.mcp.servers.secret(project_id, id, actor=LIBRARY) == {"token": number}


async def test_keys_take_each_other_s_place_while_serving(
    db: AsyncDatabaseManager, owner: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmring_server.mcp.servers.AT_ONCE", 7)
    old, both, new = (with_keys(db, *keys) for keys in (KEYS[:1], KEYS[1::-1], KEYS[1:2]))
    kept = []
    for number in range(30):
        project_id = project_of_key(str(number % 3))
        server = await old.mcp.servers.register(project_id, secret_of(number))
        kept.append((project_id, server.id, number))
    lost = await with_keys(db, KEYS[2]).mcp.servers.register(kept[0][0], secret_of(-1))
    resealing = asyncio.create_task(Ring(owner, both.settings).mcp.servers.reseal(actor=LIBRARY))
    while not resealing.done():
        await read_all(both, kept)
    resealed, unopened = await resealing
    assert (resealed >= len(kept), unopened >= 1) == (True, True)
    await read_all(new, kept)
    with pytest.raises(DecryptionFailed):
        await new.mcp.servers.secret(kept[0][0], lost.id, actor=LIBRARY)
    assert (await both.mcp.servers.reseal(actor=LIBRARY))[0] == 0


async def test_a_secret_that_changes_while_it_is_sealed_again_is_kept(
    owner: AsyncDatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers, project_id = with_keys(owner, *KEYS[1::-1]).mcp.servers, ProjectId(uuid4())
    server = await with_keys(owner, KEYS[0]).mcp.servers.register(project_id, secret_of(1))
    found = servers._stale

    async def changing(key: bytes) -> AsyncIterator[Any]:
        async for row in found(key):
            if row["id"] == server.id:
                change = ServerChange(auth_config={"token": 2})
                await servers.change(project_id, server.id, change)
                yield row

    monkeypatch.setattr(servers, "_stale", changing)
    assert await servers.reseal(actor=LIBRARY) == (0, 0)
    assert await servers.secret(project_id, server.id, actor=LIBRARY) == {"token": 2}
