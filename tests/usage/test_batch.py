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


def nested(depth: int) -> str:
    """Return a call of this depth, which is that of a list in its metadata."""
    inner = depth - 2
    return json.dumps(CALL | {"metadata": {"a": "#"}}).replace('"#"', "[" * inner + "]" * inner)


def with_metadata(spelled: str) -> str:
    return json.dumps(CALL | {"metadata": "#"}).replace('"#"', spelled)


# Calls that are rejected, by the status that each would have alone.
REJECTED: dict[str, tuple[int, bytes]] = {
    name: (status, call.encode("latin-1"))
    for name, (status, call) in {
        "NUL": (422, json.dumps(CALL | {"alias": "a\0"})),
        "lone surrogate": (422, json.dumps(CALL | {"model": "a\ud800"})),
        "NUL in a key": (422, with_metadata(r'{"\u0000": 1}')),
        "depth of 33": (422, nested(33)),
        "depth of 150": (422, nested(150)),
        "depth of 1,000": (400, nested(1000)),
        "number out of range": (422, with_metadata('{"a": 1e400}')),
        "number of 309 digits": (422, with_metadata(f'{{"a": {"9" * 309}}}')),
        "number of 5,000 digits": (400, with_metadata(f'{{"a": {"9" * 5000}}}')),
        "token count out of range": (422, json.dumps(CALL | {"input_tokens": 2**53})),
        "cost out of range": (422, json.dumps(CALL)[:-1] + ', "cost": 1e400}'),
        "over-long key": (422, with_metadata(json.dumps({"k" * 1025: 1}))),
        "too many keys": (422, with_metadata(json.dumps({str(key): 1 for key in range(10_001)}))),
        "key that occurs twice": (400, with_metadata('{"a": 1, "a": 2}')),
        "NaN": (400, with_metadata('{"a": NaN}')),
        "invalid UTF-8": (400, with_metadata('{"a": "\xff"}')),
        "control character": (400, with_metadata('{"a": "\x00"}')),
        "trailing comma": (400, with_metadata('{"a": [1,]}')),
        "no value": (400, with_metadata('{"a": }')),
        "word": (400, "call"),
        "half an escape": (400, with_metadata(r'{"a": "\ud8"}')),
        "number": (422, "1"),
        "text": (422, r'"],[\"{"'),
    }.items()
}


async def send(
    client: httpx.AsyncClient, form: str, calls: list[bytes], query: str = ""
) -> httpx.Response:
    content, media = b"[" + b",\n ".join(calls) + b"]", "application/json"
    if form == "lines":
        content, media = b"\n".join(calls), "application/x-ndjson"
    return await client.post(URL + query, content=content, headers={"Content-Type": media})


@pytest.mark.parametrize("form", ["array", "lines"])
@pytest.mark.parametrize("size", [2, 31, 200])
async def test_one_bad_call_leaves_the_others_in(
    client: httpx.AsyncClient, form: str, size: int
) -> None:
    """Each bad call is among good ones, whose number must not matter."""
    good = json.dumps(CALL | {"metadata": {"a": {"b": [{}]}}}).encode()
    stored = 0
    for place, (name, (status, bad)) in enumerate(REJECTED.items()):
        index = place % size
        calls = [good] * size
        calls[index] = bad
        response = await send(client, form, calls, "?partial=true")
        assert response.status_code == 200, (name, response.text)
        [rejected] = response.json()["rejected"]
        assert (name, rejected["index"], rejected["status"]) == (name, index, status)
        assert len(response.json()["logged"]) == size - 1
        stored += size - 1
    assert (await client.get("/api/v1/stats")).json()["summary"]["total_requests"] == stored


@pytest.mark.parametrize("form", ["array", "lines"])
async def test_all_bad_calls_are_told_from_the_good_ones(
    client: httpx.AsyncClient, form: str
) -> None:
    good = nested(32).encode()
    calls = [call for _, bad in REJECTED.values() for call in (good, bad)]
    response = await send(client, form, calls, "?partial=true")
    assert response.status_code == 200, response.text
    rejected = {each["index"]: each["status"] for each in response.json()["rejected"]}
    assert rejected == {2 * at + 1: status for at, (status, _) in enumerate(REJECTED.values())}
    assert await count(client) == len(REJECTED)


@pytest.mark.parametrize("form", ["array", "lines"])
@pytest.mark.parametrize(("status", "bad"), REJECTED.values(), ids=REJECTED)
async def test_a_refused_batch_names_the_index_of_the_bad_call(
    client: httpx.AsyncClient, form: str, status: int, bad: bytes
) -> None:
    response = await send(client, form, [json.dumps(CALL).encode()] * 3 + [bad])
    assert response.status_code == status, response.text
    assert response.json()["detail"].startswith(("3:", "3."))
    if status == 400:
        assert "line 4, column" in response.json()["detail"]
    assert await count(client) == 0


@pytest.mark.parametrize("query", ["", "?partial=true"])
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"[{}, {}", 400),
        (b"[{}, {]}", 400),
        (b'[{}, {"a: 1}]', 400),
        (b"[{}] x", 400),
        (b"[{},]", 400),
        (b"[{},,{}]", 400),
        (b"x", 400),
        (b", [{}]", 400),
        (b"[{}]]", 400),
        (b'{"a": [1, NaN]}', 400),
        (b"", 400),
        (b'"[\xff]"', 400),
        (b'{"a": 1}', 422),
        (b"[NaN," + b"{}," * 1001 + b"{}]", 422),
    ],
)
async def test_text_that_is_no_array_is_refused_as_a_whole(
    client: httpx.AsyncClient, content: bytes, status: int, query: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post(URL + query, content=content, headers=headers)
    assert response.status_code == status, response.text
    if status == 400:
        assert "line 1, column" in response.json()["detail"]


@pytest.mark.parametrize("form", ["array", "lines"])
@pytest.mark.parametrize("query", ["", "?partial=true"])
async def test_each_call_has_its_own_warnings(
    client: httpx.AsyncClient, form: str, query: str
) -> None:
    texts = ["plain", r"\u0000", r"\ud800"]
    calls = [with_metadata(f'{{"a": ["{text}"]}}').encode() for text in texts]
    response = await send(client, form, calls, query)
    assert response.status_code == 200, response.text
    fields = [[each["field"] for each in call["warnings"]] for call in response.json()["logged"]]
    assert fields == [[], ["metadata.a.0"], ["metadata.a.0"]]
    stored = [call["metadata"] for call in (await client.get("/api/v1/logs")).json()]
    assert sorted(stored, key=str) == [{"a": ["plain"]}, {"a": ["\ufffd"]}, {"a": ["\ufffd"]}]


async def test_of_several_calls_with_one_key_the_first_is_stored(
    client: httpx.AsyncClient,
) -> None:
    calls = [CALL | {"cost": i, "idempotency_key": f"key-{i % 100}"} for i in range(300)]
    response = await client.post("/api/v1/logs/batch?partial=true", json=calls)
    answer = response.json()
    assert [each["index"] for each in answer["logged"]] == [*range(100)]
    assert [each["cost"] for each in answer["logged"]] == [*range(100)]
    assert {each["status"] for each in answer["rejected"]} == {422}
