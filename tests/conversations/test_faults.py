"""Messages and exchanges under faults: nothing is lost, stored twice or stored in part."""

import asyncio
import random
from decimal import Decimal
from typing import Any

import pytest

from llmring_server import Ring, Settings
from llmring_server.conversations import Conversation, ConversationPage, MessagePage, NewMessage
from llmring_server.core.identity import ProjectId
from llmring_server.errors import NotFound, RequestInProgress, Unavailable
from tests.support.connections import terminate_connections
from tests.support.conversations import METADATA, exchange


async def checked_conversations(ring: Ring, project_id: ProjectId) -> list[Conversation]:
    """Return all conversations, after checking their totals against their messages."""
    conversations = await ring.conversations.list(project_id, ConversationPage(limit=500))
    for conversation in conversations:
        page = MessagePage(limit=1000)
        messages = await ring.conversations.messages(project_id, conversation.id, page)
        assert conversation.message_count == len(messages)
        assert conversation.total_cost == sum(message.cost or 0 for message in messages)
        assert conversation.total_input_tokens == sum(each.input_tokens or 0 for each in messages)
        assert conversation.total_output_tokens == sum(each.output_tokens or 0 for each in messages)
    return conversations


async def test_killed_connections_lose_and_repeat_nothing(
    settings: Settings, project_id: ProjectId, ring: Ring
) -> None:
    id = (await ring.conversations.create(project_id)).id
    async with Ring.open(settings.model_copy(update={"acquire_timeout": 30})) as mortal:
        service = mortal.conversations
        message = NewMessage(role="user", content="Hi", cost=Decimal("0.1"))
        work: list[Any] = [service.append(project_id, id, [message] * 2) for _ in range(100)]
        work += [service.log(project_id, exchange(), f"key {n}") for n in range(100)]
        tasks = [asyncio.create_task(each) for each in work]
        for _ in range(3):
            await asyncio.sleep(0.05)
            await terminate_connections(settings)
        await asyncio.gather(*tasks)
    conversations = await checked_conversations(ring, project_id)
    counts = {conversation.id: conversation.message_count for conversation in conversations}
    assert counts.pop(id) == 200
    assert list(counts.values()) == [3] * 100
    assert (await ring.usage.stats(project_id)).summary.total_requests == 100


async def test_work_in_a_callers_transaction_is_not_retried(ring: Ring) -> None:
    attempts = 0

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        raise Unavailable

    async with ring._database.transaction() as inside:
        with pytest.raises(Unavailable):
            await ring.pricing.with_database(inside)._retry(attempt)
    assert attempts == 1


async def test_a_repeat_of_an_unfinished_exchange_is_a_conflict(
    project_id: ProjectId, settings: Settings
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        async with ring.db.transaction() as tx:
            await ring.within(tx).conversations.log(project_id, exchange(), "locked")
            with pytest.raises(RequestInProgress):
                await ring.conversations.log(project_id, exchange(), "locked")
            await ring.conversations.log(project_id, exchange(), "free")
        assert (await ring.conversations.log(project_id, exchange(), "locked")).replayed
        assert len(await checked_conversations(ring, project_id)) == 2


async def test_messages_of_a_conversation_that_is_deleted_meanwhile(
    ring: Ring, project_id: ProjectId
) -> None:
    id = (await ring.conversations.create(project_id)).id
    messages = [NewMessage(role="user")]
    work: list[Any] = [ring.conversations.append(project_id, id, messages) for _ in range(20)]
    work.insert(10, ring.conversations.delete(project_id, id))
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} <= {
        NotFound
    }
    assert await ring.conversations.list(project_id) == []


async def test_conversations_and_statistics_have_the_same_totals(
    ring: Ring, project_id: ProjectId
) -> None:
    drawn = random.Random(7)  # noqa: S311, nothing to guess
    total_cost = Decimal()
    ids = [None, (await ring.conversations.create(project_id)).id]
    for _ in range(60):
        cost = Decimal(drawn.randrange(10**12)).scaleb(-10)
        tokens = {"input_tokens": drawn.randrange(2**53), "output_tokens": drawn.randrange(2**53)}
        metadata = METADATA | tokens | {"cost": cost}
        await ring.conversations.log(
            project_id, exchange(metadata=metadata, conversation_id=drawn.choice(ids))
        )
        total_cost += cost
    conversations = await checked_conversations(ring, project_id)
    summary = (await ring.usage.stats(project_id)).summary
    assert (
        summary.total_cost
        == sum(conversation.total_cost for conversation in conversations)
        == total_cost
    )
    assert summary.total_tokens == sum(
        each.total_input_tokens + each.total_output_tokens for each in conversations
    )
