"""Many calls in one request, and many calls in one answer."""

import csv
import io
import json
from typing import Any

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.core.strict_json import parse_json
from llmring_server.usage.models import NewCall
from tests.conftest import CALL

URL = "/api/v1/logs/batch"
NDJSON = {"Content-Type": "application/x-ndjson"}


def lines(*values: Any) -> bytes:
    return b"\n".join(
        each if isinstance(each, bytes) else json.dumps(each).encode() for each in values
    )


async def stored(client: httpx.AsyncClient) -> int:
    """Count a project's calls in both places where they can be counted."""
    total = (await client.get("/api/v1/stats")).json()["summary"]["total_requests"]
    assert len((await client.get("/api/v1/logs?limit=500")).json()) == total
    return int(total)


async def test_a_batch_of_more_values_than_memory_is_refused(client: httpx.AsyncClient) -> None:
    body = b"[" + b"[]," * 1_000_000 + b"[]]"
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/api/v1/logs/batch", content=body, headers=headers)
    assert (answer.status_code, "values" in answer.json()["detail"]) == (413, True)


async def test_log_many_takes_an_array_or_lines(client: httpx.AsyncClient) -> None:
    calls = [CALL | {"cost": n} for n in range(10)]
    array = await client.post(URL, json=calls)
    text = await client.post(URL, content=lines(*calls, b"", b"  "), headers=NDJSON)
    for answer in (array, text):
        assert answer.status_code == 200
        assert [each["cost"] for each in answer.json()["logged"]] == list(range(10))
        assert [each["index"] for each in answer.json()["logged"]] == list(range(10))
        assert answer.json()["rejected"] == []
    assert await stored(client) == 20


@pytest.mark.parametrize("bad", [{}, 1, None, CALL | {"cost": -1}, CALL | {"alias": "x" * 129}])
async def test_log_many_stores_all_or_nothing(client: httpx.AsyncClient, bad: Any) -> None:
    for place in range(3):
        calls = [CALL, CALL]
        calls.insert(place, bad)
        answer = await client.post(URL, json=calls)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["loc"][0] == place
        assert answer.json()["detail"].startswith(f"{place}")
    assert await stored(client) == 0


async def test_log_many_in_part_reports_each_bad_one_by_its_index(
    client: httpx.AsyncClient,
) -> None:
    content = lines(CALL, b'{"a": NaN}', CALL | {"cost": -1}, b"[]", CALL, CALL | {"alias": "a\0"})
    answer = await client.post(URL + "?partial=true", content=content, headers=NDJSON)
    assert [each["index"] for each in answer.json()["logged"]] == [0, 4]
    rejected = {each["index"]: each["status"] for each in answer.json()["rejected"]}
    assert rejected == {1: 400, 2: 422, 3: 422, 5: 422}
    assert "line 2" in answer.json()["rejected"][0]["detail"]
    assert await stored(client) == 2


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null", lines([CALL] * 1001)])
async def test_log_many_takes_one_to_a_thousand(client: httpx.AsyncClient, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert (await client.post(URL, content=content, headers=headers)).status_code == 422
    assert (await client.post(URL, content=b"", headers=NDJSON)).status_code == 422
    assert await stored(client) == 0


@pytest.mark.parametrize("query", ["", "?partial=true"])
async def test_log_many_with_a_key_is_replayed(client: httpx.AsyncClient, query: str) -> None:
    headers = {"Idempotency-Key": "batch"}
    first = await client.post(URL + query, json=[CALL, CALL], headers=headers)
    again = await client.post(URL + query, json=[CALL, CALL], headers=headers)
    assert first.json() == again.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await stored(client) == 2


async def test_log_many_takes_a_key_for_each_entry(client: httpx.AsyncClient) -> None:
    calls = [CALL | {"idempotency_key": key} for key in "abca"]
    ids = [each["log_id"] for each in (await client.post(URL, json=calls)).json()["logged"]]
    assert ids[0] == ids[3]
    assert await stored(client) == 3
    both = await client.post(URL, json=calls, headers={"Idempotency-Key": "x"})
    assert both.status_code == 422


async def test_log_many_over_the_cap_is_a_413(client: httpx.AsyncClient) -> None:
    content = b" " * (16 * 1024 * 1024 + 1)
    assert (await client.post(URL, content=content, headers=NDJSON)).status_code == 413


async def test_export_as_csv_is_safe_to_open(client: httpx.AsyncClient) -> None:
    odd = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", 'say "hi"', "two\nlines", "plain", "ünï"]
    await client.post(URL, json=[CALL | {"alias": alias, "cost": 0.5} for alias in odd])
    answer = await client.get("/api/v1/logs/export?format=csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="calls.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    expected = ["'" + alias if alias[0] in "=+-@\t\r" else alias for alias in odd]
    assert sorted(row["alias"] for row in rows) == sorted(expected)
    assert {row["cost"] for row in rows} == {"0.5"}


async def test_export_as_lines_gives_what_logs_give(client: httpx.AsyncClient) -> None:
    await client.post(URL, json=[CALL | {"model": model} for model in "aabb"])
    answer = await client.get("/api/v1/logs/export?format=jsonl&model=a")
    listed = (await client.get("/api/v1/logs?model=a")).json()
    assert [json.loads(line) for line in answer.text.splitlines()] == listed
    assert len(listed) == 2


async def test_export_of_nothing_is_an_empty_file(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/logs/export?format=jsonl")).text == ""
    assert (await client.get("/api/v1/logs/export")).text.startswith("id,logged_at,provider,")
    assert (await client.get("/api/v1/logs/export?format=xlsx")).status_code == 422


async def test_export_goes_through_more_calls_than_one_chunk(
    ring: Ring, project_id: ProjectId
) -> None:
    await ring.usage.log_many(project_id, [NewCall(**CALL)] * 1700)
    exported = [(log.logged_at, log.id) async for log in ring.usage.export(project_id)]
    assert len(set(exported)) == 1700
    assert exported == sorted(exported, reverse=True)


async def test_export_leaves_the_callers_transaction_as_it_was(
    ring: Ring, project_id: ProjectId
) -> None:
    async with ring.db.transaction() as tx:
        await tx.execute("SET LOCAL idle_in_transaction_session_timeout = '33s'")
        assert [log async for log in ring.within(tx).usage.export(project_id)] == []
        assert await tx.fetch_value("SHOW idle_in_transaction_session_timeout") == "33s"


async def test_of_too_many_lines_not_all_are_read(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    def counted(line: bytes) -> Any:
        nonlocal read
        read += 1
        return parse_json(line)

    monkeypatch.setattr("llmring_server.usage.api.parse_json", counted)
    headers = {"Content-Type": "application/x-ndjson"}
    for line in (b"{}\n", b"x\n"):
        path = "/api/v1/logs/batch?partial=true"
        answer = await client.post(path, content=line * 100_000, headers=headers)
        assert answer.status_code == 422
    assert read <= 2 * 1001
