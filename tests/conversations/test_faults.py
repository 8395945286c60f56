"""Messages and exchanges when things go wrong in between: nothing lost, doubled or half done."""

import asyncio
import random
from decimal import Decimal
from typing import Any

import pytest

from llmring_server import Ring, Settings
from llmring_server.conversations.models import (
    Conversation,
    ConversationPage,
    MessagePage,
    NewMessage,
)
from llmring_server.core.identity import ProjectId
from llmring_server.errors import NotFound, RequestInProgress, Unavailable
from tests.conversations.test_exchanges import TERMS, exchange
from tests.support.connections import terminate_connections


async def checked(ring: Ring, project_id: ProjectId) -> list[Conversation]:
    """Return all conversations, whose totals are what their messages add up to."""
    found = await ring.conversations.list(project_id, ConversationPage(limit=500))
    for each in found:
        stored = await ring.conversations.messages(project_id, each.id, MessagePage(limit=1000))
        assert each.message_count == len(stored)
        assert each.total_cost == sum(message.cost or 0 for message in stored)
        assert each.total_input_tokens == sum(message.input_tokens or 0 for message in stored)
        assert each.total_output_tokens == sum(message.output_tokens or 0 for message in stored)
    return found


async def test_connections_that_die_lose_and_double_nothing(
    settings: Settings, project_id: ProjectId, ring: Ring
) -> None:
    id = (await ring.conversations.create(project_id)).id
    async with Ring.open(settings.model_copy(update={"acquire_timeout": 30})) as mortal:
        talk = mortal.conversations
        one = NewMessage(role="user", content="Hi", cost=Decimal("0.1"))
        work: list[Any] = [talk.append(project_id, id, [one] * 2) for _ in range(100)]
        work += [talk.log(project_id, exchange(), f"key {n}") for n in range(100)]
        running = [asyncio.create_task(each) for each in work]
        for _ in range(3):
            await asyncio.sleep(0.05)
            await terminate_connections(settings)
        await asyncio.gather(*running)
    found = {each.id: each.message_count for each in await checked(ring, project_id)}
    assert found.pop(id) == 200
    assert list(found.values()) == [3] * 100
    assert (await ring.usage.stats(project_id)).summary.total_requests == 100


async def test_within_a_transaction_that_is_lost_nothing_is_tried_again(ring: Ring) -> None:
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        raise Unavailable

    async with ring._database.transaction() as inside:
        with pytest.raises(Unavailable):
            await ring.prices.with_database(inside)._retry(work)
    assert tries == 1


async def test_a_twin_that_does_not_end_is_a_conflict(
    project_id: ProjectId, settings: Settings
) -> None:
    async with Ring.open(settings.model_copy(update={"lock_timeout": 0.2})) as ring:
        async with ring.db.transaction() as tx:
            await ring.within(tx).conversations.log(project_id, exchange(), "held")
            with pytest.raises(RequestInProgress):
                await ring.conversations.log(project_id, exchange(), "held")
            await ring.conversations.log(project_id, exchange(), "free")
        assert (await ring.conversations.log(project_id, exchange(), "held")).replayed
        assert len(await checked(ring, project_id)) == 2


async def test_messages_of_a_conversation_that_goes_away_meanwhile(
    ring: Ring, project_id: ProjectId
) -> None:
    id = (await ring.conversations.create(project_id)).id
    one = [NewMessage(role="user")]
    work: list[Any] = [ring.conversations.append(project_id, id, one) for _ in range(20)]
    work.insert(10, ring.conversations.delete(project_id, id))
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    assert {type(each) for each in outcomes if isinstance(each, BaseException)} <= {NotFound}
    assert await ring.conversations.list(project_id) == []


async def test_conversations_and_statistics_add_up_to_the_same(
    ring: Ring, project_id: ProjectId
) -> None:
    drawn = random.Random(7)  # noqa: S311, nothing to guess
    total, ids = Decimal(), [None, (await ring.conversations.create(project_id)).id]
    for _ in range(60):
        cost = Decimal(drawn.randrange(10**12)).scaleb(-10)
        tokens = {"input_tokens": drawn.randrange(2**53), "output_tokens": drawn.randrange(2**53)}
        terms = TERMS | tokens | {"cost": cost}
        await ring.conversations.log(
            project_id, exchange(metadata=terms, conversation_id=drawn.choice(ids))
        )
        total += cost
    found = await checked(ring, project_id)
    summary = (await ring.usage.stats(project_id)).summary
    assert summary.total_cost == sum(each.total_cost for each in found) == total
    tokens_told = sum(each.total_input_tokens + each.total_output_tokens for each in found)
    assert summary.total_tokens == tokens_told
