"""Integers in bodies: a number without a fraction is one, however it is written."""

from typing import Any

import httpx
import pytest

from tests.support.conversations import EXCHANGE
from tests.support.templates import NEW_TEMPLATE

SERVER = {"name": "n", "url": "http://u", "transport_type": "http"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/v1/conversations", {}, "max_tokens"),
        ("/api/v1/templates", NEW_TEMPLATE, "max_tokens"),
        ("/api/v1/conversations/{conversation}/messages", {"role": "user"}, "input_tokens"),
        ("/api/v1/mcp/tools/{tool}/execute", {"input": {}}, "duration_ms"),
    ],
)
async def test_a_number_without_a_fraction_is_an_integer(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    conversation = (await client.post("/api/v1/conversations", json={})).json()["id"]
    server = (await client.post("/api/v1/mcp/servers", json=SERVER)).json()["id"]
    tool = {"server_id": server, "name": "t", "input_schema": {"a": 1}}
    ids = {
        "conversation": conversation,
        "tool": (await client.post("/api/v1/mcp/tools", json=tool)).json()["id"],
    }
    url = path.format(**ids)
    response = await client.post(url, json=body | {field: 12.0})
    assert (response.status_code, response.json()[field]) == (200, 12), response.text
    assert isinstance(response.json()[field], int)
    rounded = await client.post(url, json=body | {field: 12.5})
    # A duration is a measurement; a count is not.
    assert rounded.status_code == (200 if field == "duration_ms" else 422)
    for wrong in ("12x", True, -1, 1e300):
        assert (await client.post(url, json=body | {field: wrong})).status_code == 422


async def test_the_counts_of_an_exchange_are_integers(client: httpx.AsyncClient) -> None:
    for count, fields in ((12.0, []), (12.5, ["metadata.input_tokens"])):
        body = EXCHANGE | {"metadata": EXCHANGE["metadata"] | {"input_tokens": count}}
        response = await client.post("/api/v1/conversations/log", json=body)
        assert response.status_code == 200, response.text
        # The call is logged in any case: what is not an integer leaves its usage unknown.
        assert [warning["field"] for warning in response.json()["warnings"]] == fields
