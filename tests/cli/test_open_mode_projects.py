"""Projects of mode `open` in the command line: found by their keys, named, and moved to `keys`."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings, build
from llmring_server.access.projects import LARGEST_ID, ProjectPage
from llmring_server.aliases import BindAlias
from llmring_server.cli.environment import all_projects
from llmring_server.core.identity import LIBRARY, ProjectId, project_of_key
from llmring_server.errors import Conflict, NotFound
from llmring_server.templates.models import NewTemplate
from llmring_server.usage.models import NewCall
from tests.cli.test_db import ENVIRONMENT, check_output, run
from tests.conftest import CALL
from tests.support.command_line import invoke
from tests.support.conversations import EXCHANGE, LOG_EXCHANGE
from tests.support.lists import every_key
from tests.support.mcp import NEW_SERVER
from tests.support.signing import LEGACY_RECEIPT, SEED, keyring

PROD = ("--env", "prod")
RESOURCES = ("/api/v1/logs", "/api/v1/stats", "/api/v1/conversations", "/api/v1/receipts")


@pytest.fixture
def prod(owner: AsyncDatabaseManager, url: str) -> dict[str, str]:
    """Settings of a server in mode `keys`, with the role that may erase."""
    return {"LLMRING_DATABASE_URL": url, "LLMRING_DATABASE_SCHEMA": owner.schema or ""}


@asynccontextmanager
async def client_of(
    db: AsyncDatabaseManager, mode: str, key: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server in this mode, on the same database."""
    app = build(db, Settings(auth=mode, receipts_private_key_b64=SEED, receipt_issuer="us"))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://test",
        headers={"X-API-Key": key},
    ) as client:
        yield client


async def store_data(client: httpx.AsyncClient) -> None:
    """Log a call and an exchange, and certify them."""
    for path, body in (
        ("/api/v1/log", CALL),
        (LOG_EXCHANGE, EXCHANGE),
        ("/api/v1/receipts/generate", {"since_last_receipt": True}),
    ):
        response = await client.post(path, json=body)
        assert response.status_code == 200, response.text


async def read_data(client: httpx.AsyncClient) -> dict[str, Any]:
    responses = {path: await client.get(path) for path in RESOURCES}
    assert {response.status_code for response in responses.values()} == {200}
    return {path: response.json() for path, response in responses.items()}


@pytest.fixture
def open_key() -> str:
    return f"my-project-{uuid4().hex[:8]}"


def named_by(way: str, key: str) -> str:
    return str(project_of_key(key)) if way == "id" else key


@pytest.mark.parametrize("way", ["key", "id", "name", "stdin"])
async def test_an_issued_key_sees_the_data_of_the_open_key(
    db: AsyncDatabaseManager, prod: dict[str, str], open_key: str, way: str
) -> None:
    async with client_of(db, "open", open_key) as client:
        await store_data(client)
        before = await read_data(client)
        assert before["/api/v1/receipts"]["total"] == 2
    project = named_by(way, open_key)
    if way == "name":
        project = f"project {uuid4().hex}"
        check_output("projects", "rename", open_key, project, *PROD, **prod)
    issue = ("keys", "issue", "--project", "-" if way == "stdin" else project, *PROD)
    issued = invoke(*issue, environment=ENVIRONMENT | prod, stdin=f"{open_key}\n")
    assert issued.returncode == 0, issued.stderr
    assert str(project_of_key(open_key)) in issued.stderr
    assert ("no name yet" in issued.stderr) == (way != "name")
    async with client_of(db, "keys", open_key) as client:
        assert (await client.get("/api/v1/logs")).status_code == 401
    for mode in ("keys", "open"):
        async with client_of(db, mode, issued.stdout.strip()) as client:
            assert await read_data(client) == before


async def test_a_second_key_is_for_the_same_project(
    db: AsyncDatabaseManager, ring: Ring, prod: dict[str, str], open_key: str
) -> None:
    async with client_of(db, "open", open_key) as client:
        await store_data(client)
    secrets = [
        check_output("keys", "issue", "--project", open_key, *PROD, **prod).strip()
        for _ in range(2)
    ]
    project_id = project_of_key(open_key)
    callers = [await ring.keys.caller(secret) for secret in secrets]
    assert {caller and caller.project_id for caller in callers} == {project_id}
    listed = check_output("keys", "list", "--project", open_key, *PROD, **prod)
    assert all(secret[8:16] in listed for secret in secrets)
    events = await ring.audit.events(datetime.now(UTC) - timedelta(hours=1), project_id)
    actions = sorted(event.action for event in events)
    assert actions == ["key.issue", "key.issue", "project.create"]


async def store_calls(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log(project_id, NewCall(**CALL))


async def store_moved_sums(ring: Ring, project_id: ProjectId) -> None:
    await store_calls(ring, project_id)
    await ring.db.execute(
        "UPDATE {{tables.usage_recent}} SET bucket = bucket - interval '2 days'"
        " WHERE project_id = $1",
        project_id,
    )
    await ring.rollups.move_to_rollups()


async def store_conversation(ring: Ring, project_id: ProjectId) -> None:
    await ring.conversations.create(project_id)


async def store_template(ring: Ring, project_id: ProjectId) -> None:
    template = NewTemplate(name="t", created_by="ada")
    await ring.templates.create(project_id, template, actor=LIBRARY, may_share=False)


async def store_alias(ring: Ring, project_id: ProjectId) -> None:
    await ring.aliases.bind(project_id, BindAlias(alias="fast", model="acme:m"))


async def store_server(ring: Ring, project_id: ProjectId) -> None:
    await ring.mcp.servers.register(project_id, NEW_SERVER)


async def store_receipt(ring: Ring, project_id: ProjectId) -> None:
    signing = Ring(ring.db, Settings(), keyring())
    await signing.receipts.store(project_id, LEGACY_RECEIPT)


@pytest.mark.parametrize(
    "store",
    [
        store_calls,
        store_moved_sums,
        store_conversation,
        store_template,
        store_alias,
        store_server,
        store_receipt,
    ],
)
async def test_a_project_of_mode_open_is_listed_whatever_it_has(
    ring: Ring, prod: dict[str, str], open_key: str, store: Callable[..., Any]
) -> None:
    project_id = project_of_key(open_key)
    with pytest.raises(NotFound):
        await ring.projects.find(open_key)
    assert project_id not in {project.project_id for project in await all_projects(ring)}
    await store(ring, project_id)
    [found] = [each for each in await all_projects(ring) if each.project_id == project_id]
    assert (found.name, found.created_at, found.keys) == (None, None, 0)
    assert (found.last_call is None) == (store not in {store_calls, store_moved_sums})
    assert await ring.projects.find(open_key) == project_id
    for output in (
        check_output("projects", "list", *PROD, **prod),
        check_output("projects", "show", open_key, *PROD, **prod),
    ):
        assert str(project_id) in output
        assert "(no name)" in output
        assert open_key not in output


async def test_the_operator_names_a_project_of_mode_open(
    ring: Ring, prod: dict[str, str], open_key: str
) -> None:
    project_id = project_of_key(open_key)
    await store_calls(ring, project_id)
    name = f"project {uuid4().hex}"
    rename = ("projects", "rename", "-", name, *PROD)
    renamed = invoke(*rename, environment=ENVIRONMENT | prod, stdin=open_key)
    assert renamed.returncode == 0, renamed.stderr
    assert await ring.projects.find(name) == await ring.projects.find(open_key) == project_id
    listed = check_output("projects", "list", *PROD, **prod)
    assert name in listed
    assert open_key not in listed
    check_output("projects", "retain", open_key, "30d", *PROD, **prod)
    assert (await ring.projects.get(project_id)).retain_days == 30
    assert (await ring.projects.get(project_id)).name == name


async def test_the_key_of_mode_open_is_stored_nowhere(
    ring: Ring, owner: AsyncDatabaseManager, prod: dict[str, str], open_key: str
) -> None:
    await store_calls(ring, project_of_key(open_key))
    issued = run("keys", "issue", "--project", open_key, *PROD, **prod)
    retained = run("projects", "retain", open_key, "30d", *PROD, **prod)
    for ran in (issued, retained):
        assert ran.returncode == 0, ran.stderr
        assert open_key not in ran.stdout + ran.stderr
    rows = await owner.fetch_all(
        "SELECT project::text AS row FROM {{tables.projects}} AS project"
        " UNION ALL SELECT key::text FROM {{tables.api_keys}} AS key"
        " UNION ALL SELECT event::text FROM {{tables.audit_events}} AS event"
    )
    assert not any(open_key in row["row"] for row in rows)


async def test_a_name_that_is_also_an_open_key_with_data_is_refused(
    ring: Ring, prod: dict[str, str], open_key: str
) -> None:
    named = await ring.projects.create(open_key, actor=LIBRARY)
    assert await ring.projects.find(open_key) == named, "nothing was stored under the key"
    of_key = project_of_key(open_key)
    await store_calls(ring, of_key)
    with pytest.raises(Conflict, match="Two projects match"):
        await ring.projects.find(open_key)
    keys = [key.id for key in await every_key(ring)]
    for command in (
        ("keys", "issue", "--project", open_key),
        ("projects", "erase", open_key, "--yes"),
        ("aliases", "bind", "fast", "openai:gpt-4o-mini", "--project", open_key),
    ):
        for mode in ("keys", "open"):
            refused = run(*command, *PROD, **prod, LLMRING_AUTH=mode)
            assert refused.returncode == 1
            message = " ".join(refused.stderr.replace("│", " ").split())
            assert f"{named} has this name, and {of_key} has the data" in message
            assert "Give the id" in message
    assert [key.id for key in await every_key(ring)] == keys
    for project_id in (named, of_key):
        secret = check_output("keys", "issue", "--project", str(project_id), *PROD, **prod).strip()
        caller = await ring.keys.caller(secret)
        assert caller
        assert caller.project_id == project_id


@pytest.mark.parametrize("store", [store_calls, store_alias, store_conversation])
async def test_no_project_gets_a_name_that_is_an_open_key_with_data(
    ring: Ring, prod: dict[str, str], open_key: str, store: Callable[..., Any]
) -> None:
    of_key = project_of_key(open_key)
    await store(ring, of_key)
    other = f"other-{uuid4().hex}"
    check_output("projects", "create", other, *PROD, **prod)
    for command in (("create", open_key), ("rename", other, open_key)):
        refused = run("projects", *command, *PROD, **prod)
        assert refused.returncode == 1
        message = " ".join(refused.stderr.replace("│", " ").split())
        assert f"as a key of mode open: it is the project {of_key}" in message
        assert "issue a key for it" in message
    assert await ring.projects.find(open_key) == of_key
    # What the error says to do works.
    check_output("projects", "rename", str(of_key), open_key, *PROD, **prod)
    issued = run("keys", "issue", "--project", open_key, *PROD, **prod)
    assert issued.returncode == 0
    assert str(of_key) in issued.stderr


async def test_issuing_a_key_says_whether_the_project_is_new(
    ring: Ring, prod: dict[str, str], open_key: str
) -> None:
    def issue(project: str, mode: str = "keys") -> str:
        issued = run("keys", "issue", "--project", project, *PROD, **prod, LLMRING_AUTH=mode)
        assert issued.returncode == 0, issued.stderr
        return " ".join(issued.stderr.split())

    said = issue(open_key)
    assert f"Created the project {open_key} (no data yet)." in said
    assert "mode open" not in said
    said = issue(open_key)
    assert f"Issued a key for the existing project {open_key} (0 calls)." in said
    project_id = await ring.projects.find(open_key)
    await store_moved_sums(ring, project_id)
    await store_calls(ring, project_id)
    last = (await ring.projects.get(project_id)).last_call
    assert f"existing project {open_key} (2 calls, last {last})." in issue(open_key)
    said = issue(f"{open_key}-typo", "open")
    assert "no data yet" in said
    assert "as a key of mode open is not in it, but in another project" in said


async def test_the_name_of_the_project_of_the_same_key_is_not_ambiguous(
    ring: Ring, open_key: str
) -> None:
    await store_calls(ring, project_of_key(open_key))
    await ring.projects.rename(project_of_key(open_key), open_key, actor=LIBRARY)
    assert await ring.projects.find(open_key) == project_of_key(open_key)


async def test_a_key_that_is_a_uuid_is_found_unless_a_project_has_this_id(ring: Ring) -> None:
    key = str(uuid4())
    assert str(await ring.projects.find(key)) == key
    await store_calls(ring, project_of_key(key))
    assert await ring.projects.find(key) == project_of_key(key)
    await store_calls(ring, ProjectId(UUID(key)))
    assert str(await ring.projects.find(key)) == key


@pytest.mark.parametrize(
    ("project", "reason"),
    [
        ("00000000-0000-4000-8000-00000000000a", "No project has this id"),
        ("llmr_pk_" + "0" * 32, "must not begin with llmr_"),
    ],
)
def test_no_key_is_issued_for_a_mistyped_id_or_key(
    prod: dict[str, str], project: str, reason: str
) -> None:
    refused = run("keys", "issue", "--project", project, *PROD, **prod)
    assert refused.returncode == 1
    assert reason in refused.stderr
    assert project not in check_output("projects", "list", *PROD, **prod)


def test_an_empty_standard_input_names_no_project(prod: dict[str, str]) -> None:
    refused = run("projects", "show", "-", *PROD, **prod)
    assert refused.returncode == 2
    assert "standard input is empty" in refused.stderr


async def test_projects_of_mode_open_are_erased(
    owner: AsyncDatabaseManager,
    prod: dict[str, str],
    open_key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmring_server.access.projects.ERASE_GRACE_SECONDS", 0)
    ring = Ring(owner)
    await store_calls(ring, project_of_key(open_key))
    asked = run("projects", "erase", open_key, *PROD, **prod)
    assert asked.returncode == 1, "it asks first"
    assert str(project_of_key(open_key)) in asked.stdout + asked.stderr
    assert "calls: 1" in check_output("projects", "erase", open_key, "--yes", *PROD, **prod)
    with pytest.raises(NotFound):
        await ring.projects.get(project_of_key(open_key))


async def test_listing_projects_does_not_read_their_rows(alone: Ring) -> None:
    """The plan has only look-ups in indexes, so that it does not grow with the calls."""
    await alone.db.execute(
        "INSERT INTO {{tables.usage_rollups}} (project_id, minutes, bucket, label_kind, label,"
        " provider, requests, errors, unpriced, cost, input_tokens, output_tokens,"
        " cached_input_tokens)"
        " SELECT md5(project::text)::uuid, 1440,"
        " timestamptz '2026-01-01Z' + day * interval '1 day',"
        " 'model', 'm', 'p', 1, 0, 0, 0, 0, 0, 0"
        " FROM generate_series(1, 50) AS project, generate_series(1, 400) AS day"
    )
    await alone.db.execute("VACUUM ANALYZE {{tables.usage_rollups}}")
    assert len(await alone.projects.list()) == 50
    statement = alone.projects._sql["list"]
    for limit in (1000, 5):
        params = statement.arguments({"last_id": LARGEST_ID, "limit": limit, "offset": 0})
        explain = f"EXPLAIN (ANALYZE, FORMAT TEXT) {statement.text}"
        plan = await alone.db.fetch_all(explain, *params)
        lines = [row["QUERY PLAN"] for row in plan]
        read = [line for line in lines if "usage_rollups" in line]
        assert read
        assert all("Index" in line for line in read), "\n".join(lines)
        # The search ends with the page.
        [found] = [line for line in lines if "Recursive Union" in line]
        [rows] = re.findall(r"actual .*rows=(\d+)", found)
        assert int(rows) <= limit + 2


async def test_pages_of_projects_follow_one_another(alone: Ring) -> None:
    await alone.db.execute(
        "INSERT INTO {{tables.alias_bindings}} (project_id, profile, alias, model)"
        " SELECT md5(n::text)::uuid, 'default', 'a', 'b' FROM generate_series(1, 5) AS n"
    )
    created = [await alone.projects.create(name, actor=LIBRARY) for name in "ab"]
    everything = [project.project_id for project in await alone.projects.list()]
    assert everything == sorted(everything, reverse=True)
    assert len(everything) == 7
    assert set(created) < set(everything)
    found, page = [], ProjectPage(limit=2)
    while projects := await alone.projects.list(page):
        found.append([project.project_id for project in projects])
        page = ProjectPage(limit=2, cursor=page.next(None, projects[-1]))
    assert [len(ids) for ids in found] == [2, 2, 2, 1]
    assert [id for ids in found for id in ids] == everything
    last = await alone.projects.list(ProjectPage(offset=6))
    assert [project.project_id for project in last] == everything[6:]
