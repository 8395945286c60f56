"""Shared templates: only an admin shares, all may use, none learns whose they are."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import httpx
import pytest
from pgdbm import AsyncDatabaseManager
from pgdbm.errors import QueryError

from llmring_server import Ring, build
from llmring_server.access.keys import IssuedKey, KeyOptions
from llmring_server.core.identity import LIBRARY, PROJECT_SCOPES
from llmring_server.errors import Forbidden, NotFound
from llmring_server.templates.models import NewTemplate, Template, TemplatePage, TemplateUpdate
from tests.templates.test_templates import NEW, URL

NOW = datetime.now(UTC)


@pytest.fixture
async def client(db: AsyncDatabaseManager) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that believes issued keys only."""
    transport = httpx.ASGITransport(app=build(db))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def admin(ring: Ring) -> IssuedKey:
    return await ring.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY
    )


@pytest.fixture
async def stranger(ring: Ring) -> IssuedKey:
    """Someone of another project, who may do anything there."""
    return await ring.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY
    )


@pytest.fixture
async def shared(ring: Ring, admin: IssuedKey) -> AsyncIterator[Template]:
    """A template that is shared since its second version."""
    first = await ring.templates.create(
        admin.project_id,
        NewTemplate(**NEW | {"system_prompt": "secret"}),
        actor=LIBRARY,
        may_share=True,
    )
    change = TemplateUpdate(system_prompt="Hi {{ who }}", shared=True)
    yield await ring.templates.replace(
        admin.project_id, first.id, change, actor=LIBRARY, may_share=True
    )
    # Other tests' lists are without it.
    await ring.templates.replace(
        admin.project_id, first.id, TemplateUpdate(shared=False), actor=LIBRARY, may_share=True
    )


def of(issued: IssuedKey) -> dict[str, str]:
    return {"X-API-Key": issued.secret}


async def test_a_shared_template_is_everyone_s_to_see_and_to_use(
    client: httpx.AsyncClient, admin: IssuedKey, stranger: IssuedKey, shared: Template
) -> None:
    url, theirs = f"{URL}/{shared.id}", of(stranger)
    answers = [
        await client.get(url, headers=theirs),
        await client.get(URL, headers=theirs),
        await client.post(f"{url}/use", headers=theirs),
        await client.post(f"{url}/render", json={"variables": {"who": "you"}}, headers=theirs),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert answers[3].json()["system_prompt"] == "Hi you"
    for answer in answers:
        assert not {str(admin.project_id), "ada", "secret"} & set(answer.text.split('"'))
    assert [each["project_id"] for each in answers[1].json()] == [None]
    mine = (await client.get(url, headers=of(admin))).json()
    assert (mine["usage_count"], mine["created_by"]) == (1, "ada")


async def test_what_is_not_said_of_a_shared_template_is_not_there(
    client: httpx.AsyncClient, stranger: IssuedKey, shared: Template
) -> None:
    url, theirs = f"{URL}/{shared.id}", of(stranger)
    answers = [
        await client.put(url, json={"name": "mine"}, headers=theirs),
        await client.put(url, json={"shared": False}, headers=theirs),
        await client.patch(url, json={"description": None}, headers=theirs),
        await client.delete(url, headers=theirs),
        await client.get(f"{url}/versions", headers=theirs),
        await client.get(f"{url}/versions/1", headers=theirs),
        await client.post(f"{url}/render", json={"version": 1}, headers=theirs),
    ]
    assert {(each.status_code, each.json()["detail"]) for each in answers} == {
        (404, NotFound.detail)
    }
    assert (await client.get(f"{URL}/stats", headers=theirs)).json() == []
    for maker in ("ada", ""):
        found = await client.get(URL, params={"created_by": maker}, headers=theirs)
        assert (found.json() == []) == bool(maker)


async def test_only_an_admin_shares_or_changes_what_is_shared(
    client: httpx.AsyncClient, ring: Ring, admin: IssuedKey, shared: Template
) -> None:
    usual = of(await ring.keys.issue_for(admin.project_id, actor=LIBRARY))
    own = (await client.post(URL, json=NEW, headers=usual)).json()
    answers = [
        await client.post(URL, json=NEW | {"shared": True}, headers=usual),
        await client.put(f"{URL}/{own['id']}", json={"shared": True}, headers=usual),
        *[
            await client.request(method, f"{URL}/{shared.id}", json=body, headers=usual)
            for method, body in (
                ("PUT", {"shared": False}), ("PUT", {"name": "x"}), ("PATCH", {}), ("DELETE", None),
            )
        ],
    ]  # fmt: skip
    assert {answer.status_code for answer in answers} == {403}
    again = await client.put(f"{URL}/{own['id']}", json={"shared": False}, headers=usual)
    assert (again.status_code, again.json()["shared"]) == (200, False)
    assert await ring.templates.get(admin.project_id, shared.id) == shared


async def test_what_is_no_longer_shared_is_no_longer_there(
    client: httpx.AsyncClient, ring: Ring, admin: IssuedKey, stranger: IssuedKey
) -> None:
    new = NewTemplate.model_validate(NEW | {"shared": True})
    for change in (TemplateUpdate(shared=False), TemplateUpdate(is_active=False)):
        template = await ring.templates.create(admin.project_id, new, actor=LIBRARY, may_share=True)
        assert await ring.templates.get(stranger.project_id, template.id)
        await ring.templates.replace(
            admin.project_id, template.id, change, actor=LIBRARY, may_share=True
        )
        answer = await client.post(f"{URL}/{template.id}/use", headers=of(stranger))
        assert answer.status_code == 404


async def test_sharing_is_audited(client: httpx.AsyncClient, ring: Ring, admin: IssuedKey) -> None:
    made = await client.post(URL, json=NEW | {"shared": True}, headers=of(admin))
    url = f"{URL}/{made.json()['id']}"
    await client.put(url, json={"shared": False}, headers=of(admin))
    await client.put(url, json={"name": "x"}, headers=of(admin))
    events = await ring.audit.events(NOW, admin.project_id)
    assert [(each.action, each.actor) for each in events[:-1]] == [
        ("template.change", admin.id), ("template.create", admin.id),
    ]  # fmt: skip
    assert {each.target for each in events[:-1]} == {made.json()["id"]}


async def test_an_actor_alone_may_not_share(ring: Ring, admin: IssuedKey, shared: Template) -> None:
    new = NewTemplate.model_validate(NEW | {"shared": True})
    with pytest.raises(Forbidden):
        await ring.templates.create(admin.project_id, new, actor=LIBRARY)
    with pytest.raises(Forbidden):
        await ring.templates.replace(
            admin.project_id, shared.id, TemplateUpdate(name="x"), actor=LIBRARY
        )
    with pytest.raises(Forbidden):
        await ring.templates.update(
            admin.project_id, shared.id, TemplateUpdate(name="x"), actor=LIBRARY
        )
    with pytest.raises(Forbidden):
        await ring.templates.delete(admin.project_id, shared.id, actor=LIBRARY)
    assert await ring.templates.get(admin.project_id, shared.id) == shared
    assert await ring.templates.list(admin.project_id, TemplatePage(created_by="ada")) == [shared]


async def test_the_serving_role_cannot_rewrite_a_version(db: AsyncDatabaseManager) -> None:
    for statement in ("UPDATE {{tables.%s}} SET name = ''", "DELETE FROM {{tables.%s}}"):
        with pytest.raises(QueryError) as caught:
            await db.execute(statement % "template_versions")
        assert isinstance(caught.value.__cause__, asyncpg.InsufficientPrivilegeError)
