"""Quotas: how many keys, aliases, templates and MCP servers a project may have."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager
from pydantic import ValidationError

from llmring_server import Ring, Settings, build
from llmring_server.access.keys import ApiKey, KeyOptions
from llmring_server.aliases import BindAlias
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES, Caller, ProjectId
from llmring_server.errors import LockTimeout, QuotaExceeded
from llmring_server.templates.models import NewTemplate, TemplateUpdate
from tests.support.mcp import NEW_SERVER, SERVER
from tests.support.templates import NEW_TEMPLATE

API = "/api/v1"
QUOTA = 3
MODEL = "openai:gpt-4o-mini"
WAITING_FOR_ADVISORY_LOCK = """
SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
"""


class Kind(NamedTuple):
    """Things that have a quota: where they are, how one is created, and the setting's name."""

    path: str
    body: dict[str, Any]
    setting: str
    things: str
    # Without a path of its own, as for an alias, a new thing has the name in its body.
    name: str | None = None

    def settings(self, quota: int) -> Settings:
        field = self.setting.removeprefix("LLMRING_").lower()
        return Settings(auth="parent", **{field: quota})

    def new_body(self) -> dict[str, Any]:
        return self.body | ({self.name: uuid4().hex} if self.name else {})


KINDS = {
    "keys": Kind("/keys", {}, "LLMRING_MAX_KEYS", "valid API keys"),
    "aliases": Kind(
        "/aliases/bind", {"model": MODEL}, "LLMRING_MAX_ALIASES", "aliases", name="alias"
    ),
    "templates": Kind("/templates", NEW_TEMPLATE, "LLMRING_MAX_TEMPLATES", "templates"),
    "servers": Kind("/mcp/servers", SERVER, "LLMRING_MAX_MCP_SERVERS", "MCP servers"),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)

Create = Callable[[Ring, ProjectId], Awaitable[object]]
CREATE: dict[str, Create] = {
    "keys": lambda ring, project: ring.keys.issue_for(project, actor=LIBRARY),
    "aliases": lambda ring, project: ring.aliases.bind(
        project, BindAlias(alias=uuid4().hex, model=MODEL)
    ),
    "templates": lambda ring, project: ring.templates.create(
        project, NewTemplate(**NEW_TEMPLATE), actor=LIBRARY
    ),
    "servers": lambda ring, project: ring.mcp.servers.register(project, NEW_SERVER),
}


async def new_project(ring: Ring) -> ProjectId:
    return await ring.projects.create(f"project {uuid4()}", actor=LIBRARY)


@asynccontextmanager
async def client_of(
    db: AsyncDatabaseManager, settings: Settings, project_id: ProjectId
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client with all scopes in a project."""

    def authenticate(_: object) -> Caller:
        return Caller(project_id, frozenset(PROJECT_SCOPES), "tests")

    app = build(db, settings, authenticate)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://test{API}") as client:
        yield client


async def create(client: httpx.AsyncClient, kind: Kind) -> httpx.Response:
    return await client.post(kind.path, json=kind.new_body())


async def count(client: httpx.AsyncClient, kind: Kind) -> int:
    return len((await client.get(kind.path.removesuffix("/bind"))).json())


async def delete(client: httpx.AsyncClient, kind: Kind, created: dict[str, Any]) -> None:
    id = created[kind.name or "id"]
    response = await client.delete(f"{kind.path.removesuffix('/bind')}/{id}")
    assert response.status_code == 200, response.text


@every_kind
async def test_a_project_has_at_most_its_quota(
    kind: Kind, db: AsyncDatabaseManager, ring: Ring
) -> None:
    mine, other = [await new_project(ring) for _ in range(2)]
    async with client_of(db, kind.settings(QUOTA), mine) as client:
        created = [await create(client, kind) for _ in range(QUOTA)]
        assert [response.status_code for response in created] == [200] * QUOTA
        refused = await create(client, kind)
        assert (refused.status_code, refused.json()["code"]) == (409, "quota_exceeded")
        detail = refused.json()["detail"]
        assert detail.startswith(f"A project may have at most {QUOTA} {kind.things}: ")
        assert detail.endswith(f" some, or let the operator raise {kind.setting}.")
        assert await count(client, kind) == QUOTA
        await delete(client, kind, created[0].json())
        assert (await create(client, kind)).status_code == 200
        assert (await create(client, kind)).status_code == 409
    async with client_of(db, kind.settings(QUOTA), other) as client:
        assert (await create(client, kind)).status_code == 200


@every_kind
async def test_the_setting_changes_the_quota(
    kind: Kind, db: AsyncDatabaseManager, ring: Ring
) -> None:
    project_id = await new_project(ring)
    for quota, statuses in ((1, [200, 409]), (2, [200, 409]), (0, [200, 200]), (1, [409])):
        async with client_of(db, kind.settings(quota), project_id) as client:
            assert [(await create(client, kind)).status_code for _ in statuses] == statuses


@pytest.mark.parametrize("kind", KINDS)
async def test_requests_at_the_same_time_do_not_exceed_the_quota(
    kind: str, db: AsyncDatabaseManager, ring: Ring
) -> None:
    project_id = await new_project(ring)
    bounded = Ring(db, KINDS[kind].settings(QUOTA))
    attempts = [CREATE[kind](bounded, project_id) for _ in range(4 * QUOTA)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert {type(error) for error in refused} == {QuotaExceeded}
    assert len(results) - len(refused) == QUOTA


@pytest.mark.parametrize("kind", KINDS)
async def test_what_an_open_transaction_adds_counts(
    kind: str, db: AsyncDatabaseManager, ring: Ring
) -> None:
    project_id = await new_project(ring)
    bounded = Ring(db, KINDS[kind].settings(1))

    async def create_with_little_patience() -> None:
        async with db.transaction() as other:
            await other.execute("SET LOCAL lock_timeout = '50ms'")
            await CREATE[kind](bounded.within(other), project_id)

    async with db.transaction() as transaction:
        await CREATE[kind](bounded.within(transaction), project_id)
        # Only another transaction's end tells whether there is room.
        with pytest.raises(LockTimeout):
            await create_with_little_patience()
        # Another project does not wait.
        await CREATE[kind](bounded, await new_project(ring))
    with pytest.raises(QuotaExceeded):
        await CREATE[kind](bounded, project_id)


async def test_what_exists_is_changed_whatever_the_quota(
    db: AsyncDatabaseManager, ring: Ring
) -> None:
    project_id = await new_project(ring)
    async with client_of(db, Settings(auth="parent"), project_id) as client:
        created = {name: (await create(client, kind)).json() for name, kind in KINDS.items()}
        for kind in KINDS.values():
            await create(client, kind)
    ones = {"max_keys": 1, "max_aliases": 1, "max_templates": 1, "max_mcp_servers": 1}
    async with client_of(db, Settings(auth="parent", **ones), project_id) as client:
        template = f"/templates/{created['templates']['id']}"
        alias = created["aliases"]["alias"]
        for method, path, body in (
            ("POST", "/aliases/bind", {"alias": alias, "model": "a:b"}),
            ("PUT", f"/aliases/{alias}", {"model": "a:c"}),
            ("POST", "/aliases/bulk_upsert", [{"alias": alias, "model": "a:d"}]),
            ("PUT", template, {"system_prompt": "new"}),
            ("DELETE", template, None),
            ("PUT", template, {"is_active": True}),
            ("POST", f"{template}/use", None),
            ("PUT", f"/mcp/servers/{created['servers']['id']}", {"name": "new"}),
        ):
            response = await client.request(method, path, json=body)
            assert response.status_code == 200, (path, response.text)


async def test_bulk_upsert_binds_all_or_nothing(db: AsyncDatabaseManager, ring: Ring) -> None:
    def bodies(names: str) -> list[dict[str, str]]:
        return [{"alias": name, "model": f"m:{names}"} for name in names]

    async def bind(names: str) -> int:
        response = await client.post("/aliases/bulk_upsert", json=bodies(names))
        return response.status_code

    async with client_of(db, KINDS["aliases"].settings(QUOTA), await new_project(ring)) as client:
        assert await bind("abcd") == 409
        assert await bind("ab") == 200
        # One of these is new; a name that is given twice counts once.
        assert await bind("abcc") == 200
        assert await bind("abcd") == 409
        bound = (await client.get("/aliases")).json()
        assert [(each["alias"], each["model"]) for each in bound] == [
            (name, "m:abcc") for name in "abc"
        ]
        assert (await client.post("/aliases/bulk_upsert")).json() == {"updated": 0}


# Keys.


async def all_keys(ring: Ring, project_id: ProjectId) -> list[ApiKey]:
    return await ring.keys.list(project_id)


async def test_revoked_and_expired_keys_make_room(
    owner: AsyncDatabaseManager, db: AsyncDatabaseManager, ring: Ring
) -> None:
    project_id = await new_project(ring)
    bounded = Ring(db, Settings(max_keys=QUOTA))
    later = KeyOptions(expires_at=datetime.now(UTC) + timedelta(days=1))
    expired, revoked, valid = [
        await bounded.keys.issue_for(project_id, later, actor=LIBRARY) for _ in range(QUOTA)
    ]
    with pytest.raises(QuotaExceeded):
        await bounded.keys.issue_for(project_id, actor=LIBRARY)
    await bounded.keys.revoke(revoked.id, actor=LIBRARY)
    await owner.execute(
        "UPDATE {{tables.api_keys}} SET expires_at = now() - interval '1 day' WHERE id = $1",
        expired.id,
    )
    # The one that has been invalid for longest is deleted, and only if its room is needed.
    new: list[str] = []
    for kept in ([revoked.id, valid.id], [valid.id]):
        new.append((await bounded.keys.issue_for(project_id, actor=LIBRARY)).id)
        assert [key.id for key in await all_keys(ring, project_id)] == [*kept, *new]
    with pytest.raises(QuotaExceeded):
        await bounded.keys.issue_for(project_id, actor=LIBRARY)
    assert await ring.keys.caller(revoked.secret) is None
    # The audit log still has them.
    events = await ring.audit.events(datetime.now(UTC) - timedelta(hours=1), project_id)
    assert {expired.id, revoked.id} < {event.target for event in events}


async def test_at_the_quota_a_key_is_rotated_without_an_overlap(
    db: AsyncDatabaseManager, ring: Ring
) -> None:
    project_id = await new_project(ring)
    keys = Ring(db, Settings(max_keys=1)).keys
    old = await keys.issue_for(project_id, actor=LIBRARY)
    with pytest.raises(QuotaExceeded):
        await keys.rotate(old.id, timedelta(hours=1), actor=LIBRARY)
    assert (await keys.get(old.id)).expires_at is None
    new = await keys.rotate(old.id, timedelta(0), actor=LIBRARY)
    assert [key.id for key in await all_keys(ring, project_id)] == [new.id]
    assert await keys.caller(old.secret) is None


async def test_keys_that_the_operator_issues_count(db: AsyncDatabaseManager) -> None:
    keys, project = Ring(db, Settings(max_keys=1)).keys, f"project {uuid4()}"
    await keys.issue(project, actor=LIBRARY)
    with pytest.raises(QuotaExceeded):
        await keys.issue(project, actor=LIBRARY)


# Templates.


async def test_deleted_templates_make_room(db: AsyncDatabaseManager, ring: Ring) -> None:
    project_id = await new_project(ring)
    templates = Ring(db, Settings(max_templates=QUOTA)).templates
    new = NewTemplate(**NEW_TEMPLATE)

    async def add() -> UUID:
        return (await templates.create(project_id, new, actor=LIBRARY)).id

    async def restore(id: UUID) -> None:
        active = TemplateUpdate(is_active=True)
        await templates.update(project_id, id, active, actor=LIBRARY)

    ids = [await add() for _ in range(QUOTA)]
    # In this order, not in that of their ids.
    for id in (ids[1], ids[0]):
        await templates.delete(project_id, id, actor=LIBRARY)
    ids.append(await add())
    await restore(ids[0])
    assert [each.id for each in await templates.list(project_id)] == [ids[3], ids[2], ids[0]]
    with pytest.raises(QuotaExceeded):
        await add()
    stored = await db.fetch_all(
        "SELECT DISTINCT id FROM {{tables.template_versions}} WHERE project_id = $1", project_id
    )
    assert {row["id"] for row in stored} == {ids[0], ids[2], ids[3]}


async def test_a_template_has_a_limited_number_of_versions(
    db: AsyncDatabaseManager, ring: Ring
) -> None:
    project_id = await new_project(ring)
    templates = Ring(db, Settings(max_template_versions=2)).templates
    new = NewTemplate(**NEW_TEMPLATE)
    id, other = [(await templates.create(project_id, new, actor=LIBRARY)).id for _ in range(2)]
    first, second = TemplateUpdate(system_prompt="b"), TemplateUpdate(system_prompt="c")
    await templates.update(project_id, id, first, actor=LIBRARY)
    with pytest.raises(QuotaExceeded, match=r"at most 2 versions.*LLMRING_MAX_TEMPLATE_VERSIONS"):
        await templates.update(project_id, id, second, actor=LIBRARY)
    # A change of who sees it makes no version.
    await templates.update(project_id, id, TemplateUpdate(shared=False), actor=LIBRARY)
    assert [each.system_prompt for each in await templates.versions(project_id, id)] == [
        "b",
        NEW_TEMPLATE["system_prompt"],
    ]
    await templates.update(project_id, other, second, actor=LIBRARY)
    unlimited = Ring(db, Settings(max_template_versions=0)).templates
    assert (await unlimited.update(project_id, id, second, actor=LIBRARY)).version == 3


@pytest.mark.parametrize(
    "field", [name for name in Settings.model_fields if name.startswith("max_")]
)
def test_quotas_are_not_negative(field: str) -> None:
    with pytest.raises(ValidationError):
        Settings(**{field: -1})


def test_the_default_quotas() -> None:
    settings = Settings()
    assert (settings.max_keys, settings.max_mcp_servers) == (1000, 1000)
    assert (settings.max_aliases, settings.max_templates) == (10_000, 10_000)
    assert settings.max_template_versions == 1000


@asynccontextmanager
async def locked_quota(ring: Ring, project_id: ProjectId) -> AsyncIterator[None]:
    """Hold the lock of a project's quota of MCP servers, as a caller's transaction does."""
    async with ring.db.transaction() as transaction:
        await ring.within(transaction).mcp.servers.register(project_id, NEW_SERVER)
        yield


async def test_requests_that_wait_for_a_quota_leave_connections_to_others(
    settings: Settings, db: AsyncDatabaseManager
) -> None:
    async with Ring.open(settings) as ring:
        project_id, other_id = [await new_project(ring) for _ in range(2)]
        async with locked_quota(Ring(db, settings), project_id):
            waiting = [
                asyncio.create_task(ring.mcp.servers.register(project_id, NEW_SERVER))
                for _ in range(20)
            ]
            while not await db.fetch_value(WAITING_FOR_ADVISORY_LOCK):  # noqa: ASYNC110, no event tells
                await asyncio.sleep(0.01)
            assert await db.fetch_value(WAITING_FOR_ADVISORY_LOCK) == 1
            await ring.mcp.servers.register(other_id, NEW_SERVER)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(await ring.mcp.servers.list(other_id)) == 1


@pytest.mark.direct("a pooler in transaction mode refuses parameters of sessions")
async def test_quotas_hold_where_the_default_isolation_level_is_another(
    owner_settings: Settings, owner: AsyncDatabaseManager
) -> None:
    schema = f"quotas_{uuid4().hex[:8]}"
    url = f"{owner_settings.database_url}"
    separator = "&" if "?" in url else "?"
    options = {
        "database_url": f"{url}{separator}default_transaction_isolation=repeatable read",
        "database_schema": schema,
        "max_mcp_servers": QUOTA,
    }
    settings = owner_settings.model_copy(update=options)
    async with AsyncExitStack() as stack:
        # Each is another process, as far as the quota is concerned.
        rings = [await stack.enter_async_context(Ring.open(settings)) for _ in range(5)]
        async with rings[0].db.transaction() as transaction:
            level = await transaction.fetch_value("SHOW transaction_isolation")
        assert level == "read committed"
        project_id = await new_project(rings[0])
        results = await asyncio.gather(
            *(ring.mcp.servers.register(project_id, NEW_SERVER) for ring in rings * 4),
            return_exceptions=True,
        )
        refused = [result for result in results if isinstance(result, QuotaExceeded)]
        assert len(refused) == len(results) - QUOTA
    await owner.execute(f"DROP SCHEMA {schema} CASCADE")
    await owner.execute(f"DROP SCHEMA {schema}_mcp CASCADE")
