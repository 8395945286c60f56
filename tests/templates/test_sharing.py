"""Shared templates: who shares them, that every project uses them, and what it learns of whom."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import httpx
import pytest
from pgdbm import AsyncDatabaseManager
from pgdbm.errors import QueryError

from llmring_server import Ring, Settings, build
from llmring_server.access.keys import IssuedKey, KeyOptions
from llmring_server.core.identity import DEFAULT_SCOPES, LIBRARY, PROJECT_SCOPES
from llmring_server.core.pagination import INVALID_CURSOR, Position
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


@pytest.mark.parametrize(
    "scopes", [DEFAULT_SCOPES, (*DEFAULT_SCOPES, "admin", "operator")], ids=len
)
async def test_only_a_key_that_may_share_shares_templates_and_changes_shared_ones(
    client: httpx.AsyncClient,
    ring: Ring,
    admin: IssuedKey,
    shared: Template,
    scopes: tuple[str, ...],
) -> None:
    options = KeyOptions(scopes=scopes)
    usual = headers_of(await ring.keys.issue_for(admin.project_id, options, actor=LIBRARY))
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
    assert {(response.status_code, response.json()["detail"]) for response in responses} == {
        (
            403,
            "Sharing a template, or changing a shared one, requires the scope templates:share.",
        )
    }
    again = await client.put(f"{TEMPLATES}/{own['id']}", json={"shared": False}, headers=usual)
    assert (again.status_code, again.json()["shared"]) == (200, False)
    assert await ring.templates.get(admin.project_id, shared.id) == shared


async def test_a_key_needs_no_more_than_two_scopes_to_share(
    client: httpx.AsyncClient, ring: Ring
) -> None:
    options = KeyOptions(scopes=("conversations", "templates:share"))
    sharer = headers_of(await ring.keys.issue(f"project {uuid4()}", options, actor=LIBRARY))
    body = NEW_TEMPLATE | {"shared": True}
    created = await client.post(TEMPLATES, json=body, headers=sharer)
    url = f"{TEMPLATES}/{created.json()['id']}"
    responses = [
        await client.put(url, json={"name": "x"}, headers=sharer),
        await client.patch(url, json={"description": None}, headers=sharer),
        await client.delete(url, headers=sharer),
        await client.put(url, json={"is_active": True, "shared": False}, headers=sharer),
        await client.put(url, json={"shared": True}, headers=sharer),
        await client.put(url, json={"shared": False}, headers=sharer),
    ]
    assert {response.status_code for response in responses} == {200}
    only = KeyOptions(scopes=("templates:share",))
    key = headers_of(await ring.keys.issue(f"project {uuid4()}", only, actor=LIBRARY))
    assert (await client.post(TEMPLATES, json=body, headers=key)).status_code == 403


async def test_every_key_shares_in_mode_open(db: AsyncDatabaseManager, shared: Template) -> None:
    transport = httpx.ASGITransport(app=build(db, Settings(auth="open")))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        sharer, other = {"X-API-Key": uuid4().hex}, {"X-API-Key": uuid4().hex}
        body = NEW_TEMPLATE | {"shared": True}
        created = (await client.post(TEMPLATES, json=body, headers=sharer)).json()
        url = f"{TEMPLATES}/{created['id']}"
        seen = (await client.get(url, headers=other)).json()
        # A project of this mode has no name, and its id is derived from its key.
        assert (seen["shared_by"], seen["project_id"]) == (None, None)
        listed = (await client.get(TEMPLATES, headers=sharer)).json()
        assert [each["id"] for each in listed] == [created["id"], str(shared.id)]
        await client.put(url, json={"shared": False}, headers=sharer)


async def test_other_projects_see_which_project_shares_a_template(
    client: httpx.AsyncClient, ring: Ring, admin: IssuedKey, stranger: IssuedKey, shared: Template
) -> None:
    url, theirs = f"{TEMPLATES}/{shared.id}", headers_of(stranger)
    for name in (f"first {uuid4()}", f"second {uuid4()}"):
        await ring.projects.rename(admin.project_id, name, actor=LIBRARY)
        [listed] = (await client.get(TEMPLATES, headers=theirs)).json()
        seen = (await client.get(url, headers=theirs)).json()
        used = (await client.post(f"{url}/use", headers=theirs)).json()
        assert listed["shared_by"] == seen["shared_by"] == used["shared_by"] == name
        own = headers_of(admin)
        for response in (
            await client.get(url, headers=own),
            await client.post(f"{url}/use", headers=own),
            await client.put(url, json={"shared": True}, headers=own),
        ):
            assert response.json()["shared_by"] is None
        [listed] = (await client.get(TEMPLATES, headers=own)).json()
        assert listed["shared_by"] is None


async def test_own_templates_come_before_those_of_other_projects(
    client: httpx.AsyncClient, ring: Ring, admin: IssuedKey, stranger: IssuedKey
) -> None:
    def new(name: str, *, shared: bool = False) -> NewTemplate:
        return NewTemplate(**NEW_TEMPLATE | {"name": name, "shared": shared})

    own = [
        await ring.templates.create(
            stranger.project_id, new("support", shared=n == 1), actor=LIBRARY, may_share=True
        )
        for n in range(3)
    ]
    # Of the same name, and newer.
    others = [
        await ring.templates.create(
            admin.project_id, new("support", shared=True), actor=LIBRARY, may_share=True
        )
        for _ in range(3)
    ]
    expected = [str(each.id) for each in (*own[::-1], *others[::-1])]
    theirs = headers_of(stranger)
    for limit in range(1, 8):
        page = await client.get(TEMPLATES, params={"limit": limit}, headers=theirs)
        listed = page.json()
        while link := page.links.get("next"):
            page = await client.get(TEMPLATES + link["url"], headers=theirs)
            listed += page.json()
        assert [each["id"] for each in listed] == expected
    for offset in range(7):
        params = {"limit": 2, "offset": offset}
        page = await client.get(TEMPLATES, params=params, headers=theirs)
        assert [each["id"] for each in page.json()] == expected[offset : offset + 2]
    for template in (own[1], *others):
        project_id = stranger.project_id if template is own[1] else admin.project_id
        unshared = TemplateUpdate(shared=False)
        await ring.templates.update(
            project_id, template.id, unshared, actor=LIBRARY, may_share=True
        )


async def test_a_cursor_from_when_lists_were_ordered_by_time_is_refused(
    client: httpx.AsyncClient, stranger: IssuedKey
) -> None:
    page = TemplatePage()
    former = page.following(stranger.project_id, Position(NOW, uuid4()))
    response = await client.get(TEMPLATES, params={"cursor": former}, headers=headers_of(stranger))
    assert (response.status_code, response.json()["detail"]) == (422, INVALID_CURSOR)


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
    for statement in ("UPDATE {{tables.%s}} SET name = ''", "DELETE FROM {{tables.%s}}"):
        with pytest.raises(QueryError) as caught:
            await db.execute(statement % "template_versions")
        assert isinstance(caught.value.__cause__, asyncpg.InsufficientPrivilegeError)
