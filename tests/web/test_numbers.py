"""Numbers in a caller's own JSON: they come back as they were written, whatever their size."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from llmring_server import Ring
from llmring_server.core.identity import ProjectId
from llmring_server.usage.models import NewCall
from tests.conftest import CALL
from tests.support.conversations import EXCHANGE
from tests.support.isolation import mcp_of
from tests.support.templates import create_template

NUMBERS = (
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "123456789012345678901234567890123456789012345678901",
    "9" * 4300,
    "0.1234567890123456789012345678901234567890",
    "12345678901234567890.00000000000000000001",
    "1e400",
    "-1E+999",
    "1e-400",
    "1e999999999",
    "1.5",
    "0.1",
    "-0.0",
    "1e22",
)

HOLE = "HOLE"

# Where a request has the caller's own JSON, and where that is read.
STORED: dict[str, tuple[str, str, Any, str]] = {
    "metadata of a call": (
        "POST",
        "/api/v1/log",
        CALL | {"metadata": {"n": [{"m": HOLE}]}},
        "/api/v1/logs",
    ),
    "exported metadata": (
        "POST",
        "/api/v1/logs/batch",
        [CALL | {"metadata": {"n": HOLE}}],
        "/api/v1/logs/export?format=jsonl",
    ),
    "content of a message": (
        "POST",
        "/api/v1/conversations/{conversation}/messages",
        {"role": "user", "content": [{"n": HOLE}]},
        "/api/v1/conversations/{conversation}/messages",
    ),
    "tool results": (
        "POST",
        "/api/v1/conversations/{conversation}/messages/batch",
        {"messages": [{"role": "tool", "tool_results": [HOLE]}]},
        "/api/v1/conversations/{conversation}/messages",
    ),
    "tool calls": (
        "POST",
        "/api/v1/conversations/{conversation}/messages",
        {"role": "assistant", "tool_calls": [{"arguments": {"n": HOLE}}]},
        "/api/v1/conversations/{conversation}/messages",
    ),
    "metadata of a message": (
        "POST",
        "/api/v1/conversations/{conversation}/messages",
        {"role": "user", "metadata": {"n": HOLE}},
        "/api/v1/conversations/{conversation}",
    ),
    "usage of an exchange": (
        "POST",
        "/api/v1/conversations/log",
        EXCHANGE | {"conversation_id": "{conversation}", "response": {"usage": {"n": HOLE}}},
        "/api/v1/conversations/{conversation}/messages",
    ),
    "tool_config": (
        "PATCH",
        "/api/v1/templates/{template}",
        {"tool_config": {"n": HOLE}},
        "/api/v1/templates/{template}",
    ),
    "metadata of an alias": (
        "POST",
        "/api/v1/aliases/bind",
        {"alias": "a", "model": "p:m", "metadata": {"n": HOLE}},
        "/api/v1/aliases",
    ),
    "schema of a tool": (
        "POST",
        "/api/v1/mcp/servers/{servers}/refresh",
        {"tools": [{"name": "t", "inputSchema": {"maximum": HOLE}}]},
        "/api/v1/mcp/tools",
    ),
    "arguments of a prompt": (
        "POST",
        "/api/v1/mcp/servers/{servers}/refresh",
        {"prompts": [{"name": "t", "arguments": [{"name": "a", "n": HOLE}]}]},
        "/api/v1/mcp/prompts",
    ),
    "input of a tool": (
        "POST",
        "/api/v1/mcp/tools/{tools}/execute",
        {"input": {"n": HOLE}},
        "/api/v1/mcp/tools/{tools}/history",
    ),
    "output of a tool": (
        "POST",
        "/api/v1/mcp/tools/{tools}/execute",
        {"input": {}, "output": {"n": HOLE}},
        "/api/v1/mcp/tools/{tools}/history",
    ),
    "content of a resource": (
        "PUT",
        "/api/v1/mcp/resources/{resources}/content",
        {"content": {"n": HOLE}},
        "/api/v1/mcp/resources/{resources}/content",
    ),
    "capabilities of a server": (
        "PATCH",
        "/api/v1/mcp/servers/{servers}",
        {"capabilities": {"experimental": {"n": HOLE}}},
        "/api/v1/mcp/servers/{servers}",
    ),
}


@pytest.fixture
async def ids(client: httpx.AsyncClient, ring: Ring, project_id: ProjectId) -> dict[str, str]:
    conversation = (await client.post("/api/v1/conversations", json={})).json()["id"]
    template = (await create_template(client, system_prompt="{{ n }}"))["id"]
    mcp = {kind: str(id) for kind, id in (await mcp_of(ring, project_id)).items()}
    return mcp | {"conversation": conversation, "template": template}


def numbers(value: Any) -> Iterator[Decimal]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for member in value:
            yield from numbers(member)
    elif isinstance(value, int | Decimal):
        yield Decimal(value)


def numbers_of(response: httpx.Response) -> list[Decimal]:
    assert response.status_code == 200, response.text[:1000]
    return [*numbers(json.loads(response.text, parse_float=Decimal))]


async def send(
    client: httpx.AsyncClient, method: str, url: str, body: Any, ids: dict[str, str]
) -> httpx.Response:
    """Send a body with all numbers."""
    content = json.dumps(body).replace(f'"{HOLE}"', f"[{','.join(NUMBERS)}]")
    content = content.replace("{conversation}", ids["conversation"])
    headers = {"Content-Type": "application/json", "Idempotency-Key": "key"}
    return await client.request(method, url.format(**ids), content=content, headers=headers)


@pytest.mark.parametrize("case", STORED)
async def test_numbers_come_back_as_they_were_written(
    client: httpx.AsyncClient, ids: dict[str, str], case: str
) -> None:
    method, url, body, read = STORED[case]
    for _ in range(2):
        sent = await send(client, method, url, body, ids)
        assert sent.status_code == 200, sent.text[:1000]
    found = numbers_of(await client.get(read.format(**ids)))
    assert [number for number in NUMBERS if Decimal(number) not in found] == []


async def test_numbers_are_rendered_as_they_were_written(
    client: httpx.AsyncClient, ids: dict[str, str]
) -> None:
    url = "/api/v1/templates/{template}/render"
    response = await send(client, "POST", url, {"variables": {"n": HOLE}}, ids)
    assert response.status_code == 200, response.text[:1000]
    rendered = json.loads(response.json()["system_prompt"], parse_float=Decimal)
    assert [*numbers(rendered)] == [*map(Decimal, NUMBERS)]


async def test_the_library_returns_numbers_as_python_can_hold_them(
    ring: Ring, project_id: ProjectId
) -> None:
    metadata = {"a": 2**64, "b": -(10**40), "c": 0.1, "d": Decimal("0.1"), "e": 7, "f": "1e400"}
    exact = {"g": Decimal("1E+400"), "h": Decimal("0.12345678901234567890"), "i": [2**70]}
    await ring.usage.log(project_id, NewCall.model_validate(CALL | {"metadata": metadata | exact}))
    [call] = await ring.usage.logs(project_id)
    assert call.metadata == metadata | {"d": 0.1} | exact
    assert type(call.metadata["c"]) is float


@pytest.mark.parametrize("number", ["18446744073709551616", "1e400"])
async def test_a_receipt_with_a_number_of_more_than_64_bits_is_invalid(
    client: httpx.AsyncClient, number: str
) -> None:
    response = await client.post(
        "/api/v1/receipts",
        content=f'{{"receipt": {{"receipt_id": {number}}}}}',
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 400, response.text
