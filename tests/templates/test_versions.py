"""Versions of templates: every one is kept, and can be filled in."""

import asyncio
from typing import Any

import httpx

from llmring_server import Ring
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.templates.models import NewTemplate, TemplateUpdate
from tests.templates.test_templates import NEW, URL, made


async def test_replace_template_changes_fields_that_are_set_and_not_null(
    client: httpx.AsyncClient,
) -> None:
    first = await made(client)
    url = f"{URL}/{first['id']}"
    changed = (await client.put(url, json={"system_prompt": "Ho", "name": None})).json()
    assert changed.pop("updated_at") > first.pop("updated_at")
    assert changed == first | {"version": 2, "system_prompt": "Ho"}
    assert (await client.put(url, json={})).json()["version"] == 2
    wrong: list[Any] = [{"temperature": 3}, {"tool_config": []}, {"is_active": "no"}]
    assert {(await client.put(url, json=each)).status_code for each in wrong} == {422}


async def test_list_versions_has_one_for_every_change(client: httpx.AsyncClient) -> None:
    url = f"{URL}/{(await made(client))['id']}"
    await client.put(url, json={"system_prompt": "Ho"})
    versions = (await client.get(f"{url}/versions")).json()
    assert [(each["version"], each["system_prompt"]) for each in versions] == [
        (2, "Ho"), (1, "Hi {{ who }}"),
    ]  # fmt: skip
    assert (await client.get(f"{url}/versions?limit=1&offset=1")).json() == versions[1:]
    assert (await client.get(f"{url}/versions?offset=5")).json() == []


async def test_get_version_is_as_it_was(client: httpx.AsyncClient) -> None:
    url = f"{URL}/{(await made(client))['id']}"
    await client.put(url, json={"model": "other"})
    told = (await client.get(f"{url}/versions/1")).json()
    assert told["model"] == "claude-3-sonnet-20240229"
    for version in ("3", "0", "-1", "x", "99999999999", "%D9%A1"):
        assert (await client.get(f"{url}/versions/{version}")).status_code == 404


async def test_update_template_clears_nullable_fields_with_null(
    client: httpx.AsyncClient,
) -> None:
    url = f"{URL}/{(await made(client, description='d', max_tokens=5))['id']}"
    changed = (await client.patch(url, json={"max_tokens": None, "name": None})).json()
    assert (changed["max_tokens"], changed["description"], changed["name"]) == (
        None,
        "d",
        "support",
    )


async def test_two_changes_at_once_are_two_versions(ring: Ring, project_id: ProjectId) -> None:
    template = await ring.templates.create(
        project_id, NewTemplate(**NEW), actor=LIBRARY, may_share=True
    )
    changes = (TemplateUpdate(name=f"n{number}") for number in range(20))
    await asyncio.gather(
        *(
            ring.templates.replace(project_id, template.id, each, actor=LIBRARY, may_share=True)
            for each in changes
        )
    )
    kept = await ring.templates.versions(project_id, template.id)
    assert [each.version for each in kept] == list(range(21, 0, -1))
    assert len({each.name for each in kept}) == 21


async def test_render_template_fills_in_and_names_what_is_missing(
    client: httpx.AsyncClient,
) -> None:
    url = f"{URL}/{(await made(client))['id']}"
    await client.put(url, json={"system_prompt": "Ho {{ who }}, {{ what }}"})
    given = {"variables": {"who": "Ada", "what": 0.10}}
    told = (await client.post(f"{url}/render", json=given)).json()
    assert told == {
        "template_id": url.rpartition("/")[2], "version": 2, "system_prompt": "Ho Ada, 0.1",
        "model": "claude-3-sonnet-20240229", "temperature": 0.7, "max_tokens": None,
        "tool_config": {},
    }  # fmt: skip
    first = await client.post(f"{url}/render", json=given | {"version": 1})
    assert first.json()["system_prompt"] == "Hi Ada"
    refused = await client.post(f"{url}/render", json={})
    assert (refused.status_code, refused.json()["code"]) == (422, "missing_variables")
    assert refused.json()["detail"] == "variables: missing: who, what"
    assert (await client.get(url)).json()["usage_count"] == 0
    wrong: list[Any] = [{"variables": []}, {"version": 0}, {"version": "1"}]
    answers = [await client.post(f"{url}/render", json=each) for each in wrong]
    assert {answer.status_code for answer in answers} == {422}
