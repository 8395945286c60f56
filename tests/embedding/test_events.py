"""Events: what was committed is announced once, in order, and slows down no writer."""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import (
    LIBRARY,
    CallLogged,
    ConversationUpdated,
    Event,
    EventsDropped,
    KeyRevoked,
    NewCall,
    ReceiptIssued,
    Ring,
    Settings,
)
from llmring_server.conversations import Exchange, NewConversation, NewMessage
from llmring_server.core import events as events_module
from llmring_server.core.identity import ProjectId
from llmring_server.errors import InvalidRequest, NotFound, RingError
from tests.conftest import CALL
from tests.support.receipts import EXCHANGE, UNCERTIFIED
from tests.support.signing import keyring

ENTRY = NewCall(**CALL, cost=Decimal("0.50"))
MESSAGE = NewMessage(role="user", content="secret words")


@pytest.fixture
async def ring(db: AsyncDatabaseManager) -> AsyncIterator[Ring]:
    ring = Ring(db, Settings(conversation_content="full"), keyring())
    yield ring
    await ring.aclose()


async def announced(ring: Ring, subscription: Any) -> Sequence[Event]:
    """Return all events that a subscription has by now; afterwards, it has ended."""
    await ring.events.aclose()
    return [event async for event in subscription]


async def test_a_call_is_announced_when_it_is_committed(ring: Ring, project_id: ProjectId) -> None:
    subscription = ring.events.subscribe()
    result = await ring.usage.log(project_id, ENTRY)
    event = await anext(subscription)
    assert event == CallLogged(
        project_id=project_id,
        call_id=result.log_id,
        logged_at=result.timestamp,
        cost=Decimal("0.5"),
        cost_source="client",
    )
    assert event.kind == "call.logged"
    [call] = await ring.usage.logs(project_id)
    assert call.id == event.call_id


async def test_every_way_to_log_calls_announces_them_once(
    ring: Ring, project_id: ProjectId
) -> None:
    subscription = ring.events.subscribe()
    logged = [await ring.usage.log(project_id, ENTRY, "a key") for _ in range(2)]
    assert logged[1].replayed
    logged += await ring.usage.log_many(project_id, [ENTRY, ENTRY])
    logged += await ring.usage.log_many(project_id, [ENTRY], "another key")
    logged += await ring.usage.log_many(project_id, [ENTRY], "another key")
    with pytest.raises(InvalidRequest):
        await ring.usage.log_many(project_id, [ENTRY, ENTRY], "another key")
    refused: list[NewCall | RingError] = [ENTRY, NotFound()]
    outcomes = await ring.usage.log_each(project_id, refused)
    stored = [*logged, *(each for each in outcomes if not isinstance(each, RingError))]
    ids = [event.call_id for event in await announced(ring, subscription)]  # type: ignore[union-attr]
    assert ids == list(dict.fromkeys(result.log_id for result in stored))


async def test_concurrent_calls_of_a_project_are_announced_in_the_order_of_their_commits(
    ring: Ring, project_id: ProjectId
) -> None:
    subscription = ring.events.subscribe(project_id=project_id)
    results = await asyncio.gather(*(ring.usage.log(project_id, ENTRY) for _ in range(50)))
    assert [event.call_id for event in await announced(ring, subscription)] == [  # type: ignore[union-attr]
        result.log_id for result in results
    ]


async def test_nothing_is_announced_in_a_callers_transaction(
    ring: Ring, db: AsyncDatabaseManager, project_id: ProjectId
) -> None:
    issued = await ring.keys.issue(f"{uuid4()}", actor=LIBRARY)
    subscription = ring.events.subscribe()
    async with db.transaction() as transaction:
        inside = ring.within(transaction)
        await inside.usage.log(project_id, ENTRY)
        await inside.usage.log_many(project_id, [ENTRY])
        await inside.usage.log_each(project_id, [ENTRY])
        conversation = await inside.conversations.create(project_id)
        await inside.conversations.append(project_id, conversation.id, [MESSAGE])
        await inside.conversations.log(project_id, Exchange(**EXCHANGE))
        await inside.conversations.delete(project_id, conversation.id)
        await inside.receipts.generate(project_id, UNCERTIFIED)
        await inside.keys.revoke(issued.id, actor=LIBRARY)
    assert await announced(ring, subscription) == []


async def test_changes_of_a_conversation_are_announced(ring: Ring, project_id: ProjectId) -> None:
    subscription = ring.events.subscribe()
    id = (await ring.conversations.create(project_id)).id
    await ring.conversations.update(project_id, id, NewConversation(title="secret words"))
    appended = await ring.conversations.append(project_id, id, [MESSAGE, MESSAGE], key="a key")
    await ring.conversations.append(project_id, id, [MESSAGE, MESSAGE], key="a key")
    await ring.conversations.append(project_id, id, [MESSAGE], level="none")
    with pytest.raises(NotFound):
        await ring.conversations.append(project_id, uuid4(), [MESSAGE])
    await ring.conversations.delete(project_id, id)
    found = await announced(ring, subscription)
    assert found == [
        ConversationUpdated(project_id=project_id, conversation_id=id, change="created"),
        ConversationUpdated(project_id=project_id, conversation_id=id, change="changed"),
        ConversationUpdated(
            project_id=project_id,
            conversation_id=id,
            change="messages",
            message_ids=tuple(message.id for message in appended.messages),
        ),
        ConversationUpdated(project_id=project_id, conversation_id=id, change="deleted"),
    ]
    assert "secret" not in repr(found)


async def test_an_exchange_announces_its_conversation_its_call_and_its_receipt(
    ring: Ring, project_id: ProjectId
) -> None:
    subscription = ring.events.subscribe()
    for _ in range(2):
        result = await ring.conversations.log(project_id, Exchange(**EXCHANGE), "a key")
    created, updated, logged, issued = await announced(ring, subscription)
    assert isinstance(created, ConversationUpdated)
    assert isinstance(updated, ConversationUpdated)
    assert isinstance(logged, CallLogged)
    assert (created.change, updated.change) == ("created", "messages")
    assert created.conversation_id == updated.conversation_id == result.conversation_id
    assert logged.call_id == updated.message_ids[-1] == result.messages[-1].id
    assert (logged.cost, logged.cost_source) == (Decimal("0.5"), "client")
    assert result.receipt
    receipt_id = result.receipt["receipt_id"]
    assert issued == ReceiptIssued(project_id=project_id, receipt_id=receipt_id, calls=1)


async def test_new_receipts_are_announced_and_existing_ones_are_not(
    ring: Ring, project_id: ProjectId
) -> None:
    logged = await ring.usage.log(project_id, ENTRY)
    await ring.usage.log_many(project_id, [ENTRY, ENTRY])
    subscription = ring.events.subscribe()
    for _ in range(2):
        single = await ring.receipts.issue(project_id, logged.log_id)
    batch = await ring.receipts.generate(project_id, UNCERTIFIED)
    assert await announced(ring, subscription) == [
        ReceiptIssued(project_id=project_id, receipt_id=single["receipt_id"], calls=1),
        ReceiptIssued(
            project_id=project_id,
            receipt_id=batch["receipt"]["receipt_id"],
            calls=batch["certified_count"],
        ),
    ]


async def test_the_first_revocation_of_a_key_is_announced(ring: Ring) -> None:
    issued = await ring.keys.issue(f"{uuid4()}", actor=LIBRARY)
    subscription = ring.events.subscribe()
    revoked_at = await ring.keys.revoke(issued.id, actor=LIBRARY)
    await ring.keys.revoke(issued.id, actor=LIBRARY)
    assert await announced(ring, subscription) == [
        KeyRevoked(project_id=issued.project_id, key_id=issued.id, revoked_at=revoked_at)
    ]


async def test_filters_by_project_and_kind(ring: Ring, project_id: ProjectId) -> None:
    other = ProjectId(uuid4())
    of_project = ring.events.subscribe(project_id=project_id)
    of_kind = ring.events.subscribe(kinds=["conversation.updated"])
    for project in (project_id, other):
        await ring.usage.log(project, ENTRY)
        await ring.conversations.create(project)
    await ring.events.aclose()
    assert {event.project_id async for event in of_project} == {project_id}  # type: ignore[union-attr]
    assert [event.kind async for event in of_kind] == ["conversation.updated"] * 2
    with pytest.raises(ValueError, match=r"unknown: call\.loged\. Known: call\.logged, conv"):
        ring.events.subscribe(kinds="call.loged")


async def test_a_slow_subscriber_is_told_how_many_events_it_missed(
    ring: Ring, project_id: ProjectId
) -> None:
    slow = ring.events.subscribe(max_pending=2)
    quick = ring.events.subscribe()
    ids = [result.log_id for result in await ring.usage.log_many(project_id, [ENTRY] * 5)]
    assert (slow.pending, slow.dropped) == (2, 3)
    assert await anext(slow) == EventsDropped(count=3)
    assert [(await anext(slow)).call_id for _ in range(2)] == ids[3:]  # type: ignore[union-attr]
    await ring.usage.log_many(project_id, [ENTRY] * 3)
    assert (await anext(slow), slow.dropped) == (EventsDropped(count=1), 4)
    assert (quick.pending, quick.dropped) == (8, 0)
    with pytest.raises(ValueError, match="max_pending"):
        ring.events.subscribe(max_pending=0)


async def test_callbacks_may_be_functions_or_coroutine_functions_and_their_errors_do_not_spread(
    ring: Ring, project_id: ProjectId, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[Event] = []

    def fail(event: Event) -> None:
        found.append(event)
        raise ValueError("secret words")

    async def read(event: Event) -> None:
        assert isinstance(event, CallLogged)
        # A callback may use the ring.
        found.extend([event] * len(await ring.usage.logs(project_id)))

    ring.events.subscribe(fail)
    ring.events.subscribe(read)
    with caplog.at_level(logging.ERROR):
        await ring.usage.log(project_id, ENTRY)
        await ring.events.aclose()
    assert len(found) == 2
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text.replace('raise ValueError("secret words")', "")
    await ring.usage.log(project_id, ENTRY)
    assert len(found) == 2  # both have ended


async def test_a_callback_that_waits_delays_no_writer_and_no_other_subscriber(
    ring: Ring, project_id: ProjectId
) -> None:
    released = asyncio.Event()
    found: list[Event] = []

    async def wait(event: Event) -> None:
        await released.wait()
        found.append(event)

    blocked = ring.events.subscribe(wait, max_pending=1)
    free = ring.events.subscribe()
    for _ in range(3):
        await ring.usage.log(project_id, ENTRY)
        assert isinstance(await anext(free), CallLogged)
    assert found == []
    released.set()
    await ring.events.aclose()
    # The first waited in the callback, the third in the queue.
    assert [event.kind for event in found] == ["call.logged", "events.dropped", "call.logged"]
    assert blocked.dropped == 1


async def test_a_subscriber_in_an_event_loop_that_has_ended_fails_no_writer(
    ring: Ring, project_id: ProjectId, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = ring.events.subscribe()

    def wait_in_another_loop() -> asyncio.Task[Event]:
        loop = asyncio.new_event_loop()
        task = loop.create_task(subscription.__anext__())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return task

    task = await asyncio.to_thread(wait_in_another_loop)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    other = ring.events.subscribe()
    assert (await ring.usage.log(project_id, ENTRY)).log_id
    assert "events were not announced: RuntimeError" in caplog.text
    assert other.pending == 1


async def test_unsubscribing_leaves_no_task_and_no_subscriber(
    ring: Ring, project_id: ProjectId
) -> None:
    before = asyncio.all_tasks()
    found: list[Event] = []

    async def once(event: Event) -> None:
        found.append(event)
        await subscription.aclose()

    subscription = ring.events.subscribe(once)
    await ring.usage.log_many(project_id, [ENTRY] * 3)
    async with ring.events.subscribe(found.append), aclosing(ring.events.subscribe()) as events:
        await ring.usage.log(project_id, ENTRY)
        async for event in events:
            assert isinstance(event, CallLogged)
            break
    assert not ring.events.has_subscribers
    assert len(found) >= 1
    await ring.aclose()
    assert asyncio.all_tasks() == before


async def test_leaving_a_loop_unsubscribes(ring: Ring, project_id: ProjectId) -> None:
    async def first() -> Event:
        async for event in ring.events.subscribe():
            return event
        raise AssertionError

    # Nobody else refers to the task while it waits.
    result = asyncio.gather(first())
    await asyncio.sleep(0)
    gc.collect()
    assert ring.events.has_subscribers
    await ring.usage.log(project_id, ENTRY)
    assert [event.kind for event in await result] == ["call.logged"]
    gc.collect()
    assert not ring.events.has_subscribers


async def test_closing_the_ring_delivers_what_is_committed_and_ends_its_subscriptions(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "CLOSE_TIMEOUT_SECONDS", 0.01)
    found: list[Event] = []
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(anext(ring.events.subscribe(kinds=["key.revoked"])))
    forever = asyncio.Event()

    async def never_ends(_: Event) -> None:
        await forever.wait()

    ring.events.subscribe(found.append)
    ring.events.subscribe(never_ends)
    logging_ = asyncio.create_task(ring.usage.log(project_id, ENTRY))
    await asyncio.sleep(0)
    await ring.aclose()
    assert [event.kind for event in found] == ["call.logged"]
    await logging_
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert asyncio.all_tasks() == before
    with pytest.raises(RuntimeError, match="The ring is closed"):
        ring.events.subscribe(found.append)


async def test_a_subscription_that_would_get_nothing_is_refused(ring: Ring) -> None:
    text: Any = "019a0000-0000-7000-8000-000000000001"
    with pytest.raises(TypeError, match="project_id: must be a UUID"):
        ring.events.subscribe(project_id=text)
    with pytest.raises(TypeError, match="has a callback"):
        aiter(ring.events.subscribe(print))


async def test_a_callback_that_ends_as_if_it_were_cancelled_gets_the_next_events(
    ring: Ring, project_id: ProjectId, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[Event] = []

    async def fails_once(event: Event) -> None:
        found.append(event)
        if len(found) == 1:
            other = asyncio.create_task(asyncio.Event().wait())
            other.cancel()
            await other

    ring.events.subscribe(fails_once)
    await asyncio.gather(*(ring.usage.log(project_id, ENTRY) for _ in range(3)))
    async with asyncio.timeout(30):
        await ring.events.aclose()
    assert len(found) == 3
    assert "a subscriber to events failed: CancelledError" in caplog.text


async def test_a_callback_that_cannot_be_cancelled_does_not_keep_a_ring_open(
    ring: Ring, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "CLOSE_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr(events_module, "CANCEL_TIMEOUT_SECONDS", 0.01)
    forever = asyncio.Event()
    running = asyncio.Event()

    async def goes_on(_: Event) -> None:
        running.set()
        while not forever.is_set():
            with suppress(asyncio.CancelledError):
                await forever.wait()

    subscription = ring.events.subscribe(goes_on)
    await ring.usage.log(project_id, ENTRY)
    await running.wait()
    async with asyncio.timeout(30):
        await ring.aclose()
        forever.set()
        await subscription.aclose()


async def test_without_a_subscriber_logging_a_call_calls_no_function_for_events(
    ring: Ring, project_id: ProjectId
) -> None:
    await ring.usage.log(project_id, ENTRY)
    called: list[str] = []

    def profile(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        is_of_events = code.co_filename == events_module.__file__ or "announce" in code.co_name
        if event == "call" and is_of_events:
            called.append(code.co_name)

    async def log() -> None:
        sys.setprofile(profile)
        try:
            await ring.usage.log(project_id, ENTRY)
        finally:
            sys.setprofile(None)

    await log()
    assert called == []
    subscription = ring.events.subscribe()
    await log()
    assert "announce" in called
    assert subscription.pending == 1
