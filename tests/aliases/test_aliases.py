"""Aliases: what they mean, in each profile, to each project."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring
from llmring_server.aliases import BindAlias
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.errors import NotFound

URL = "/api/v1/aliases"
MODEL = "openai:gpt-4o-mini"


async def bound(client: httpx.AsyncClient, **binding: Any) -> dict[str, Any]:
    answer = await client.post(f"{URL}/bind", json={"alias": "fast", "model": MODEL} | binding)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def means(client: httpx.AsyncClient, **query: str) -> str | None:
    answer = await client.get(f"{URL}/resolve", params={"alias": "fast"} | query)
    assert answer.json()["alias"] == (query.get("alias") or "fast")
    model: str | None = answer.json()["model"]
    return model


async def test_bind_alias_answers_as_it_always_was(
    client: httpx.AsyncClient, project_id: ProjectId
) -> None:
    metadata = {"why": ["cheap", 0.5, None]}
    told = await bound(client, metadata=metadata)
    again = await bound(client, model="anthropic:claude-3-5-haiku:beta", profile=None)
    assert again["metadata"] is None
    assert (again["id"], again["created_at"]) == (told["id"], told["created_at"])
    assert again["updated_at"] > told["updated_at"]
    assert isinstance(told.pop("id"), int)
    assert told.pop("created_at").endswith("Z")
    assert told.pop("updated_at").endswith("Z")
    assert told == {
        "project_id": str(project_id), "profile": "default", "alias": "fast", "model": MODEL,
        "metadata": metadata,
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"alias": ""}, {"alias": "a" * 65}, {"alias": None}, {"model": "gpt-4o"}, {"model": ":x"},
        {"model": "openai:"}, {"model": "open ai:x"}, {"model": "o:" + "x" * 254}, {"profile": ""},
        {"profile": "p" * 65}, {"metadata": []}, {"metadata": {"k": "v" * 65_536}},
        {"alias": "a\0b"}, {"model": "\n:x"}, {"alias": "bind"}, {"alias": "resolve"},
    ],
    ids=lambda wrong: str(wrong)[:40],
)  # fmt: skip
async def test_bind_alias_refuses_what_makes_no_sense(
    client: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    answer = await client.post(f"{URL}/bind", json={"alias": "fast", "model": MODEL} | wrong)
    assert answer.status_code == 422


@pytest.mark.parametrize("rare", ["\x85", "\x1f", "\u2003", "\U000e0001"])
async def test_bind_alias_takes_in_the_database_what_it_takes_at_the_door(
    client: httpx.AsyncClient, rare: str
) -> None:
    model = f"a{rare}b:{rare}c"
    assert (await bound(client, alias=f"x{rare}", model=model))["model"] == model


async def test_resolve_alias_looks_in_one_profile_only(client: httpx.AsyncClient) -> None:
    await bound(client)
    await bound(client, profile="prod", model="openai:gpt-4o")
    assert await means(client) == await means(client, profile="") == MODEL
    assert await means(client, profile="prod") == "openai:gpt-4o"
    assert await means(client, profile="dev") is None
    assert await means(client, alias="slow") is None
    assert (await client.get(f"{URL}/resolve")).status_code == 422


NAMES = ("fast", "team/fast", "ü fast")


@pytest.mark.parametrize("alias", NAMES)
async def test_get_alias_and_rebind_alias_by_any_name(
    client: httpx.AsyncClient, alias: str
) -> None:
    url = f"{URL}/{alias}"
    assert (await client.get(url)).status_code == 404
    told = (await client.put(url, json={"model": MODEL, "profile": "dev"})).json()
    assert (told["alias"], told["profile"]) == (alias, "dev")
    assert (await client.get(url)).status_code == 404
    assert (await client.get(f"{url}/?profile=dev")).json() == told


async def test_rebind_alias_refuses_what_makes_no_sense(client: httpx.AsyncClient) -> None:
    assert (await client.put(f"{URL}/{'a' * 65}", json={"model": MODEL})).status_code == 404
    assert (await client.put(f"{URL}/fast", json={"model": "x"})).status_code == 422


@pytest.mark.parametrize("alias", NAMES)
async def test_delete_alias_is_of_one_profile_and_may_be_said_twice(
    client: httpx.AsyncClient, alias: str
) -> None:
    for profile in ("dev", "prod"):
        await bound(client, alias=alias, profile=profile)
    for _ in range(2):
        answer = await client.delete(f"{URL}/{alias}?profile=dev")
        assert answer.json() == {"deleted": True}
    assert await means(client, alias=alias, profile="dev") is None
    assert await means(client, alias=alias, profile="prod") == MODEL


async def test_list_aliases_is_ordered_and_bounded(client: httpx.AsyncClient) -> None:
    for alias, profile in (("b", "default"), ("a", "prod"), ("a", "default"), ("c", "prod")):
        await bound(client, alias=alias, profile=profile)

    async def listed(**query: Any) -> list[str]:
        answer = await client.get(f"{URL}/", params=query)
        return [f"{each['alias']} {each['profile']}" for each in answer.json()]

    assert await listed() == ["a default", "a prod", "b default", "c prod"]
    assert await listed(profile="prod") == ["a prod", "c prod"]
    assert await listed(limit=2, offset=1) == ["a prod", "b default"]
    assert (await client.get(URL, params={"limit": 1001})).status_code == 422


async def test_bind_aliases_binds_all_or_none_in_the_profile_of_the_query(
    client: httpx.AsyncClient,
) -> None:
    many = [{"alias": f"a{number}", "model": MODEL, "profile": "dev"} for number in range(1000)]
    url = f"{URL}/bulk_upsert"
    assert (await client.post(f"{url}?profile=prod", json=many)).json() == {"updated": 1000}
    assert await means(client, alias="a999", profile="prod") == MODEL
    assert await means(client, alias="a999", profile="dev") is None
    twice = [many[0], many[0] | {"model": "openai:other"}]
    assert (await client.post(url, json=twice)).json() == {"updated": 1}
    assert await means(client, alias="a0") == "openai:other"
    assert (await client.post(url)).json() == {"updated": 0}
    wrong: list[Any] = [[*many, many[0]], [{"alias": "b", "model": MODEL}, {"alias": "c"}], {}]
    assert {(await client.post(url, json=each)).status_code for each in wrong} == {422}
    assert await means(client, alias="b") is None


async def test_many_who_bind_the_same_aliases_do_not_lock_each_other_out(
    ring: Ring, project_id: ProjectId
) -> None:
    binds = [BindAlias(alias=f"a{number}", model=MODEL) for number in range(50)]
    orders = (binds if turn % 2 else binds[::-1] for turn in range(20))
    await asyncio.gather(*(ring.aliases.bind_many(project_id, order) for order in orders))
    assert len(await ring.aliases.list(project_id)) == 50


async def test_an_alias_is_of_its_project_and_of_the_caller_s_transaction(
    ring: Ring, project_id: ProjectId, db: AsyncDatabaseManager
) -> None:
    other = project_of_key(uuid4().hex)
    await ring.aliases.bind(project_id, BindAlias(alias="fast", model=MODEL))
    await ring.aliases.bind(other, BindAlias(alias="fast", model="openai:other"))
    assert await ring.aliases.delete(other, "fast")
    assert not await ring.aliases.delete(other, "fast")
    assert await ring.aliases.resolve(project_id, "fast") == MODEL
    async with db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await ring.within(connection).aliases.bind(project_id, BindAlias(alias="slow", model=MODEL))
        await transaction.rollback()
    with pytest.raises(NotFound):
        await ring.aliases.get(project_id, "slow")
