"""Answers with the largest items that can be stored: bounded in bytes and memory, and complete."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg
import httpx
import orjson
import pytest

from llmring_server.core.identity import project_of_key
from llmring_server.core.pagination import MAX_PAGE_BYTES
from scripts.benchmark.large_items import EXPORTS, LISTS, seed_script
from tests.conftest import SCHEMA
from tests.support.postgres import database
from tests.support.served import Served, serve

KEY = "large-items"
MAX_MEMORY = 64 * 1024 * 1024

# How many items each list has in all.
COUNTS = {
    "logs": 1500,
    "receipts": 100,
    "receipt logs": 500,
    "uncertified": 1000,
    "conversations": 20,
    "search": 20,
    "messages": 120,
    "newest messages": 120,
    "aliases": 200,
    "executions": 6,
    "servers": 151,
    "tools": 161,
    "tools of a server": 160,
    "templates": 20,
    "template versions": 20,
}


class Filled(NamedTuple):
    """A server with such items, a client of it, and its memory before it was asked for any."""

    served: Served
    client: httpx.AsyncClient
    memory_before: int


@pytest.fixture(scope="module")
async def filled(
    server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Filled]:
    output = tmp_path_factory.mktemp("served") / "output"
    async with database(server_url, "answers", template) as url:
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.execute(f"SET LOCAL search_path = {SCHEMA}")
            await connection.execute(seed_script(project_of_key(KEY), f"{SCHEMA}_mcp"), timeout=120)
        await connection.close()
        given = {"auth": "open", "database_url": url, "database_schema": SCHEMA}
        async with (
            serve(given, output) as served,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{served.port}", headers={"X-API-Key": KEY}, timeout=60
            ) as client,
        ):
            for path in (*LISTS.values(), *EXPORTS.values()):
                # So that what is loaded once is not counted as memory of an answer.
                assert (await client.get(path, headers={"X-API-Key": "other"})).status_code < 500
            served.reset_peak()
            yield Filled(served, client, served.peak())


def items_of(answer: Any) -> list[dict[str, Any]]:
    if isinstance(answer, list):
        return answer
    items: list[dict[str, Any]] = answer.get("receipts") or answer.get("logs") or []
    return items


def identity(item: dict[str, Any]) -> str:
    return str(item.get("receipt_id") or item.get("id") or item["version"])


@pytest.mark.parametrize("name", COUNTS)
async def test_pages_are_bounded_and_lead_to_every_item_once(filled: Filled, name: str) -> None:
    url: str | None = LISTS[name]
    path = LISTS[name].partition("?")[0]
    found: list[str] = []
    while url:
        response = await filled.client.get(url)
        assert response.status_code == 200, response.text
        items = items_of(orjson.loads(response.content))
        # A page ends with the item that reaches the bound.
        largest = max((len(orjson.dumps(item)) for item in items), default=0)
        assert len(response.content) <= MAX_PAGE_BYTES + largest
        found += map(identity, items)
        link = response.links.get("next")
        url = path + link["url"] if link and items else None
    assert len(found) == len({*found}) == COUNTS[name]
    assert filled.served.peak() - filled.memory_before <= MAX_MEMORY


async def test_the_messages_of_a_conversation_are_bounded(filled: Filled) -> None:
    response = await filled.client.get(LISTS["conversation"])
    conversation = response.json()
    largest = len(orjson.dumps(conversation["messages"][0]))
    prompt = len(orjson.dumps(conversation["system_prompt"]))
    assert len(response.content) <= max(MAX_PAGE_BYTES, largest) + prompt + 10_000
    assert filled.served.peak() - filled.memory_before <= MAX_MEMORY


@pytest.mark.parametrize(
    ("name", "lines"),
    {"export, CSV": 1501, "export, JSON lines": 1500, "receipt export": 500}.items(),
)
async def test_exports_are_complete_in_little_memory(filled: Filled, name: str, lines: int) -> None:
    found = 0
    async with filled.client.stream("GET", EXPORTS[name]) as response:
        async for part in response.aiter_bytes():
            found += part.count(b"\n")
    assert found == lines
    assert filled.served.peak() - filled.memory_before <= MAX_MEMORY
