"""A first key, for whoever asks where any key will do."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from llmring_server import Ring
from tests.conftest import CALL

URL = "/api/v1/cli/register"
ASKED = {"email": "a@b.c", "organization": None, "project_name": None, "accept_terms": True}


async def test_register_gives_a_key_that_works_at_once(client: httpx.AsyncClient) -> None:
    answer = await client.post(URL, json=ASKED, headers={"X-API-Key": ""})
    key = answer.json()["api_key"]
    assert key != (await client.post(URL, json=ASKED)).json()["api_key"]
    logged = await client.post("/api/v1/log", json=CALL, headers={"X-API-Key": key})
    assert (answer.json()["api_key_active"], logged.status_code) == (True, 200)


@pytest.mark.parametrize(
    "wrong", [{"email": ""}, {"email": 1}, {"accept_terms": False}, {"organization": "o" * 321}]
)
async def test_register_refuses_what_makes_no_sense(
    client: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    assert (await client.post(URL, json=ASKED | wrong)).status_code == 422


async def test_register_tells_who_issues_keys_where_not_any_will_do(
    guarded: httpx.AsyncClient, ring: Ring
) -> None:
    email = f"{uuid4()}@example.org"
    before = await ring.keys.list()
    answer = await guarded.post(URL, json=ASKED | {"email": email})
    assert (answer.status_code, "keys issue" in answer.json()["detail"]) == (403, True)
    assert email not in answer.text
    assert await ring.keys.list() == before
