"""Unknown fields of a call: reported in its `warnings`, or refused if the request is strict."""

import json
from typing import Any

import httpx
import pytest

from llmring_server import NewCall, Ring
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest
from tests.conftest import CALL

LOG, BATCH = "/api/v1/log", "/api/v1/logs/batch"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 200}
NDJSON = {"Content-Type": "application/x-ndjson"}

UNKNOWN: list[tuple[dict[str, Any], list[str]]] = [
    ({"user": "me"}, ["user"]),
    ({"imput_tokens": 5, "Model": None}, ["imput_tokens", "Model"]),
    (
        {"usage": USAGE | {"foo": 1, "prompt_tokens_details": {"bar": 0}}},
        ["usage.foo", "usage.prompt_tokens_details.bar"],
    ),
    ({"user": {"name": "me"}, "usage": USAGE | {"foo": 1}}, ["user", "usage.foo"]),
    ({"cost_source": "client", "id": 7}, ["cost_source", "id"]),
    ({"prompt_tokens_details": {"cached_tokens": 5}}, ["prompt_tokens_details"]),
    # Older clients send these.
    ({"api_key_id": "x", "project_id": "y"}, []),
    ({"usage": USAGE}, []),
    ({"prompt_tokens": 1000}, []),
    ({}, []),
]


async def count(client: httpx.AsyncClient) -> int:
    return len((await client.get("/api/v1/logs")).json())


def fields_of(logged: dict[str, Any]) -> list[str]:
    assert {warning["code"] for warning in logged["warnings"]} <= {"unknown_field"}
    assert all(warning["detail"] for warning in logged["warnings"])
    return [warning["field"] for warning in logged["warnings"]]


@pytest.mark.parametrize(("fields", "names"), UNKNOWN)
async def test_unknown_fields_are_reported(
    client: httpx.AsyncClient, fields: dict[str, Any], names: list[str]
) -> None:
    body = CALL | fields
    single = await client.post(LOG, json=body)
    array = (await client.post(BATCH, json=[CALL, body])).json()["logged"]
    text = f"{json.dumps(body)}\n{json.dumps(CALL)}"
    lines = (await client.post(BATCH, content=text, headers=NDJSON)).json()["logged"]
    partial = (await client.post(BATCH + "?partial=true", json=[CALL, body])).json()["logged"]
    assert [fields_of(each) for each in (single.json(), *array, *lines, *partial)] == [
        names, [], names, names, [], [], names,
    ]  # fmt: skip
    assert "X-Warnings" not in single.headers
    assert await count(client) == 7


@pytest.mark.parametrize(("fields", "names"), UNKNOWN)
async def test_unknown_fields_are_refused_in_a_strict_request(
    client: httpx.AsyncClient, fields: dict[str, Any], names: list[str]
) -> None:
    body = CALL | fields
    responses = [
        await client.post(f"{LOG}?strict=true", json=body),
        await client.post(f"{BATCH}?strict=true", json=[CALL, body]),
        await client.post(
            f"{BATCH}?strict=1",
            content=f"{json.dumps(CALL)}\n{json.dumps(body)}",
            headers=NDJSON,
        ),
    ]
    assert {response.status_code for response in responses} == {422 if names else 200}
    for response in responses:
        assert all(name in response.text for name in names)
    if names:
        assert responses[1].json()["detail"].startswith("1: ")
        assert responses[1].json()["errors"][0]["loc"] == [1, *names[0].split(".")]
        assert await count(client) == 0


@pytest.mark.parametrize(("fields", "names"), UNKNOWN)
async def test_a_strict_request_in_part_rejects_only_what_has_unknown_fields(
    client: httpx.AsyncClient, fields: dict[str, Any], names: list[str]
) -> None:
    response = await client.post(f"{BATCH}?strict=true&partial=true", json=[CALL, CALL | fields])
    assert response.status_code == 200
    rejected = response.json()["rejected"]
    assert [(each["index"], each["status"]) for each in rejected] == ([(1, 422)] if names else [])
    assert all(name in each["detail"] for name in names for each in rejected)


@pytest.mark.parametrize("strict", ["?strict=false", "?strict=", ""])
async def test_a_request_can_say_that_it_is_not_strict(
    client: httpx.AsyncClient, strict: str
) -> None:
    assert (await client.post(LOG + strict, json=CALL | {"user": "me"})).status_code == 200


async def test_a_strictness_that_is_not_a_boolean_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{LOG}?strict=perhaps", json=CALL)
    assert (response.status_code, response.json()["detail"][:7]) == (422, "strict:")


async def test_the_list_of_unknown_fields_is_bounded(client: httpx.AsyncClient) -> None:
    many = {f"field_{index}": index for index in range(33)} | {"x" * 1000: 1}
    logged = (await client.post(LOG, json=CALL | many)).json()
    fields = fields_of(logged)
    assert (len(fields), fields[0], fields[-1]) == (21, "field_0", "*")
    assert "14 more" in logged["warnings"][-1]["detail"]
    [long] = fields_of((await client.post(LOG, json=CALL | {"x" * 1000: 1})).json())
    assert len(long) < 120
    response = await client.post(f"{LOG}?strict=true", json=CALL | many)
    assert ("14 more" in response.text, len(response.json()["errors"])) == (True, 20)


async def test_a_replay_has_the_same_warnings(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "key"}
    first, again = [
        await client.post(LOG, json=CALL | {"user": "me"}, headers=headers) for _ in range(2)
    ]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    assert fields_of(again.json()) == ["user"]


def strict(ring: Ring) -> Ring:
    return Ring(ring.db, ring.settings.model_copy(update={"strict_fields": True}))


async def test_the_library_reports_unknown_fields(ring: Ring, project_id: ProjectId) -> None:
    call = NewCall.model_validate(CALL | {"user": "me", "usage": USAGE | {"foo": 1}})
    assert call.unknown_fields == ["user", "usage.foo"]
    logged = await ring.usage.log(project_id, call)
    many = await ring.usage.log_many(project_id, [NewCall(**CALL), call])
    assert [[each["field"] for each in result.warnings] for result in (logged, *many)] == [
        ["user", "usage.foo"],
        [],
        ["user", "usage.foo"],
    ]
    async with ring.db.transaction() as transaction:
        inside = await ring.within(transaction).usage.log(project_id, call)
    assert inside.warnings == logged.warnings


async def test_the_library_refuses_unknown_fields_if_the_settings_say_so(
    ring: Ring, project_id: ProjectId
) -> None:
    call, bad = NewCall(**CALL), NewCall.model_validate(CALL | {"user": "me"})
    usage = strict(ring).usage
    with pytest.raises(InvalidRequest, match="user"):
        await usage.log(project_id, bad)
    with pytest.raises(InvalidRequest, match=r"1: .*user"):
        await usage.log_many(project_id, [call, bad])
    assert await ring.usage.logs(project_id) == []
    assert (await usage.log(project_id, call)).warnings == ()


async def test_text_that_cannot_be_stored_does_not_cost_the_call(
    client: httpx.AsyncClient,
) -> None:
    body = CALL | {"usage": USAGE | {"note": "a\0"}, "user": "b\0"}
    response = await client.post(LOG, json=body)
    assert response.status_code == 200, response.text
    codes = {(each["code"], each["field"]) for each in response.json()["warnings"]}
    assert codes == {
        ("replaced_characters", "usage.note"),
        ("replaced_characters", "user"),
        ("unknown_field", "usage.note"),
        ("unknown_field", "user"),
    }
