"""Registration: the `llmring` client gets a key in mode `open`, and an explanation elsewhere."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from llmring_server import Ring
from tests.conftest import CALL
from tests.support.lists import every_key

URL = "/api/v1/cli/register"
REQUEST = {"email": "a@b.c", "organization": None, "project_name": None, "accept_terms": True}


async def test_register_returns_a_key_that_works(client: httpx.AsyncClient) -> None:
    response = await client.post(URL, json=REQUEST, headers={"X-API-Key": ""})
    key = response.json()["api_key"]
    assert key != (await client.post(URL, json=REQUEST)).json()["api_key"]
    logged = await client.post("/api/v1/log", json=CALL, headers={"X-API-Key": key})
    assert (response.json()["api_key_active"], logged.status_code) == (True, 200)


@pytest.mark.parametrize(
    "invalid", [{"email": ""}, {"email": 1}, {"accept_terms": False}, {"organization": "o" * 321}]
)
async def test_register_rejects_invalid_requests(
    client: httpx.AsyncClient, invalid: dict[str, Any]
) -> None:
    assert (await client.post(URL, json=REQUEST | invalid)).status_code == 422


async def test_register_explains_how_to_get_a_key_in_other_modes(
    keys_client: httpx.AsyncClient, ring: Ring
) -> None:
    email = f"{uuid4()}@example.org"
    before = await every_key(ring)
    response = await keys_client.post(URL, json=REQUEST | {"email": email})
    assert (response.status_code, "keys issue" in response.json()["detail"]) == (403, True)
    assert email not in response.text
    assert await every_key(ring) == before
