"""Privileged actions require an actor and are audited in the same transaction."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, get_type_hints
from uuid import UUID, uuid4

import pytest
from pgdbm import AsyncDatabaseManager

import llmring_server
from llmring_server import LIBRARY, Actor, Ring, Settings
from llmring_server.conversations.models import NewMessage
from llmring_server.core.identity import ProjectId
from llmring_server.db.repository import Repository
from llmring_server.errors import Conflict, RingError
from llmring_server.maintenance import maintain
from llmring_server.mcp import CapabilityRefresh, OfferedTool
from llmring_server.pricing.rerating import RerateFilter
from llmring_server.templates.models import NewTemplate, TemplateUpdate
from tests.pricing.test_pricing import call, override
from tests.support.mcp import NEW_SERVER

KEYS = [bytes([number] * 32).hex() for number in (1, 2)]
# PostgreSQL stores no text with U+0000: the audit event of such an actor cannot be written.
UNRECORDABLE = Actor("\0")


def test_no_privileged_action_has_a_default_actor(ring: Ring) -> None:
    functions: list[Callable[..., Any]] = [maintain]
    for service in ring.services:
        functions += [each for _, each in inspect.getmembers(type(service), inspect.isfunction)]
    privileged = set()
    for function in functions:
        takers = [name for name, hint in get_type_hints(function).items() if hint is Actor]
        assert takers in ([], ["actor"]), function
        if takers and not function.__name__.startswith("_") and function.__name__ != "record":
            privileged.add(function.__qualname__)
            actor = inspect.signature(function).parameters["actor"]
            assert actor.kind is inspect.Parameter.KEYWORD_ONLY, function
            assert actor.default is inspect.Parameter.empty, function
    assert len(privileged) == 24


def test_embedding_programs_can_pass_their_own_actor() -> None:
    assert {"Actor", "LIBRARY"} <= set(llmring_server.__all__)
    assert LIBRARY.name == "library"


class Stage(NamedTuple):
    """A ring on a separate schema, with data for each privileged action."""

    ring: Ring
    project: ProjectId
    key: str
    conversation: UUID
    template: UUID
    server: UUID
    tool: UUID
    sha256: str
    model: str
    file: int


@pytest.fixture
async def stage(alone: Ring) -> Stage:
    ring = Ring(alone.db, Settings.model_validate({"sealing_keys": KEYS[:1]}))
    issued = await ring.keys.issue("mine", actor=LIBRARY)
    project, model = issued.project_id, f"m-{uuid4().hex}"
    await ring.usage.log(project, call(model))
    await ring.pricing.override(override(model, 1), actor=LIBRARY)
    conversation = await ring.conversations.create(project)
    await ring.conversations.append(project, conversation.id, [NewMessage(role="user")])
    template = await ring.templates.create(
        project, NewTemplate(name="s", created_by="ada", shared=True), actor=LIBRARY, may_share=True
    )
    new = NEW_SERVER.model_copy(update={"auth_config": {"token": "x"}})
    server = await ring.mcp.servers.register(project, new)
    offers = CapabilityRefresh(tools=[OfferedTool(name="add")])
    await ring.mcp.capabilities.refresh(project, server.id, offers)
    changed = CapabilityRefresh(tools=[OfferedTool(name="add", description="Adds.")])
    [tool] = (await ring.mcp.capabilities.refresh(project, server.id, changed)).tools
    file = await ring.db.fetch_value(
        "INSERT INTO {{tables.registry_files}}"
        " (provider, version, content, valid_from, fetched_at, state, reason)"
        " VALUES ('openai', 7, $1, now(), now(), 'quarantined', 'test') RETURNING id",
        b"{}",
    )
    await ring.db.execute(
        "INSERT INTO {{tables.registry_sources}} (provider, attempted_at) VALUES ('openai', now())"
    )
    # Two keys: the first has not encrypted anything yet.
    ring = Ring(alone.db, Settings.model_validate({"sealing_keys": KEYS[::-1]}))
    return Stage(
        ring=ring,
        project=project,
        key=issued.id,
        conversation=conversation.id,
        template=template.id,
        server=server.id,
        tool=tool.id,
        sha256=tool.definition_sha256,
        model=model,
        file=file,
    )


def everything() -> RerateFilter:
    now = datetime.now(UTC)
    return RerateFilter(now - timedelta(days=1), now + timedelta(minutes=10))


Act = Callable[[Stage, Actor], Awaitable[Any]]
HOUR = timedelta(hours=1)

ACTIONS: dict[str, Act] = {
    "key.issue": lambda s, a: s.ring.keys.issue("other", actor=a),
    "key.issue for a project": lambda s, a: s.ring.keys.issue_for(s.project, actor=a),
    "key.rotate": lambda s, a: s.ring.keys.rotate(s.key, HOUR, actor=a),
    "key.revoke": lambda s, a: s.ring.keys.revoke(s.key, actor=a),
    "project.create": lambda s, a: s.ring.projects.create("another", actor=a),
    "project.rename": lambda s, a: s.ring.projects.rename(s.project, "renamed", actor=a),
    "project.retain": lambda s, a: s.ring.projects.retain(s.project, 30, actor=a),
    "price.override": lambda s, a: s.ring.pricing.override(override("other", 1), actor=a),
    "price.withdraw": lambda s, a: s.ring.pricing.withdraw("acme", s.model, actor=a),
    "price.rerate": lambda s, a: s.ring.rerating.run(everything(), actor=a),
    "registry.accept": lambda s, a: s.ring.registry.accept(s.file, actor=a),
    "template.create": lambda s, a: s.ring.templates.create(
        s.project, NewTemplate(name="t", created_by="ada", shared=True), actor=a, may_share=True
    ),
    "template.change": lambda s, a: s.ring.templates.update(
        s.project, s.template, TemplateUpdate(name="x"), actor=a, may_share=True
    ),
    "messages.delete": lambda s, a: s.ring.conversations.delete_old_messages(s.project, 0, actor=a),
    "mcp.secret.read": lambda s, a: s.ring.mcp.servers.read_secret(s.project, s.server, actor=a),
    "mcp.secrets.reseal": lambda s, a: s.ring.mcp.servers.reencrypt_secrets(actor=a),
    "mcp.tool.acknowledge": lambda s, a: s.ring.mcp.capabilities.acknowledge(
        s.project, s.tool, s.sha256, actor=a
    ),
    "project.erase": lambda s, a: s.ring.projects.erase(s.project, actor=a),
}


async def contents(db: AsyncDatabaseManager) -> dict[str, str]:
    """Return a digest of every table, without ids that come from sequences."""
    tables = await db.fetch_all(
        "SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.tables"
        " WHERE table_schema IN ($1::text, $1::text || '_mcp') AND table_type = 'BASE TABLE'",
        db.schema,
    )
    digest = "SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {} AS t"
    return {row["name"]: await db.fetch_value(digest.format(row["name"])) for row in tables}


@pytest.fixture(autouse=True)
def without_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmring_server.access.projects.ERASE_GRACE_SECONDS", 0)


async def actions(ring: Ring) -> list[str]:
    events = await ring.audit.events(datetime.now(UTC) - timedelta(days=1))
    return [event.action for event in events if event.actor == "me"]


async def test_actions_are_recorded_with_their_actor(stage: Stage) -> None:
    for number, (action, act) in enumerate(ACTIONS.items(), 1):
        await act(stage, Actor("me"))
        recorded = await actions(stage.ring)
        assert (recorded[0], len(recorded)) == (action.partition(" ")[0], number)


async def test_actions_that_cannot_be_recorded_do_not_happen(stage: Stage) -> None:
    before = await contents(stage.ring.db)
    for action, act in ACTIONS.items():
        with pytest.raises(RingError):
            await act(stage, UNRECORDABLE)
        assert await contents(stage.ring.db) == before, action


async def test_actions_are_part_of_the_callers_transaction(stage: Stage) -> None:
    before = await contents(stage.ring.db)
    for action, act in ACTIONS.items():
        if action == "registry.accept":
            continue  # It is committed at once, since all requests share the files.
        async with stage.ring.db.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            inside = stage.ring.within(connection)
            await act(stage._replace(ring=inside), Actor("me"))
            assert await actions(inside) == [action.partition(" ")[0]]
            await transaction.rollback()
        assert await contents(stage.ring.db) == before, action


async def test_rejected_rerating_is_not_audited(stage: Stage) -> None:
    lock = "SELECT pg_advisory_xact_lock('{{tables.usage_adjustments}}'::regclass::oid::bigint)"
    async with stage.ring.db.transaction() as tx:
        await tx.execute(lock)
        with pytest.raises(Conflict):
            await stage.ring.rerating.run(everything(), actor=Actor("me"))
    assert await actions(stage.ring) == []


def reachable(service: Repository) -> Iterator[tuple[str, Repository]]:
    for name, value in vars(service).items():
        if isinstance(value, Repository):
            yield name, value
            yield from reachable(value)


async def test_every_repository_within_a_transaction_is_bound_to_it(ring: Ring) -> None:
    async with ring.db.acquire() as connection, connection.transaction():
        inside = ring.within(connection)
        assert len(inside.services) == len(ring.services) >= 17
        for service in inside.services:
            for name, each in [(type(service).__name__, service), *reachable(service)]:
                assert each._database.connection is connection, f"{type(service).__name__}.{name}"
                assert each._database.in_caller_transaction
    assert all(service._database.connection is None for service in ring.services)


@pytest.fixture
async def narrow(settings: Settings) -> AsyncIterator[Ring]:
    """A ring with a pool of one connection and a short acquire timeout."""
    update = {
        "database_pool_size": 1,
        "database_pool_overflow": 0,
        "acquire_timeout": 0.1,
        "migrate_on_start": False,
    }
    async with Ring.open(settings.model_copy(update=update)) as ring:
        yield ring


async def test_work_within_a_transaction_needs_no_second_connection(
    narrow: Ring, project_id: ProjectId
) -> None:
    model = f"m-{uuid4().hex}"
    async with narrow.db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        inside = narrow.within(connection)
        await inside.usage.log(project_id, call(model))
        await inside.pricing.override(override(model, 1), actor=LIBRARY)
        await inside.usage.log(project_id, call(model))
        await inside.rerating.run(everything(), actor=LIBRARY)
        await inside.conversations.delete_old_messages(project_id, 1, actor=LIBRARY)
        assert (await inside.usage.stats(project_id)).summary.unpriced_requests == 0
        await transaction.rollback()
