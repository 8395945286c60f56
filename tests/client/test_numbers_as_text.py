"""Integers and amounts that a client writes as text, as the first servers took them."""

from typing import Any

import httpx
import pytest

from tests.conftest import CALL
from tests.support.mcp import make_tool

MESSAGE = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("path", "body", "name", "expected"),
    [
        ("/api/v1/conversations", {}, "max_tokens", 10),
        ("/api/v1/templates", {"name": "t", "created_by": "me"}, "max_tokens", 10),
        ("{tool}/execute", {"input": {}}, "duration_ms", 10),
        ("{conversation}/messages", MESSAGE, "input_tokens", 10),
        ("{conversation}/messages", MESSAGE, "output_tokens", 10),
    ],
)
async def test_integers_may_be_written_as_text(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], name: str, expected: int
) -> None:
    id = (await client.post("/api/v1/conversations", json={})).json()["id"]
    conversation, tool = f"/api/v1/conversations/{id}", await make_tool(client)
    path = path.format(tool=tool, conversation=conversation)
    response = await client.post(path, json=body | {name: "10"})
    assert response.status_code == 200, response.text
    assert response.json()[name] == expected
    for invalid in ("", " 10", "10 ", "1e1", "+10", "ten", "-1", "1" * 16, "0x1", "1_0", "\u0661"):
        response = await client.post(path, json=body | {name: invalid})
        assert response.status_code == 422, invalid
        assert name in response.json()["detail"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("input_tokens", "10", 10),
        ("output_tokens", "0", 0),
        ("cached_input_tokens", "7", 7),
        ("cost", "0.25", 0.25),
        ("cost", "1", 1),
        ("cost", "0.0000000001", 1e-10),
    ],
)
async def test_numbers_of_a_call_may_be_written_as_text(
    client: httpx.AsyncClient, name: str, value: str, expected: float
) -> None:
    response = await client.post("/api/v1/log", json=CALL | {name: value})
    assert response.status_code == 200, response.text
    [call] = (await client.get("/api/v1/logs")).json()
    assert call[name] == expected
    for invalid in ("", "NaN", "Infinity", "-1", "ten", "1,5", " 1"):
        response = await client.post("/api/v1/log", json=CALL | {name: invalid})
        assert response.status_code == 422, invalid
