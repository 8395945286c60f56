"""Batches: many calls in one request."""

import json
from typing import Any

import httpx
import pytest

from llmring_server.core.strict_json import parse_request_json
from tests.conftest import CALL

URL = "/api/v1/logs/batch"
NDJSON = {"Content-Type": "application/x-ndjson"}


def json_lines(*values: Any) -> bytes:
    return b"\n".join(
        value if isinstance(value, bytes) else json.dumps(value).encode() for value in values
    )


async def count(client: httpx.AsyncClient) -> int:
    """Count a project's calls twice: in its statistics, and in its list."""
    total = (await client.get("/api/v1/stats")).json()["summary"]["total_requests"]
    assert len((await client.get("/api/v1/logs?limit=500")).json()) == total
    return int(total)


async def test_log_calls_rejects_more_values_than_memory_may_hold(
    client: httpx.AsyncClient,
) -> None:
    body = b"[" + b"[]," * 1_000_000 + b"[]]"
    headers = {"Content-Type": "application/json"}
    response = await client.post("/api/v1/logs/batch", content=body, headers=headers)
    assert (response.status_code, "values" in response.json()["detail"]) == (413, True)


async def test_log_calls_as_an_array_or_as_lines(client: httpx.AsyncClient) -> None:
    calls = [CALL | {"cost": n} for n in range(10)]
    array = await client.post(URL, json=calls)
    text = await client.post(URL, content=json_lines(*calls, b"", b"  "), headers=NDJSON)
    for response in (array, text):
        assert response.status_code == 200
        assert [each["cost"] for each in response.json()["logged"]] == list(range(10))
        assert [each["index"] for each in response.json()["logged"]] == list(range(10))
        assert response.json()["rejected"] == []
    assert await count(client) == 20


@pytest.mark.parametrize("bad", [{}, 1, None, CALL | {"cost": -1}, CALL | {"alias": "x" * 129}])
async def test_log_calls_stores_all_or_nothing(client: httpx.AsyncClient, bad: Any) -> None:
    for index in range(3):
        calls = [CALL, CALL]
        calls.insert(index, bad)
        response = await client.post(URL, json=calls)
        assert response.status_code == 422
        assert response.json()["errors"][0]["loc"][0] == index
        assert response.json()["detail"].startswith(f"{index}")
    assert await count(client) == 0


async def test_log_calls_in_part_reports_each_rejected_call_by_its_index(
    client: httpx.AsyncClient,
) -> None:
    content = json_lines(
        CALL, b'{"a": NaN}', CALL | {"cost": -1}, b"[]", CALL, CALL | {"alias": "a\0"}
    )
    response = await client.post(URL + "?partial=true", content=content, headers=NDJSON)
    assert [each["index"] for each in response.json()["logged"]] == [0, 4]
    rejected = {each["index"]: each["status"] for each in response.json()["rejected"]}
    assert rejected == {1: 400, 2: 422, 3: 422, 5: 422}
    assert "line 2" in response.json()["rejected"][0]["detail"]
    assert await count(client) == 2


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null", json_lines([CALL] * 1001)])
async def test_log_calls_accepts_one_to_a_thousand(
    client: httpx.AsyncClient, content: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    assert (await client.post(URL, content=content, headers=headers)).status_code == 422
    assert (await client.post(URL, content=b"", headers=NDJSON)).status_code == 422
    assert await count(client) == 0


@pytest.mark.parametrize("query", ["", "?partial=true"])
async def test_log_calls_with_a_key_is_replayed(client: httpx.AsyncClient, query: str) -> None:
    headers = {"Idempotency-Key": "batch"}
    first = await client.post(URL + query, json=[CALL, CALL], headers=headers)
    again = await client.post(URL + query, json=[CALL, CALL], headers=headers)
    assert first.json() == again.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await count(client) == 2


async def test_log_calls_accepts_a_key_for_each_call(client: httpx.AsyncClient) -> None:
    calls = [CALL | {"idempotency_key": key} for key in "abca"]
    ids = [each["log_id"] for each in (await client.post(URL, json=calls)).json()["logged"]]
    assert ids[0] == ids[3]
    assert await count(client) == 3
    both = await client.post(URL, json=calls, headers={"Idempotency-Key": "x"})
    assert both.status_code == 422


async def test_log_calls_rejects_a_body_over_the_limit(client: httpx.AsyncClient) -> None:
    content = b" " * (16 * 1024 * 1024 + 1)
    assert (await client.post(URL, content=content, headers=NDJSON)).status_code == 413


async def test_log_calls_stops_parsing_after_too_many_lines(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = 0

    def counting_parse(line: bytes, *at: int) -> Any:
        nonlocal parsed
        parsed += 1
        return parse_request_json(line, *at)

    monkeypatch.setattr("llmring_server.usage.api.parse_request_json", counting_parse)
    headers = {"Content-Type": "application/x-ndjson"}
    for line in (b"{}\n", b"x\n"):
        path = "/api/v1/logs/batch?partial=true"
        response = await client.post(path, content=line * 100_000, headers=headers)
        assert response.status_code == 422
    assert 0 < parsed <= 2 * 1001
