"""Aliases over HTTP: bind, resolve, list and delete them, by profile and project."""

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

ALIASES = "/api/v1/aliases"
MODEL = "openai:gpt-4o-mini"


async def bind(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(f"{ALIASES}/bind", json={"alias": "fast", "model": MODEL} | fields)
    assert response.status_code == 200, response.text
    binding: dict[str, Any] = response.json()
    return binding


async def resolve(client: httpx.AsyncClient, **query: str) -> str | None:
    response = await client.get(f"{ALIASES}/resolve", params={"alias": "fast"} | query)
    assert response.json()["alias"] == (query.get("alias") or "fast")
    model: str | None = response.json()["model"]
    return model


async def test_bind_alias_returns_the_binding_and_replaces_it(
    client: httpx.AsyncClient, project_id: ProjectId
) -> None:
    metadata = {"why": ["cheap", 0.5, None]}
    first = await bind(client, metadata=metadata)
    second = await bind(client, model="anthropic:claude-3-5-haiku:beta", profile=None)
    assert second["metadata"] is None
    assert (second["id"], second["created_at"]) == (first["id"], first["created_at"])
    assert second["updated_at"] > first["updated_at"]
    assert isinstance(first.pop("id"), int)
    assert first.pop("created_at").endswith("Z")
    assert first.pop("updated_at").endswith("Z")
    assert first == {
        "project_id": str(project_id),
        "profile": "default",
        "alias": "fast",
        "model": MODEL,
        "metadata": metadata,
    }


INVALID_FIELDS: list[dict[str, Any]] = [
    {"alias": ""},
    {"alias": "a" * 65},
    {"alias": None},
    {"alias": "a\0b"},
    {"alias": "bind"},
    {"alias": "resolve"},
    {"model": ""},
    {"model": " "},
    {"model": " fast"},
    {"model": "a\0b"},
    {"model": "x" * 256},
    {"model": None},
    {"model": ":x"},
    {"model": "openai:"},
    {"model": "open ai:x"},
    {"model": "o:" + "x" * 254},
    {"model": "\n:x"},
    {"profile": ""},
    {"profile": "p" * 65},
    {"metadata": []},
    {"metadata": {"k": "v" * 65_536}},
]


@pytest.mark.parametrize("fields", INVALID_FIELDS, ids=lambda fields: str(fields)[:40])
async def test_bind_alias_refuses_invalid_fields(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    body = {"alias": "fast", "model": MODEL} | fields
    assert (await client.post(f"{ALIASES}/bind", json=body)).status_code == 422


async def test_metadata_of_the_maximum_size_is_stored(client: httpx.AsyncClient) -> None:
    largest = {"k": "v" * (65_536 - len('{"k":""}'))}
    assert (await bind(client, metadata=largest))["metadata"] == largest
    body = {"model": MODEL, "metadata": {"k": largest["k"] + "v"}}
    assert (await client.put(f"{ALIASES}/fast", json=body)).status_code == 422


@pytest.mark.parametrize("character", ["\x85", "\x1f", "\u2003", "\U000e0001"])
async def test_bind_alias_stores_unusual_characters(
    client: httpx.AsyncClient, character: str
) -> None:
    model = f"a{character}b:{character}c"
    assert (await bind(client, alias=f"x{character}", model=model))["model"] == model


async def test_resolve_alias_looks_in_one_profile_only(client: httpx.AsyncClient) -> None:
    await bind(client)
    await bind(client, profile="prod", model="openai:gpt-4o")
    assert await resolve(client) == await resolve(client, profile="") == MODEL
    assert await resolve(client, profile="prod") == "openai:gpt-4o"
    assert await resolve(client, profile="dev") is None
    assert await resolve(client, alias="slow") is None
    assert (await client.get(f"{ALIASES}/resolve")).status_code == 422


@pytest.mark.parametrize(
    ("bindings", "resolved"),
    [
        ({"summarizer": "fast", "fast": MODEL}, MODEL),
        ({"a": "summarizer", "summarizer": "fast", "fast": MODEL}, MODEL),
        ({"summarizer": "gpt-4o"}, "gpt-4o"),
        ({"summarizer": "meta-llama/Llama-3.3-70B"}, "meta-llama/Llama-3.3-70B"),
        ({"summarizer": "ü fast", "ü fast": MODEL}, MODEL),
        ({"summarizer": "team/fast", "team/fast": "gpt-4o"}, "gpt-4o"),
        # What has a provider is a model, even if there is an alias of this name.
        ({"summarizer": "a:b", "a:b": MODEL}, "a:b"),
    ],
)
async def test_an_alias_may_be_bound_to_an_alias_or_a_bare_name(
    client: httpx.AsyncClient, bindings: dict[str, str], resolved: str
) -> None:
    for alias, model in bindings.items():
        bound = await bind(client, alias=alias, model=model)
        assert (bound["alias"], bound["model"]) == (alias, model)
    assert await resolve(client, alias=next(iter(bindings))) == resolved
    listed = (await client.get(ALIASES)).json()
    assert {each["alias"]: each["model"] for each in listed} == bindings


async def test_aliases_of_aliases_stay_within_their_profile_and_project(
    client: httpx.AsyncClient,
) -> None:
    await bind(client, alias="summarizer", model="fast")
    await bind(client, alias="fast", profile="prod")
    await bind(client, alias="summarizer", model="fast", profile="prod")
    theirs = {"alias": "fast", "model": "openai:theirs"}
    other = {"X-API-Key": uuid4().hex}
    assert (await client.post(f"{ALIASES}/bind", json=theirs, headers=other)).status_code == 200
    assert await resolve(client, alias="summarizer") == "fast"
    assert await resolve(client, alias="summarizer", profile="prod") == MODEL
    await client.delete(f"{ALIASES}/fast?profile=prod")
    assert await resolve(client, alias="summarizer", profile="prod") == "fast"


@pytest.mark.parametrize(
    ("bound", "refused"),
    [
        ({}, {"a": "a"}),
        ({"a": "b"}, {"b": "a"}),
        ({"a": "b", "b": "c"}, {"c": "a"}),
        ({}, {"a": "b", "b": "a"}),
        ({}, {f"a{n}": f"a{n + 1}" for n in range(18)}),
        ({f"a{n}": f"a{n + 1}" for n in range(17)}, {"b": "a0"}),
    ],
    ids=lambda bindings: str(bindings)[:40],
)
async def test_an_alias_cannot_lead_back_to_itself(
    client: httpx.AsyncClient, bound: dict[str, str], refused: dict[str, str]
) -> None:
    def body(bindings: dict[str, str]) -> list[dict[str, str]]:
        return [{"alias": alias, "model": model} for alias, model in bindings.items()]

    url = f"{ALIASES}/bulk_upsert"
    assert (await client.post(url, json=body(bound))).status_code == 200
    before = (await client.get(ALIASES)).json()
    responses = [await client.post(url, json=body(refused))]
    if len(refused) == 1:
        responses.append(await client.post(f"{ALIASES}/bind", json=body(refused)[0]))
        path = f"{ALIASES}/{next(iter(refused))}"
        responses.append(await client.put(path, json={"model": next(iter(refused.values()))}))
    for response in responses:
        assert response.status_code == 422
        assert "leads back to itself" in response.json()["detail"]
    assert (await client.get(ALIASES)).json() == before


def _chain(length: int) -> list[dict[str, str]]:
    return [{"alias": f"a{n}", "model": f"a{n + 1}"} for n in range(length)]


@pytest.mark.parametrize("direction", ["front to back", "back to front", "from the middle"])
async def test_a_chain_is_as_long_in_whatever_order_it_is_bound(
    client: httpx.AsyncClient, direction: str
) -> None:
    chain = _chain(18)
    if direction == "back to front":
        chain.reverse()
    elif direction == "from the middle":
        chain = chain[9:] + chain[:9]
    for binding in chain[:-1]:
        await bind(client, **binding)
    response = await client.post(f"{ALIASES}/bind", json=chain[-1])
    assert response.status_code == 422
    assert "more than 17 aliases" in response.json()["detail"]
    # Elsewhere it is none of the chain.
    await bind(client, **{**chain[-1], "profile": "other"})
    last = max(chain[:-1], key=lambda binding: int(binding["model"][1:]))
    await bind(client, alias=last["alias"], model=MODEL)
    await bind(client, alias=last["model"], model="b", profile="other")


async def test_a_tail_joins_no_head_that_makes_it_too_long(client: httpx.AsyncClient) -> None:
    url = f"{ALIASES}/bulk_upsert"
    assert (await client.post(url, json=_chain(9))).status_code == 200
    tail = [{"alias": f"a{n}", "model": f"a{n + 1}"} for n in range(10, 18)]
    assert (await client.post(url, json=tail)).status_code == 200
    join = {"alias": "a9", "model": "a10"}
    assert (await client.post(f"{ALIASES}/bind", json=join)).status_code == 422
    assert (await client.post(url, json=[join, {**join, "alias": "x"}])).status_code == 422
    assert await resolve(client, alias="a0") == "a9"
    await bind(client, alias="a9", model="a11")
    assert await resolve(client, alias="a0") == "a18"


@pytest.mark.parametrize("length", [30, 380])
async def test_an_unchanged_binding_is_not_refused(
    client: httpx.AsyncClient, owner: AsyncDatabaseManager, project_id: ProjectId, length: int
) -> None:
    await bind(client, alias="a0", model="a1")
    # Longer than may be bound: of several requests at once, or from before.
    await owner.execute(
        "INSERT INTO {{tables.alias_bindings}} (project_id, profile, alias, model)"
        " SELECT $1, 'default', 'a' || n, 'a' || (n + 1) FROM generate_series(1, $2::integer) AS n",
        project_id,
        length,
    )
    for binding in (_chain(1)[0], {"alias": "a9", "model": "a10"}):
        await bind(client, **binding, metadata={"a": 1})
    assert await resolve(client, alias="a0") == f"a{length + 1}"
    await bind(client, alias="a9", model=MODEL)
    assert await resolve(client, alias="a0") == MODEL


async def test_resolving_ends(
    client: httpx.AsyncClient, owner: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    await bind(client, alias="a0", model="a1")
    await owner.execute(
        "INSERT INTO {{tables.alias_bindings}} (project_id, profile, alias, model)"
        " SELECT $1, 'default', 'a' || n, 'a' || (n + 1) FROM generate_series(1, 2000) AS n",
        project_id,
    )
    response = await client.get(f"{ALIASES}/resolve?alias=a0")
    assert response.status_code == 422
    assert "1,000 other aliases" in response.json()["detail"]
    assert await resolve(client, alias="a1500") == "a2001"


async def test_a_circle_that_two_requests_made_together_is_reported(
    ring: Ring, client: httpx.AsyncClient, owner: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    await bind(client, alias="a", model="b")
    await bind(client, alias="b", model="c")
    # As two requests at the same moment, neither of which sees the other's binding.
    await owner.execute(
        "UPDATE {{tables.alias_bindings}} SET model = 'a' WHERE project_id = $1 AND alias = 'b'",
        project_id,
    )
    response = await client.get(f"{ALIASES}/resolve?alias=a")
    assert (response.status_code, response.json()["code"]) == (422, "validation_error")
    await bind(client, alias="b", model=MODEL)
    assert await ring.aliases.resolve(project_id, "a") == MODEL


NAMES = ("fast", "team/fast", "ü fast")


@pytest.mark.parametrize("alias", NAMES)
async def test_get_alias_and_rebind_alias_by_any_name(
    client: httpx.AsyncClient, alias: str
) -> None:
    url = f"{ALIASES}/{alias}"
    assert (await client.get(url)).status_code == 404
    binding = (await client.put(url, json={"model": MODEL, "profile": "dev"})).json()
    assert (binding["alias"], binding["profile"]) == (alias, "dev")
    assert (await client.get(url)).status_code == 404
    assert (await client.get(f"{url}/?profile=dev")).json() == binding


async def test_rebind_alias_refuses_invalid_fields(client: httpx.AsyncClient) -> None:
    assert (await client.put(f"{ALIASES}/{'a' * 65}", json={"model": MODEL})).status_code == 404
    assert (await client.put(f"{ALIASES}/fast", json={"model": ":"})).status_code == 422


@pytest.mark.parametrize("alias", NAMES)
async def test_delete_alias_affects_one_profile_and_is_idempotent(
    client: httpx.AsyncClient, alias: str
) -> None:
    for profile in ("dev", "prod"):
        await bind(client, alias=alias, profile=profile)
    for _ in range(2):
        response = await client.delete(f"{ALIASES}/{alias}?profile=dev")
        assert response.json() == {"deleted": True}
    assert await resolve(client, alias=alias, profile="dev") is None
    assert await resolve(client, alias=alias, profile="prod") == MODEL


async def test_list_aliases_is_ordered_and_bounded(client: httpx.AsyncClient) -> None:
    for alias, profile in (("b", "default"), ("a", "prod"), ("a", "default"), ("c", "prod")):
        await bind(client, alias=alias, profile=profile)

    async def names(**query: Any) -> list[str]:
        response = await client.get(f"{ALIASES}/", params=query)
        return [f"{each['alias']} {each['profile']}" for each in response.json()]

    assert await names() == ["a default", "a prod", "b default", "c prod"]
    assert await names(profile="prod") == ["a prod", "c prod"]
    assert await names(limit=2, offset=1) == ["a prod", "b default"]
    assert (await client.get(ALIASES, params={"limit": 10_001})).status_code == 422


async def test_bind_aliases_binds_all_or_none_in_the_profile_of_the_query(
    client: httpx.AsyncClient,
) -> None:
    many = [{"alias": f"a{number}", "model": MODEL, "profile": "dev"} for number in range(1000)]
    url = f"{ALIASES}/bulk_upsert"
    assert (await client.post(f"{url}?profile=prod", json=many)).json() == {"updated": 1000}
    # Older clients list aliases without a limit, and expect all of them.
    assert (await client.post(f"{url}?profile=test", json=many)).json() == {"updated": 1000}
    assert len((await client.get(ALIASES)).json()) == 2000
    assert await resolve(client, alias="a999", profile="prod") == MODEL
    assert await resolve(client, alias="a999", profile="dev") is None
    twice = [many[0], many[0] | {"model": "openai:other"}]
    assert (await client.post(url, json=twice)).json() == {"updated": 1}
    assert await resolve(client, alias="a0") == "openai:other"
    assert (await client.post(url)).json() == {"updated": 0}
    invalid: list[Any] = [[*many, many[0]], [{"alias": "b", "model": MODEL}, {"alias": "c"}], {}]
    assert {(await client.post(url, json=each)).status_code for each in invalid} == {422}
    assert await resolve(client, alias="b") is None


async def test_concurrent_bindings_of_the_same_aliases_do_not_deadlock(
    ring: Ring, project_id: ProjectId
) -> None:
    bindings = [BindAlias(alias=f"a{number}", model=MODEL) for number in range(50)]
    orders = [bindings, bindings[::-1]] * 10
    await asyncio.gather(*(ring.aliases.bind_many(project_id, order) for order in orders))
    assert len(await ring.aliases.list(project_id)) == 50


async def test_an_alias_belongs_to_its_project_and_to_the_callers_transaction(
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
