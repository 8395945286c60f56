"""Templates over HTTP: create, change, deactivate, count uses, list versions, render."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import NotFound
from llmring_server.templates import NewTemplate, TemplateUpdate
from tests.support.templates import NEW_TEMPLATE, TEMPLATES, create_template


async def test_create_template_returns_every_field(
    client: httpx.AsyncClient, project_id: ProjectId
) -> None:
    template = await create_template(
        client, project_id=str(uuid4()), id=str(uuid4()), usage_count=99
    )
    assert template.pop("id")
    assert template.pop("created_at").endswith("Z")
    assert template.pop("updated_at").endswith("Z")
    assert template == NEW_TEMPLATE | {
        "description": None,
        "model": "claude-3-sonnet-20240229",
        "temperature": 0.7,
        "max_tokens": None,
        "tool_config": {},
        "api_key_id": None,
        "project_id": str(project_id),
        "is_active": True,
        "shared": False,
        "usage_count": 0,
        "last_used_at": None,
        "shared_by": None,
        "version": 1,
    }


async def test_create_template_of_the_maximum_length(client: httpx.AsyncClient) -> None:
    longest = "\U0001f600" * 200_000
    template = await create_template(client, description=longest, system_prompt=longest)
    assert template["system_prompt"] == longest
    body = NEW_TEMPLATE | {"system_prompt": f"{longest}."}
    assert (await client.post(TEMPLATES, json=body)).status_code == 422


async def test_get_template_returns_what_was_created(client: httpx.AsyncClient) -> None:
    fields = {
        "description": "d",
        "model": "openai:gpt-4o",
        "temperature": 1.25,
        "max_tokens": 5,
        "tool_config": {"a": [1, 0.5, None, {"b": "ü"}]},
    }
    template = await create_template(client, **fields)
    assert {name: template[name] for name in fields} == fields
    assert (await client.get(f"{TEMPLATES}/{template['id']}")).json() == template
    assert (await client.get(f"{TEMPLATES}/x")).status_code == 404


INVALID_FIELDS: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "x" * 256},
    {"name": None},
    {"name": "a\0b"},
    {"created_by": " "},
    {"model": "x" * 256},
    {"temperature": 2.01},
    {"temperature": -0.1},
    {"max_tokens": 0},
    {"max_tokens": True},
    {"max_tokens": 2**31},
    {"tool_config": []},
    {"tool_config": {"a": 10**309}},
    {"tool_config": {"k": "v" * 65_536}},
    {"system_prompt": 1},
    {"shared": "yes"},
]


@pytest.mark.parametrize("fields", INVALID_FIELDS, ids=lambda fields: str(fields)[:40])
async def test_create_template_refuses_invalid_fields(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    assert (await client.post(TEMPLATES, json=NEW_TEMPLATE | fields)).status_code == 422


async def test_tool_config_of_the_maximum_size_is_stored(client: httpx.AsyncClient) -> None:
    largest = {"k": "v" * (65_536 - len('{"k":""}'))}
    template = await create_template(client, tool_config=largest)
    url = f"{TEMPLATES}/{template['id']}"
    assert (await client.get(url)).json()["tool_config"] == largest
    for method in ("PUT", "PATCH"):
        body = {"tool_config": {"k": largest["k"] + "v"}}
        assert (await client.request(method, url, json=body)).status_code == 422


async def test_delete_template_deactivates_it(client: httpx.AsyncClient) -> None:
    url = f"{TEMPLATES}/{(await create_template(client))['id']}"
    assert (await client.delete(url)).json() == {"message": "Template deleted successfully"}
    responses = [
        await client.get(url),
        await client.delete(url),
        await client.put(url, json={"name": "x"}),
        await client.post(f"{url}/use"),
        await client.get(f"{url}/versions"),
        await client.get(f"{url}/versions/1"),
        await client.post(f"{url}/render", json={}),
    ]
    assert {response.status_code for response in responses} == {404}
    assert (await client.get(TEMPLATES)).json() == []
    assert (await client.get(f"{TEMPLATES}/stats")).json() == []
    assert (await client.put(url, json={"is_active": True})).json()["version"] == 1
    assert (await client.get(url)).status_code == 200


async def test_a_thousand_concurrent_uses_are_all_counted(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, Settings(acquire_timeout=60))
    template = await ring.templates.create(project_id, NewTemplate(**NEW_TEMPLATE), actor=LIBRARY)
    used = await asyncio.gather(*(ring.templates.use(project_id, template.id) for _ in range(1000)))
    assert sorted(each.usage_count for each in used) == list(range(1, 1001))
    assert (await ring.templates.get(project_id, template.id)).usage_count == 1000


async def test_use_template_counts_a_use(client: httpx.AsyncClient) -> None:
    template = await create_template(client)
    used = (await client.post(f"{TEMPLATES}/{template['id']}/use")).json()
    assert used.pop("last_used_at").endswith("Z")
    assert template.pop("last_used_at") is None
    assert used == template | {"usage_count": 1}


async def test_template_stats_begin_with_the_most_used(client: httpx.AsyncClient) -> None:
    often, once = await create_template(client), await create_template(client, name="rare")
    for template in (often, often, once):
        await client.post(f"{TEMPLATES}/{template['id']}/use")
    stats = (await client.get(f"{TEMPLATES}/stats")).json()
    counts = [(stat["template_name"], stat["usage_count"]) for stat in stats]
    assert counts == [("support", 2), ("rare", 1)]
    assert stats[0].keys() == {
        "template_id",
        "template_name",
        "usage_count",
        "last_used_at",
        "created_at",
    }
    assert len((await client.get(f"{TEMPLATES}/stats?limit=1")).json()) == 1


async def test_list_templates_by_cursor_and_offset(client: httpx.AsyncClient) -> None:
    ids = [(await create_template(client, name=f"n{number}"))["id"] for number in range(5)]
    newest_first = ids[::-1]
    await create_template(client, created_by="bob")
    page = await client.get(TEMPLATES, params={"created_by": "ada", "limit": 2})
    listed = page.json()
    while link := page.links.get("next"):
        page = await client.get(TEMPLATES + link["url"])
        listed += page.json()
    assert [each["id"] for each in listed] == newest_first
    page = await client.get(TEMPLATES, params={"created_by": "ada", "limit": 2, "offset": 2})
    assert [each["id"] for each in page.json()] == newest_first[2:4]
    for invalid in ("limit=101", "cursor=x", "offset=-1", "offset=1&cursor=x"):
        assert (await client.get(f"{TEMPLATES}?{invalid}")).status_code == 422


async def test_templates_are_part_of_the_callers_transaction(
    ring: Ring, project_id: ProjectId, db: AsyncDatabaseManager
) -> None:
    new = NewTemplate(**NEW_TEMPLATE)
    template = await ring.templates.create(project_id, new, actor=LIBRARY)
    async with db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        inside = ring.within(connection).templates
        await inside.use(project_id, template.id)
        other = await inside.create(project_id, new, actor=LIBRARY)
        await transaction.rollback()
    assert (await ring.templates.get(project_id, template.id)).usage_count == 0
    with pytest.raises(NotFound):
        await ring.templates.get(project_id, other.id)


async def test_replace_template_changes_fields_that_are_set_and_not_null(
    client: httpx.AsyncClient,
) -> None:
    template = await create_template(client)
    url = f"{TEMPLATES}/{template['id']}"
    changed = (await client.put(url, json={"system_prompt": "Ho", "name": None})).json()
    assert changed.pop("updated_at") > template.pop("updated_at")
    assert changed == template | {"version": 2, "system_prompt": "Ho"}
    assert (await client.put(url, json={})).json()["version"] == 2
    invalid: list[Any] = [{"temperature": 3}, {"tool_config": []}, {"is_active": "no"}]
    assert {(await client.put(url, json=each)).status_code for each in invalid} == {422}


async def test_update_template_clears_nullable_fields_with_null(
    client: httpx.AsyncClient,
) -> None:
    template = await create_template(client, description="d", max_tokens=5)
    url = f"{TEMPLATES}/{template['id']}"
    changed = (await client.patch(url, json={"max_tokens": None, "name": None})).json()
    assert changed["max_tokens"] is None
    assert (changed["description"], changed["name"]) == ("d", "support")


async def test_list_versions_has_one_for_every_change(client: httpx.AsyncClient) -> None:
    url = f"{TEMPLATES}/{(await create_template(client))['id']}"
    await client.put(url, json={"system_prompt": "Ho"})
    versions = (await client.get(f"{url}/versions")).json()
    prompts = [(version["version"], version["system_prompt"]) for version in versions]
    assert prompts == [(2, "Ho"), (1, "Hi {{ who }}")]
    assert (await client.get(f"{url}/versions?limit=1&offset=1")).json() == versions[1:]
    assert (await client.get(f"{url}/versions?offset=5")).json() == []


async def test_list_versions_by_cursor(client: httpx.AsyncClient) -> None:
    url = f"{TEMPLATES}/{(await create_template(client))['id']}"
    other = f"{TEMPLATES}/{(await create_template(client))['id']}"
    for prompt in ("b", "c"):
        await client.put(url, json={"system_prompt": prompt})
    page = await client.get(f"{url}/versions?limit=1")
    link = page.links["next"]["url"]
    assert (await client.get(f"{other}/versions{link}")).status_code == 422
    versions = [each["version"] for each in page.json()]
    while following := page.links.get("next"):
        page = await client.get(f"{url}/versions{following['url']}")
        versions += [each["version"] for each in page.json()]
    assert versions == [3, 2, 1]


async def test_get_version_returns_the_content_of_that_version(client: httpx.AsyncClient) -> None:
    url = f"{TEMPLATES}/{(await create_template(client))['id']}"
    await client.put(url, json={"model": "other"})
    version = (await client.get(f"{url}/versions/1")).json()
    assert (version["version"], version["model"]) == (1, "claude-3-sonnet-20240229")
    for unknown in ("3", "0", "-1", "x", "99999999999", "%D9%A1"):
        assert (await client.get(f"{url}/versions/{unknown}")).status_code == 404


async def test_concurrent_changes_are_a_version_each(ring: Ring, project_id: ProjectId) -> None:
    template = await ring.templates.create(project_id, NewTemplate(**NEW_TEMPLATE), actor=LIBRARY)
    changes = [TemplateUpdate(name=f"n{number}") for number in range(20)]
    await asyncio.gather(
        *(
            ring.templates.update(project_id, template.id, change, actor=LIBRARY)
            for change in changes
        )
    )
    versions = await ring.templates.versions(project_id, template.id)
    assert [version.version for version in versions] == list(range(21, 0, -1))
    assert len({each.name for each in versions}) == 21


async def test_render_template_of_any_version(client: httpx.AsyncClient) -> None:
    url = f"{TEMPLATES}/{(await create_template(client))['id']}"
    await client.put(url, json={"system_prompt": "Ho {{ who }}, {{ what }}"})
    body = {"variables": {"who": "Ada", "what": 0.10}}
    rendered = (await client.post(f"{url}/render", json=body)).json()
    assert rendered == {
        "template_id": url.rpartition("/")[2],
        "version": 2,
        "system_prompt": "Ho Ada, 0.1",
        "model": "claude-3-sonnet-20240229",
        "temperature": 0.7,
        "max_tokens": None,
        "tool_config": {},
    }
    first = await client.post(f"{url}/render", json=body | {"version": 1})
    assert (first.json()["version"], first.json()["system_prompt"]) == (1, "Hi Ada")
    assert (await client.get(url)).json()["usage_count"] == 0


async def test_render_template_names_missing_variables(client: httpx.AsyncClient) -> None:
    template = await create_template(client, system_prompt="Ho {{ who }}, {{ what }}")
    url = f"{TEMPLATES}/{template['id']}/render"
    refused = await client.post(url, json={})
    assert (refused.status_code, refused.json()["code"]) == (422, "missing_variables")
    assert refused.json()["detail"] == "variables: missing: who, what"
    invalid: list[Any] = [{"variables": []}, {"version": 0}, {"version": "1"}]
    responses = [await client.post(url, json=body) for body in invalid]
    assert {response.status_code for response in responses} == {422}
