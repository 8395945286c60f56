"""Shared templates: admins share them, every project uses them, and their owner stays hidden."""

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
from llmring_server.errors import Forbidden
from llmring_server.templates import NewTemplate, Template, TemplatePage, TemplateUpdate
from tests.support.templates import NEW_TEMPLATE, TEMPLATES

NOW = datetime.now(UTC)


@pytest.fixture
async def client(db: AsyncDatabaseManager) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that accepts issued keys only."""
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
    """A key of another project, with all scopes there."""
    return await ring.keys.issue(
        f"project {uuid4()}", KeyOptions(scopes=PROJECT_SCOPES), actor=LIBRARY
    )


@pytest.fixture
async def shared(ring: Ring, admin: IssuedKey) -> AsyncIterator[Template]:
    """A template that has been shared since its second version."""
    first = await ring.templates.create(
        admin.project_id,
        NewTemplate(**NEW_TEMPLATE | {"system_prompt": "secret"}),
        actor=LIBRARY,
        may_share=True,
    )
    change = TemplateUpdate(system_prompt="Hi {{ who }}", shared=True)
    yield await ring.templates.update(
        admin.project_id, first.id, change, actor=LIBRARY, may_share=True
    )
    # Shared templates appear in the lists of other tests.
    await ring.templates.update(
        admin.project_id, first.id, TemplateUpdate(shared=False), actor=LIBRARY, may_share=True
    )


def headers_of(key: IssuedKey) -> dict[str, str]:
    return {"X-API-Key": key.secret}


async def test_every_project_sees_and_uses_a_shared_template(
    client: httpx.AsyncClient, admin: IssuedKey, stranger: IssuedKey, shared: Template
) -> None:
    url, theirs = f"{TEMPLATES}/{shared.id}", headers_of(stranger)
    responses = [
        await client.get(url, headers=theirs),
        await client.get(TEMPLATES, headers=theirs),
        await client.post(f"{url}/use", headers=theirs),
        await client.post(f"{url}/render", json={"variables": {"who": "you"}}, headers=theirs),
    ]
    assert [response.status_code for response in responses] == [200] * 4
    assert responses[3].json()["system_prompt"] == "Hi you"
    for response in responses:
        assert not {str(admin.project_id), "ada", "secret"} & set(response.text.split('"'))
    assert [each["project_id"] for each in responses[1].json()] == [None]
    own = (await client.get(url, headers=headers_of(admin))).json()
    assert (own["usage_count"], own["created_by"]) == (1, "ada")


async def test_another_project_cannot_change_a_shared_template_or_read_its_history(
    client: httpx.AsyncClient, stranger: IssuedKey, shared: Template
) -> None:
    url, theirs = f"{TEMPLATES}/{shared.id}", headers_of(stranger)
    responses = [
        await client.put(url, json={"name": "mine"}, headers=theirs),
        await client.put(url, json={"shared": False}, headers=theirs),
        await client.patch(url, json={"description": None}, headers=theirs),
        await client.delete(url, headers=theirs),
        await client.get(f"{url}/versions", headers=theirs),
        await client.get(f"{url}/versions/1", headers=theirs),
        await client.post(f"{url}/render", json={"version": 1}, headers=theirs),
    ]
    assert {(response.status_code, response.json()["detail"]) for response in responses} == {
        (404, "Template not found"),
        (404, "Template version not found"),
    }
    assert (await client.get(f"{TEMPLATES}/stats", headers=theirs)).json() == []
    for author in ("ada", ""):
        listed = await client.get(TEMPLATES, params={"created_by": author}, headers=theirs)
        assert (listed.json() == []) == bool(author)


async def test_only_an_admin_shares_templates_and_changes_shared_ones(
    client: httpx.AsyncClient, ring: Ring, admin: IssuedKey, shared: Template
) -> None:
    usual = headers_of(await ring.keys.issue_for(admin.project_id, actor=LIBRARY))
    own = (await client.post(TEMPLATES, json=NEW_TEMPLATE, headers=usual)).json()
    responses = [
        await client.post(TEMPLATES, json=NEW_TEMPLATE | {"shared": True}, headers=usual),
        await client.put(f"{TEMPLATES}/{own['id']}", json={"shared": True}, headers=usual),
        *[
            await client.request(method, f"{TEMPLATES}/{shared.id}", json=body, headers=usual)
            for method, body in (
                ("PUT", {"shared": False}),
                ("PUT", {"name": "x"}),
                ("PATCH", {}),
                ("DELETE", None),
            )
        ],
    ]
    assert {response.status_code for response in responses} == {403}
    again = await client.put(f"{TEMPLATES}/{own['id']}", json={"shared": False}, headers=usual)
    assert (again.status_code, again.json()["shared"]) == (200, False)
    assert await ring.templates.get(admin.project_id, shared.id) == shared


async def test_a_template_that_is_not_shared_any_more_is_not_found(
    client: httpx.AsyncClient, ring: Ring, admin: IssuedKey, stranger: IssuedKey
) -> None:
    new = NewTemplate.model_validate(NEW_TEMPLATE | {"shared": True})
    for change in (TemplateUpdate(shared=False), TemplateUpdate(is_active=False)):
        template = await ring.templates.create(admin.project_id, new, actor=LIBRARY, may_share=True)
        assert await ring.templates.get(stranger.project_id, template.id)
        await ring.templates.update(
            admin.project_id, template.id, change, actor=LIBRARY, may_share=True
        )
        response = await client.post(f"{TEMPLATES}/{template.id}/use", headers=headers_of(stranger))
        assert response.status_code == 404


async def test_changes_of_shared_templates_are_audited(
    client: httpx.AsyncClient, ring: Ring, admin: IssuedKey
) -> None:
    created = await client.post(
        TEMPLATES, json=NEW_TEMPLATE | {"shared": True}, headers=headers_of(admin)
    )
    url = f"{TEMPLATES}/{created.json()['id']}"
    await client.put(url, json={"shared": False}, headers=headers_of(admin))
    await client.put(url, json={"name": "x"}, headers=headers_of(admin))
    events = await ring.audit.events(NOW, admin.project_id)
    assert [(event.action, event.actor) for event in events[:-1]] == [
        ("template.change", admin.id),
        ("template.create", admin.id),
    ]
    assert {each.target for each in events[:-1]} == {created.json()["id"]}


async def test_an_actor_alone_may_not_share(ring: Ring, admin: IssuedKey, shared: Template) -> None:
    new = NewTemplate.model_validate(NEW_TEMPLATE | {"shared": True})
    with pytest.raises(Forbidden):
        await ring.templates.create(admin.project_id, new, actor=LIBRARY)
    with pytest.raises(Forbidden):
        await ring.templates.update(
            admin.project_id, shared.id, TemplateUpdate(name="x"), actor=LIBRARY
        )
    with pytest.raises(Forbidden):
        await ring.templates.patch(
            admin.project_id, shared.id, TemplateUpdate(name="x"), actor=LIBRARY
        )
    with pytest.raises(Forbidden):
        await ring.templates.delete(admin.project_id, shared.id, actor=LIBRARY)
    assert await ring.templates.get(admin.project_id, shared.id) == shared
    assert await ring.templates.list(admin.project_id, TemplatePage(created_by="ada")) == [shared]


async def test_the_serving_role_cannot_change_a_version(db: AsyncDatabaseManager) -> None:
    # It deletes the oldest ones, to make room.
    with pytest.raises(QueryError) as caught:
        await db.execute("UPDATE {{tables.template_versions}} SET name = ''")
    assert isinstance(caught.value.__cause__, asyncpg.InsufficientPrivilegeError)
