"""Events: what this process has committed, announced to subscribers in the same process.

A service announces an event after its COMMIT was acknowledged, and never in the transaction of a
caller, which may still be rolled back. Announcing puts the event into the queue of each subscriber
and waits for nobody. Without subscribers, no event is made.
"""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, Self, TypeAlias, get_args
from uuid import UUID
from weakref import ref

from llmring_server.core.identity import ProjectId
from llmring_server.errors import traceback_without_values

_logger = logging.getLogger(__name__)

# How long `Events.aclose` waits for callbacks, which may wait for something themselves.
CLOSE_TIMEOUT_SECONDS = 5.0
# How long it then waits for those that were cancelled.
CANCEL_TIMEOUT_SECONDS = 1.0


# What happened to a conversation: `changed` is about its title or its prompt, for example.
Change: TypeAlias = Literal["created", "changed", "messages", "deleted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLogged:
    """A call was stored. A request that was recognised as a repetition stores none."""

    project_id: ProjectId
    call_id: UUID
    logged_at: datetime
    cost: Decimal | None
    cost_source: str
    kind: Literal["call.logged"] = "call.logged"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationUpdated:
    """A conversation was created, changed (its title, for example) or deleted, or got messages."""

    project_id: ProjectId
    conversation_id: UUID
    change: Change
    message_ids: tuple[UUID, ...] = ()
    kind: Literal["conversation.updated"] = "conversation.updated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptIssued:
    """A receipt was signed and stored; it certifies this number of calls."""

    project_id: ProjectId
    receipt_id: str
    calls: int
    kind: Literal["receipt.issued"] = "receipt.issued"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRevoked:
    """An API key was revoked."""

    project_id: ProjectId
    key_id: str
    revoked_at: datetime
    kind: Literal["key.revoked"] = "key.revoked"


# A new event is a class above and a member here.
AnnouncedEvent: TypeAlias = CallLogged | ConversationUpdated | ReceiptIssued | KeyRevoked

KINDS: tuple[str, ...] = tuple(
    event.__dataclass_fields__["kind"].default for event in get_args(AnnouncedEvent)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsDropped:
    """The subscriber was too slow: in this place, `count` events are missing."""

    count: int
    kind: Literal["events.dropped"] = "events.dropped"


Event: TypeAlias = AnnouncedEvent | EventsDropped

# What a callback returns is ignored, unless it must be awaited.
Callback: TypeAlias = Callable[[Event], Awaitable[object] | object]


class Subscription:
    """The events of one subscriber, in the order in which they were announced.

    Iterate over it with `async for`, unless it has a callback. If more than `max_pending` events
    wait, the oldest are dropped: `dropped` counts all of them, and an `EventsDropped` is delivered
    in the place of those that are missing.
    """

    def __init__(
        self,
        events: "Events",
        callback: Callback | None,
        *,
        project_id: ProjectId | None,
        kinds: frozenset[str],
        max_pending: int,
    ) -> None:
        self.dropped = 0
        self._events = events
        self._callback = callback
        self._project_id = project_id
        self._kinds = kinds
        self._max_pending = max_pending
        self._pending: deque[AnnouncedEvent] = deque()
        self._dropped_since = 0
        self._is_ended = False
        self._has_news = asyncio.Event()
        # The task that calls the callback. It exists only while events wait.
        self._task: asyncio.Task[None] | None = None
        # Otherwise a callback would run in the context of whichever request announces an event.
        self._context = copy_context()

    @property
    def pending(self) -> int:
        """How many events wait to be delivered."""
        return len(self._pending)

    def put(self, event: AnnouncedEvent) -> None:
        """Queue an event for delivery if the subscriber wants it."""
        if self._is_ended or event.kind not in self._kinds:
            return
        if self._project_id not in {None, event.project_id}:
            return
        if len(self._pending) >= self._max_pending:
            self._pending.popleft()
            self._dropped_since += 1
            self.dropped += 1
        self._pending.append(event)
        self._has_news.set()
        if self._callback and self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._deliver(self._callback), context=self._context
            )
            self._events.keep_until_done(self._task)

    def __aiter__(self) -> Self:
        if self._callback:
            raise TypeError("This subscription has a callback: iterate over one that has none.")
        return self

    async def __anext__(self) -> Event:
        while (event := self._next()) is None:
            if self._is_ended:
                raise StopAsyncIteration
            self._has_news.clear()
            await self._events.kept_while_waiting(self, self._has_news)
        return event

    def close(self) -> None:
        """Unsubscribe. What waits is discarded; a callback that is running comes to its end."""
        self._pending.clear()
        self._dropped_since = 0
        self.end()

    async def aclose(self) -> None:
        """Unsubscribe, and wait for the callback that is running; a callback may call this."""
        self.close()
        if self._task and self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def end(self) -> None:
        """Take no more events; those that wait are still delivered."""
        self._is_ended = True
        self._has_news.set()
        self._events.remove(self)

    def _next(self) -> Event | None:
        if self._dropped_since:
            count, self._dropped_since = self._dropped_since, 0
            return EventsDropped(count=count)
        return self._pending.popleft() if self._pending else None

    async def _deliver(self, callback: Callback) -> None:
        try:
            while event := self._next():
                try:
                    result = callback(event)
                    if inspect.isawaitable(result):
                        await result
                except asyncio.CancelledError as exc:
                    # Either of something that the callback waited for, or of this task.
                    if (task := asyncio.current_task()) and task.cancelling():
                        raise
                    _log_failure(exc)
                except Exception as exc:  # noqa: BLE001, a subscriber may raise anything
                    _log_failure(exc)
                # Many events must not keep requests waiting.
                await asyncio.sleep(0)
        finally:
            self._task = None


def _log_failure(exc: BaseException) -> None:
    # The text of the error may have a caller's values.
    _logger.error("a subscriber to events failed: %s", traceback_without_values(exc))


class Events:
    """The subscribers of one ring."""

    def __init__(self) -> None:
        # Writers read this attribute, so that without subscribers an event costs nothing.
        self.has_subscribers = False
        # Weak, so that `async for` needs no end: who leaves the loop has unsubscribed.
        self._subscriptions: list[ref[Subscription]] = []
        # Those with a callback, and those whose next event somebody waits for: the event loop does
        # not keep a task that waits.
        self._callbacks: set[Subscription] = set()
        self._awaited: set[Subscription] = set()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def subscribe(
        self,
        callback: Callback | None = None,
        *,
        project_id: ProjectId | None = None,
        kinds: Iterable[str] = KINDS,
        max_pending: int = 1000,
    ) -> Subscription:
        """Subscribe to the events of a project, or of all, and of these kinds.

        `callback`, a function or a coroutine function, is called in the event loop of the ring, for
        one event at a time. Its errors are logged. Without it, iterate over the subscription.
        """
        wanted = frozenset([kinds] if isinstance(kinds, str) else kinds)
        if unknown := wanted.difference(KINDS):
            raise ValueError(
                f"kinds: unknown: {', '.join(sorted(unknown))}. Known: {', '.join(KINDS)}."
            )
        if max_pending < 1:
            raise ValueError("max_pending: must be at least 1")
        if project_id is not None and not isinstance(project_id, UUID):
            raise TypeError("project_id: must be a UUID, such as that of project_of_key(key)")
        if self._is_closed:
            raise RuntimeError("The ring is closed: it announces no events.")
        subscription = Subscription(
            self, callback, project_id=project_id, kinds=wanted, max_pending=max_pending
        )
        self._subscriptions.append(ref(subscription, self._forget))
        if callback:
            self._callbacks.add(subscription)
        self.has_subscribers = True
        return subscription

    @property
    def is_closed(self) -> bool:
        """Whether `aclose` has been called."""
        return self._is_closed

    def announce(self, events: Sequence[AnnouncedEvent]) -> None:
        """Queue events that are committed for all subscribers.

        This raises nothing: the writer has committed, and must be told so.
        """
        for subscription in [each() for each in self._subscriptions]:
            if subscription is None:
                continue
            try:
                for event in events:
                    subscription.put(event)
            except Exception as exc:  # noqa: BLE001, such as that of an event loop that has ended
                _logger.error(  # noqa: TRY400, the text of the error may have a caller's values
                    "events were not announced: %s", traceback_without_values(exc)
                )

    async def kept_while_waiting(self, subscription: Subscription, news: asyncio.Event) -> None:
        """Wait for `news` of a subscription, which is kept meanwhile."""
        self._awaited.add(subscription)
        try:
            await news.wait()
        finally:
            self._awaited.discard(subscription)

    def keep_until_done(self, delivery: asyncio.Task[None]) -> None:
        """Keep a task that calls a callback."""
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    def remove(self, subscription: Subscription) -> None:
        """Announce no more events to `subscription`."""
        self._callbacks.discard(subscription)
        self._subscriptions = [each for each in self._subscriptions if each() is not subscription]
        self.has_subscribers = bool(self._subscriptions)

    def _forget(self, gone: ref[Subscription]) -> None:
        self._subscriptions = [each for each in self._subscriptions if each is not gone]
        self.has_subscribers = bool(self._subscriptions)

    async def aclose(self) -> None:
        """End all subscriptions, when the events that wait are delivered.

        Callbacks that take longer than CLOSE_TIMEOUT_SECONDS are cancelled, and are left alone if
        they do not end after that.
        """
        self._is_closed = True
        for subscription in [each() for each in self._subscriptions]:
            if subscription:
                subscription.end()
        # A callback may close the ring.
        deliveries = self._deliveries - {asyncio.current_task()}
        if not deliveries:
            return
        _, slow = await asyncio.wait(deliveries, timeout=CLOSE_TIMEOUT_SECONDS)
        if slow:
            _logger.warning("%d callbacks of events took too long and were cancelled", len(slow))
            for task in slow:
                task.cancel()
            await asyncio.wait(slow, timeout=CANCEL_TIMEOUT_SECONDS)
