"""Bodies: invalid input gets a clear response, and changes nothing."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmring_server.core.strict_json import parse_json
from llmring_server.errors import RingError
from tests.conftest import CALL
from tests.support.invalid_bodies import GOOD, INVALID, NOT_JSON, REPLACED, body, without


async def posted(client: httpx.AsyncClient, data: bytes, **headers: str) -> httpx.Response:
    headers = {"Content-Type": "application/json"} | headers
    return await client.post("/api/v1/log", content=data, headers=headers)


async def refused(client: httpx.AsyncClient, response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json().keys() >= {"detail", "status", "title", "request_id"}
    assert len(response.json()["detail"]) < 300
    assert (await client.get("/api/v1/logs")).json() == []


@pytest.mark.parametrize("data", NOT_JSON.values(), ids=NOT_JSON)
async def test_json_that_is_not_strict_returns_400(client: httpx.AsyncClient, data: bytes) -> None:
    await refused(client, await posted(client, data), 400)


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
async def test_invalid_call_returns_422(client: httpx.AsyncClient, data: bytes) -> None:
    await refused(client, await posted(client, data), 422)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "br"},
    ],
)
async def test_other_media_types_return_415(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    await refused(client, await posted(client, GOOD, **headers), 415)


async def test_body_over_the_limit_returns_413(client: httpx.AsyncClient) -> None:
    huge = body(alias=json.dumps("x" * 300_000))
    response = await posted(client, huge)
    await refused(client, response, 413)
    text = "The request body exceeds the limit of this endpoint, 256 KiB."
    assert response.json()["detail"] == text

    async def in_chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(huge), 1000):
            yield huge[start : start + 1000]

    headers = {"Content-Type": "application/json"}
    response = await client.post("/api/v1/log", content=in_chunks(), headers=headers)
    await refused(client, response, 413)
    assert response.json()["detail"] == text


@pytest.mark.parametrize(
    "data",
    [
        without("input_tokens", "9007199254740991"),
        without("input_tokens", "2147483648"),
        body(cached_input_tokens="-0"),
        body(cached_input_tokens="2000"),  # more than input: this provider excludes them from input
        body(cost="999999999"),
        body(alias=r'"\\u0000"'),
        body(alias=json.dumps("=HYPERLINK(1)'; DROP TABLE x; --\u202e\x1b[31m\r\n\u2028")),
        body(metadata='{"cost": "abc"}'),
        body(project_id='"x"', api_key_id='"y"', id="1", cost_source='"registry"'),
    ],
)
async def test_unusual_but_valid_calls_are_stored(client: httpx.AsyncClient, data: bytes) -> None:
    response = await posted(client, data)
    assert response.status_code == 200, response.text
    [stored] = (await client.get("/api/v1/logs")).json()
    assert stored["cost_source"] in {"client", "offline", "unpriced"}


async def test_errors_do_not_repeat_invalid_values(client: httpx.AsyncClient) -> None:
    secret = "sk-123456"  # noqa: S105, a canary
    for data in (
        without("model", f'["{secret}"]'),
        without("input_tokens", f'"{secret}"'),
        f'{{"{secret}": 1, "{secret}": 2}}'.encode(),
    ):
        assert secret not in (await posted(client, data)).text


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=9), each, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*CALL, "cost", "metadata", "logged_at"]), anything))
@settings(deadline=None, suppress_health_check=list(HealthCheck))
async def test_no_call_returns_5xx(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    data = json.dumps(CALL | fields).encode(errors="surrogatepass")
    response = await posted(client, data)
    assert response.status_code in {200, 400, 413, 422}, response.text
    response.json()


@pytest.mark.parametrize("blank", ["", " ", "\x85", "\ufeff", "\u3000"])
async def test_a_blank_name_is_a_422(client: httpx.AsyncClient, blank: str) -> None:
    response = await client.post("/api/v1/log", json=CALL | {"provider": blank})
    assert response.status_code == 422, response.text


@given(st.binary())
def test_no_bytes_break_the_parser(data: bytes) -> None:
    try:
        parse_json(data)
    except RingError as exc:
        assert exc.blames_caller  # noqa: PT017, other outcomes are fine


@pytest.mark.parametrize(("metadata", "stored"), REPLACED.values(), ids=REPLACED)
async def test_text_that_cannot_be_stored_is_replaced_and_reported(
    client: httpx.AsyncClient, metadata: bytes, stored: dict[str, Any]
) -> None:
    response = await posted(client, body(metadata='"HOLE"').replace(b'"HOLE"', metadata))
    assert response.status_code == 200, response.text
    [warning] = response.json()["warnings"]
    assert (warning["code"], warning["field"][:10]) == ("replaced_characters", "metadata.a")
    assert [each["metadata"] for each in (await client.get("/api/v1/logs")).json()] == [stored]
