"""Times: whatever is stored by a request is not older than the request, to the microsecond."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from llmring_server import Ring
from llmring_server.conversations import NewMessage
from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import id_at, moment_of, new_id_and_time, time_at
from tests.conftest import CALL
from tests.support.conversations import (
    CONVERSATIONS,
    create_conversation,
    exchange,
    log_exchange,
)

# A time that is not exact to the microsecond is too early in most of so many tries.
TRIES = 20

Send = Callable[[httpx.AsyncClient], Awaitable[list[Any]]]


async def log_call(client: httpx.AsyncClient) -> list[Any]:
    return [(await client.post("/api/v1/log", json=CALL)).json()["timestamp"]]


async def exchange_times(client: httpx.AsyncClient) -> list[Any]:
    """Log an exchange; return the times of its call, its messages and its conversation."""
    logged = await log_exchange(client)
    [call] = (await client.get(f"/api/v1/logs?log_id={logged['log_id']}")).json()
    found = (await client.get(f"{CONVERSATIONS}/{logged['conversation_id']}")).json()
    times = [found["created_at"], found["updated_at"], found["last_message_at"]]
    return [*times, call["logged_at"], *(message["timestamp"] for message in found["messages"])]


async def message_times(client: httpx.AsyncClient) -> list[Any]:
    path = await create_conversation(client)
    added = await client.post(f"{path}/messages", json={"role": "user"})
    found = (await client.get(path)).json()
    return [added.json()["timestamp"], *(found[name] for name in ("created_at", "last_message_at"))]


async def template_time(client: httpx.AsyncClient) -> list[Any]:
    body = {"name": "greeting", "created_by": "me"}
    return [(await client.post("/api/v1/templates", json=body)).json()["created_at"]]


async def mcp_times(client: httpx.AsyncClient) -> list[Any]:
    new = {"name": "files", "url": "http://files", "transport_type": "http"}
    server = (await client.post("/api/v1/mcp/servers", json=new)).json()
    tool = {"server_id": server["id"], "name": "look"}
    tool_id = (await client.post("/api/v1/mcp/tools", json=tool)).json()["id"]
    path = f"/api/v1/mcp/tools/{tool_id}"
    await client.post(f"{path}/execute", json={"input": {}})
    [execution] = (await client.get(f"{path}/history")).json()
    return [server["created_at"], execution["executed_at"]]


@pytest.mark.parametrize(
    "send", [log_call, exchange_times, message_times, template_time, mcp_times]
)
async def test_no_time_is_before_the_request(client: httpx.AsyncClient, send: Send) -> None:
    for _ in range(TRIES):
        before = datetime.now(UTC)
        times = [datetime.fromisoformat(time).astimezone(UTC) for time in await send(client)]
        assert before <= min(times) <= max(times) <= datetime.now(UTC)


async def test_an_exchange_is_found_from_the_time_of_its_request(
    client: httpx.AsyncClient,
) -> None:
    for _ in range(TRIES):
        before = datetime.now(UTC).isoformat()
        logged = await log_exchange(client)
        found = await client.get("/api/v1/logs", params={"start_date": before})
        assert [call["id"] for call in found.json()] == [logged["log_id"]]
        stats = await client.get("/api/v1/stats", params={"start_date": before})
        assert stats.json()["summary"]["total_requests"] == 1


async def test_a_call_is_found_by_the_millisecond_in_its_id(client: httpx.AsyncClient) -> None:
    for _ in range(TRIES):
        log_id = (await log_exchange(client))["log_id"]
        [call] = (await client.get(f"/api/v1/logs?log_id={log_id}")).json()
        logged_at = datetime.fromisoformat(call["logged_at"])
        assert timedelta() <= logged_at - moment_of(UUID(log_id)) < timedelta(milliseconds=1)
        explained = await client.get(f"/api/v1/logs/{log_id}/cost")
        assert explained.status_code == 200


async def test_a_replayed_request_has_the_times_of_the_first(
    ring: Ring, project_id: ProjectId
) -> None:
    id = (await ring.conversations.create(project_id)).id
    message = NewMessage(role="user", content="Hi")
    for _ in range(2):
        appended = await ring.conversations.append(project_id, id, [message], key="message")
        logged = await ring.conversations.log(project_id, exchange(), "exchange")
    assert (appended.replayed, logged.replayed) == (True, True)
    assert appended.messages == await ring.conversations.messages(project_id, id)
    stored = await ring.conversations.messages(project_id, logged.conversation_id)
    assert [each.timestamp for each in logged.messages] == [each.timestamp for each in stored]
    [call] = await ring.usage.logs(project_id)
    assert call.logged_at == logged.messages[-1].timestamp


async def test_an_exchange_in_an_old_transaction_is_not_older_than_its_request(
    ring: Ring, project_id: ProjectId
) -> None:
    async with ring.db.transaction() as transaction:
        await transaction.execute("SELECT 1")
        before = datetime.now(UTC)
        inside = ring.within(transaction).conversations
        id = (await inside.log(project_id, exchange())).conversation_id
        conversation = await inside.get(project_id, id)
    assert before <= conversation.created_at <= conversation.updated_at


def test_ids_are_in_the_order_of_their_times() -> None:
    start = 1_764_000_000_000_000
    ids = [id_at(start + microseconds) for microseconds in range(3_000)]
    assert ids == sorted(ids)
    for offset in (0, 1, 999, 1000, 1001, 2999):
        id = ids[offset]
        assert (id.version, id.variant) == (7, "specified in RFC 4122")
        assert moment_of(id) == time_at(start + offset - offset % 1000)
    assert len({id_at(start) for _ in range(1000)}) == 1000
    id, now = new_id_and_time()
    assert timedelta() <= now - moment_of(id) < timedelta(milliseconds=1)
