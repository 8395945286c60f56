"""Templates: made, found, counted at each use, and taken out of sight."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from llmring_server.core.identity import LIBRARY, ProjectId
from llmring_server.errors import NotFound
from llmring_server.templates.models import NewTemplate

NEW: dict[str, Any] = {"name": "support", "created_by": "ada", "system_prompt": "Hi {{ who }}"}
URL = "/api/v1/templates"


async def made(client: httpx.AsyncClient, **other: Any) -> dict[str, Any]:
    answer = await client.post(URL, json=NEW | other)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_create_template_answers_as_it_always_was(
    client: httpx.AsyncClient, project_id: ProjectId
) -> None:
    told = await made(client, project_id=str(uuid4()), id=str(uuid4()), usage_count=99)
    assert told.pop("id")
    assert told.pop("created_at").endswith("Z")
    assert told.pop("updated_at").endswith("Z")
    assert told == NEW | {
        "description": None, "model": "claude-3-sonnet-20240229", "temperature": 0.7,
        "max_tokens": None, "tool_config": {}, "api_key_id": None, "project_id": str(project_id),
        "is_active": True, "shared": False, "usage_count": 0, "last_used_at": None, "version": 1,
    }  # fmt: skip


async def test_a_template_may_be_as_long_as_it_is_said(client: httpx.AsyncClient) -> None:
    longest = "\U0001f600" * 200_000
    told = await made(client, description=longest, system_prompt=longest)
    assert told["system_prompt"] == longest
    answer = await client.post(URL, json=NEW | {"system_prompt": f"{longest}."})
    assert answer.status_code == 422


async def test_get_template_gives_back_what_was_given(client: httpx.AsyncClient) -> None:
    given = {
        "description": "d", "model": "openai:gpt-4o", "temperature": 1.25, "max_tokens": 5,
        "tool_config": {"a": [1, 0.5, None, {"b": "ü"}]},
    }  # fmt: skip
    told = await made(client, **given)
    assert {name: told[name] for name in given} == given
    assert (await client.get(f"{URL}/{told['id']}")).json() == told
    assert (await client.get(f"{URL}/x")).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""}, {"name": "x" * 256}, {"name": None}, {"name": "a\0b"}, {"created_by": " "},
        {"model": "x" * 256}, {"temperature": 2.01}, {"temperature": -0.1}, {"max_tokens": 0},
        {"max_tokens": True}, {"max_tokens": 2**31}, {"tool_config": []}, {"system_prompt": 1},
        {"tool_config": {"a": 10**20}}, {"tool_config": {"k": "v" * 65_536}}, {"shared": "yes"},
    ],
    ids=lambda wrong: str(wrong)[:40],
)  # fmt: skip
async def test_create_template_refuses_what_makes_no_sense(
    client: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    assert (await client.post(URL, json=NEW | wrong)).status_code == 422


async def test_delete_template_takes_it_out_of_sight_and_keeps_it(
    client: httpx.AsyncClient,
) -> None:
    url = f"{URL}/{(await made(client))['id']}"
    assert (await client.delete(url)).json() == {"message": "Template deleted successfully"}
    gone = [
        await client.get(url), await client.delete(url), await client.put(url, json={"name": "x"}),
        await client.post(f"{url}/use"), await client.get(f"{url}/versions"),
        await client.post(f"{url}/render", json={}),
    ]  # fmt: skip
    assert {answer.status_code for answer in gone} == {404}
    assert (await client.get(URL)).json() == (await client.get(f"{URL}/stats")).json() == []
    assert (await client.put(url, json={"is_active": True})).json()["version"] == 1
    assert (await client.get(url)).status_code == 200


async def test_a_thousand_uses_at_once_are_a_thousand(
    db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    ring = Ring(db, Settings(acquire_timeout=60))
    template = await ring.templates.create(
        project_id, NewTemplate(**NEW), actor=LIBRARY, may_share=True
    )
    used = await asyncio.gather(*(ring.templates.use(project_id, template.id) for _ in range(1000)))
    assert sorted(each.usage_count for each in used) == list(range(1, 1001))
    assert (await ring.templates.get(project_id, template.id)).usage_count == 1000


async def test_use_template_counts(client: httpx.AsyncClient) -> None:
    template = await made(client)
    told = (await client.post(f"{URL}/{template['id']}/use")).json()
    assert told.pop("last_used_at").endswith("Z")
    assert template.pop("last_used_at") is None
    assert told == template | {"usage_count": 1}


async def test_template_stats_tell_which_is_used_most(client: httpx.AsyncClient) -> None:
    often, once = await made(client), await made(client, name="rare")
    for each in (often, often, once):
        await client.post(f"{URL}/{each['id']}/use")
    stats = (await client.get(f"{URL}/stats")).json()
    assert [(each["template_name"], each["usage_count"]) for each in stats] == [
        ("support", 2), ("rare", 1),
    ]  # fmt: skip
    assert stats[0].keys() == {
        "template_id", "template_name", "usage_count", "last_used_at", "created_at",
    }  # fmt: skip
    assert len((await client.get(f"{URL}/stats?limit=1")).json()) == 1


async def test_list_templates_comes_in_pages(client: httpx.AsyncClient) -> None:
    ids = [(await made(client, name=f"n{number}"))["id"] for number in range(5)][::-1]
    await made(client, created_by="bob")
    first = await client.get(URL, params={"created_by": "ada", "limit": 2})
    seen, answer = first.json(), first
    while link := answer.links.get("next"):
        answer = await client.get(URL + link["url"])
        seen += answer.json()
    assert [each["id"] for each in seen] == ids
    offset = await client.get(URL, params={"created_by": "ada", "limit": 2, "offset": 2})
    assert [each["id"] for each in offset.json()] == ids[2:4]
    for wrong in ("limit=101", "cursor=x", "offset=-1", "offset=1&cursor=x"):
        assert (await client.get(f"{URL}?{wrong}")).status_code == 422


async def test_a_use_goes_with_the_caller_s_transaction(
    ring: Ring, project_id: ProjectId, db: AsyncDatabaseManager
) -> None:
    template = await ring.templates.create(
        project_id, NewTemplate(**NEW), actor=LIBRARY, may_share=True
    )
    async with db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        inside = ring.within(connection).templates
        await inside.use(project_id, template.id)
        other = await inside.create(project_id, NewTemplate(**NEW), actor=LIBRARY)
        await transaction.rollback()
    assert (await ring.templates.get(project_id, template.id)).usage_count == 0
    with pytest.raises(NotFound):
        await ring.templates.get(project_id, other.id)
