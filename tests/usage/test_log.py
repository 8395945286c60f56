"""Logging single calls, and listing them."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId, project_of_key
from llmring_server.usage.models import Call, CallPage, NewCall
from tests.conftest import CALL


async def post(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/api/v1/log", json=CALL | fields)


async def test_log_call_returns_id_cost_and_an_aware_time(client: httpx.AsyncClient) -> None:
    response = await post(client, cost=0.25)
    assert response.status_code == 200
    assert response.json()["cost"] == 0.25
    assert response.json()["cost_source"] == "client"
    assert datetime.fromisoformat(response.json()["timestamp"]).utcoffset() == timedelta(0)


async def test_log_call_with_a_trailing_slash(client: httpx.AsyncClient) -> None:
    assert (await client.post("/api/v1/log/", json=CALL)).status_code == 200


async def test_log_call_with_null_counts_and_metadata(client: httpx.AsyncClient) -> None:
    nulls = dict.fromkeys(("input_tokens", "output_tokens", "cached_input_tokens", "metadata"))
    assert (await post(client, **nulls)).status_code == 200
    [stored] = (await client.get("/api/v1/logs")).json()
    assert (stored["input_tokens"], stored["cached_input_tokens"], stored["metadata"]) == (0, 0, {})


async def test_log_call_without_a_known_price_is_counted_as_unpriced(
    client: httpx.AsyncClient,
) -> None:
    response = (await post(client, model="nobody-knows")).json()
    assert (response["cost"], response["cost_source"]) == (0, "unpriced")
    summary = (await client.get("/api/v1/stats")).json()["summary"]
    assert (summary["unpriced_requests"], summary["total_cost"]) == (1, "0")


@pytest.mark.parametrize(
    ("cost", "text"), [("0.0003600000", "0.00036"), ("100", "100"), ("0", "0")]
)
async def test_the_cost_of_a_logged_call_has_no_trailing_zeros(
    ring: Ring, project_id: ProjectId, cost: str, text: str
) -> None:
    for _ in range(2):
        # The second time, the call is replayed.
        logged = await ring.usage.log(project_id, NewCall(**CALL, cost=Decimal(cost)), "key")
        assert str(logged.cost) == text


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("0.1", "0.1"),
        ("100", "100"),
        ("0.12345678905", "0.123456789"),  # rounded half to even
        ("99.999999995", "99.999999995"),
        ("999999999.9999999999", "999999999.9999999999"),
        ("1e-400", "0"),
        ("1e2", "100"),
    ],
)
async def test_log_call_stores_a_reported_cost_to_ten_places(
    client: httpx.AsyncClient, sent: str, answered: str
) -> None:
    body = json.dumps(CALL)[:-1] + f', "cost": {sent}}}'
    headers = {"Content-Type": "application/json"}
    response = await client.post("/api/v1/log", content=body, headers=headers)
    assert f'"cost":{answered},' in response.text
    assert f'"cost":{answered},' in (await client.get("/api/v1/logs")).text
    assert f'"total_cost":"{answered}"' in (await client.get("/api/v1/stats")).text


async def test_log_call_stores_metadata_unchanged(client: httpx.AsyncClient) -> None:
    metadata = {"z": 1.5, "a": [True, None, {"ü": "\u202e"}], "id": 2**64 - 1}
    await post(client, metadata=metadata)
    [stored] = (await client.get("/api/v1/logs")).json()
    assert list(stored["metadata"].items()) == list(metadata.items())


async def test_log_call_with_a_key_is_stored_once_and_replayed(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "one"}
    first = await client.post("/api/v1/log", json=CALL, headers=headers)
    again = await client.post("/api/v1/log", json=dict(reversed(CALL.items())), headers=headers)
    assert again.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len((await client.get("/api/v1/logs")).json()) == 1


async def test_log_call_rejects_a_key_of_another_call(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": '"quoted"'}
    await client.post("/api/v1/log", json=CALL, headers=headers)
    other = await client.post("/api/v1/log", json=CALL | {"cost": 1}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len((await client.get("/api/v1/logs")).json()) == 1


async def test_log_call_without_a_key_is_never_a_duplicate(
    ring: Ring, project_id: ProjectId
) -> None:
    call = NewCall(**CALL, id_at_origin="a-conversation")
    await asyncio.gather(*(ring.usage.log(project_id, call) for _ in range(200)))
    assert (await ring.usage.stats(project_id)).summary.total_requests == 200


async def test_list_calls_newest_first_by_labels(client: httpx.AsyncClient) -> None:
    for model in ("a", "b", "c"):
        await post(client, model=model, alias=f"{model}-alias", id_at_origin="%")
    models = [log["model"] for log in (await client.get("/api/v1/logs")).json()]
    assert models == ["c", "b", "a"]
    for query, found in {
        "model=b": 1,
        "alias=c-alias": 1,
        "model=b&alias=c-alias": 0,
        "id_at_origin=%25": 3,
        "id_at_origin=_": 0,
        "provider=openai&profile=default": 3,
        "alias=&model=&origin=&start_date=&end_date=&limit=50&offset=0": 3,
    }.items():
        assert len((await client.get(f"/api/v1/logs?{query}")).json()) == found, query


async def test_list_calls_finds_a_call_by_its_id(client: httpx.AsyncClient) -> None:
    ids = [(await post(client)).json()["log_id"] for _ in range(3)]
    found = (await client.get("/api/v1/logs", params={"log_id": ids[1]})).json()
    assert [log["id"] for log in found] == [ids[1]]


async def test_list_calls_returns_every_call_once_by_cursor(client: httpx.AsyncClient) -> None:
    logged = {(await post(client)).json()["log_id"] for _ in range(7)}
    page = await client.get("/api/v1/logs?limit=3&model=gpt-4o-mini")
    seen = [log["id"] for log in page.json()]
    while link := page.links.get("next"):
        page = await client.get("/api/v1/logs" + link["url"])
        seen += [log["id"] for log in page.json()]
    assert len(seen) == 7
    assert set(seen) == logged


async def test_list_calls_rejects_a_cursor_with_other_contents(
    client: httpx.AsyncClient, project_id: ProjectId
) -> None:
    forged: Any = [("x", UUID(int=0)), ("2026-01-01T00:00:00Z", "x"), (7, None), ({}, [])]
    for last in forged:
        cursor = CallPage().following(project_id, last)
        response = await client.get("/api/v1/logs", params={"cursor": cursor})
        assert (response.status_code, response.json()["detail"][:7]) == (422, "cursor:")


async def test_list_calls_rejects_a_cursor_of_another_list(
    client: httpx.AsyncClient,
) -> None:
    for _ in range(2):
        await post(client)
    link = (await client.get("/api/v1/logs?limit=1")).links["next"]["url"]
    path = "/api/v1/logs" + link
    for forged in (
        path[:-1],
        path + "&model=x",
        path + "&offset=1",
        path.replace("cursor=", "cursor=A"),
    ):
        assert (await client.get(forged)).status_code == 422
    stranger = {"X-API-Key": "stranger"}
    assert (await client.get(path, headers=stranger)).status_code == 422


async def test_a_statement_with_columns_in_another_order_is_rejected(ring: Ring) -> None:
    first, second, *others = Call.__slots__
    swapped = ", ".join(f"NULL AS {name}" for name in (second, first, *others))
    rows = await ring._database.fetch(f"SELECT {swapped}")
    with pytest.raises(TypeError):
        Call.from_rows(rows)


async def test_calls_and_stats_belong_to_their_project(ring: Ring, project_id: ProjectId) -> None:
    await ring.usage.log(project_id, NewCall(**CALL))
    stranger = project_of_key("someone else")
    assert len(await ring.usage.logs(project_id)) == 1
    assert await ring.usage.logs(stranger) == []
    assert (await ring.usage.stats(stranger)).summary.total_requests == 0


async def test_log_call_at_a_time_in_the_past(client: httpx.AsyncClient) -> None:
    then = datetime.now(UTC) - timedelta(days=200)
    logged = (await post(client, logged_at=then.isoformat())).json()
    assert datetime.fromisoformat(logged["timestamp"]) == then
    found = await client.get("/api/v1/logs", params={"log_id": logged["log_id"]})
    assert len(found.json()) == 1
