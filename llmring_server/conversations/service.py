"""Conversations service: stores and reads conversations and messages, and keeps totals exact."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

import asyncpg

from llmring_server.access.audit import AuditLog
from llmring_server.conversations.exchange import Exchange
from llmring_server.conversations.models import (
    CONTENT_LEVELS,
    OWN_NAMES,
    AppendResult,
    ContentLevel,
    Conversation,
    ConversationPage,
    Message,
    MessagePage,
    MessageResponse,
    NewConversation,
    NewMessage,
    message_arrays,
    stored_message_response,
    with_consecutive_ids,
)
from llmring_server.core import worker
from llmring_server.core.events import AnnouncedEvent, Change, ConversationUpdated
from llmring_server.core.fair_queue import FairSlots, QueueLimits, SlotLimits
from llmring_server.core.identity import Actor, ProjectId
from llmring_server.core.ids import new_id, new_id_and_time
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.warnings import RequestWarning
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Retention, Table
from llmring_server.errors import InvalidRequest, NotFound
from llmring_server.receipts.service import Receipts, receipt_issued
from llmring_server.settings import Settings
from llmring_server.usage.call_record import CallRecord
from llmring_server.usage.idempotency import IdempotencyKey, IdempotencyKeys, fingerprint
from llmring_server.usage.service import Usage, call_logged

# A search for words in this many messages or more does not go by the index of messages.
SEARCH_MATCH_LIMIT = 2000

NO_SUCH_CONVERSATION: RequestWarning = {
    "code": "not_kept",
    "field": "conversation_id",
    "detail": "Not kept: there is no such conversation, so the exchange started a new one.",
}

# Old messages are deleted in batches, so that their locks are held only briefly.
DELETE_BATCH_SIZE = 5000


class Conversations(Repository):
    """The conversations of every project; `level` limits how much content is stored."""

    row_kind = "Conversation"
    sql = "conversations/conversations"
    replica_reads = frozenset({"list", "search", "messages_asc", "messages_desc"})
    tables = (
        Table("messages", "messages", "erase_messages", ("DELETE",)),
        Table("conversations", "conversations", "erase_conversations", ("UPDATE", "DELETE")),
    )
    retention = (
        Retention("delete_expired_messages", "messages", "messages.expire"),
        Retention("delete_expired_conversations", "conversations", "conversations.expire"),
    )

    def __init__(  # noqa: PLR0913, PLR0917, an exchange is stored with its call, key and receipt
        self,
        database: Database,
        usage: Usage,
        idempotency_keys: IdempotencyKeys,
        audit: AuditLog,
        receipts: Receipts,
        level: ContentLevel,
        queue_limits: QueueLimits,
    ) -> None:
        super().__init__(database)
        self._usage = usage
        self._idempotency_keys = idempotency_keys
        self._audit = audit
        self._receipts = receipts
        self._level: ContentLevel = level
        # A transaction that waits, for example for the lock of a conversation, keeps a connection.
        self._transaction_slots = FairSlots(
            self._slot_limits, queue_limits, database.acquire_timeout
        )

    def configure(self, settings: Settings) -> None:
        self._level = settings.conversation_content

    async def create(
        self, project_id: ProjectId, conversation: NewConversation | None = None
    ) -> Conversation:
        columns = (conversation or NewConversation()).model_dump() | {"origin": None}
        created = await self._create(project_id, *new_id_and_time(), columns)
        self._announce(project_id, created.id, "created")
        return created

    async def get(self, project_id: ProjectId, id: UUID) -> Conversation:
        return Conversation.from_row(await self._fetch_one("get", project_id=project_id, id=id))

    async def update(
        self, project_id: ProjectId, id: UUID, changes: NewConversation
    ) -> Conversation:
        """Set the fields that `changes` sets explicitly; null clears a field."""
        changed = sorted(changes.model_fields_set)
        if not changed:
            return await self._on_primary().get(project_id, id)
        row = await self._fetch_one(
            "update",
            project_id=project_id,
            id=id,
            now=datetime.now(UTC),
            changed=changed,
            **changes.model_dump(),
        )
        self._announce(project_id, id, "changed")
        return Conversation.from_row(row)

    async def delete(self, project_id: ProjectId, id: UUID) -> None:
        """Delete a conversation and its messages."""
        await self._fetch_one("delete", project_id=project_id, id=id)
        self._announce(project_id, id, "deleted")

    async def messages(
        self, project_id: ProjectId, id: UUID, page: MessagePage | None = None
    ) -> list[Message]:
        """Return a page of messages in the page's order.

        It is shorter than its limit if the messages are large. `page.next` returns the cursor of
        the next page; only an empty page is the last one.
        """
        rows = await self._page_of_messages(project_id, id, page or MessagePage(), own_names=None)
        return [Message.from_row(row) for row in rows]

    async def message_responses(
        self, project_id: ProjectId, id: UUID, page: MessagePage | None = None
    ) -> list[MessageResponse]:
        """Return the same page as it is sent: with stored JSON as it is, which is not parsed."""
        own_names = [*OWN_NAMES]
        rows = await self._page_of_messages(project_id, id, page or MessagePage(), own_names)
        return [stored_message_response(row) for row in rows]

    async def _page_of_messages(
        self, project_id: ProjectId, id: UUID, page: MessagePage, own_names: list[str] | None
    ) -> list[asyncpg.Record]:
        rows = await self._fetch_all(
            "messages_asc" if page.order == "asc" else "messages_desc",
            project_id=project_id,
            id=id,
            last_id=page.after(project_id, id.bytes).last_id,
            limit=page.limit,
            offset=page.offset,
            max_bytes=MAX_PAGE_BYTES,
            own_names=own_names,
        )
        if not rows:
            # Raise NotFound unless the conversation exists.
            await self.get(project_id, id)
        return rows

    async def all_messages(self, project_id: ProjectId, id: UUID) -> AsyncIterator[Message]:
        """Yield every message of a conversation, oldest first."""
        page = MessagePage()
        while messages := await self.messages(project_id, id, page):
            for message in messages:
                yield message
            page = MessagePage(cursor=page.next(project_id, messages[-1]))

    async def append(
        self,
        project_id: ProjectId,
        id: UUID,
        messages: Sequence[NewMessage],
        level: ContentLevel = "full",
        key: str | None = None,
    ) -> AppendResult:
        """Add messages to a conversation in this order, all or none.

        `level` can lower the server's content level for these messages. A `key` that the project
        has used before returns the messages that were stored then.
        """
        level = min(level, self._level, key=CONTENT_LEVELS.index)
        new_first_id, now = new_id_and_time()
        are_large = _are_large(messages)
        idempotency_key = None
        if key:
            request = await worker.run(
                lambda: fingerprint("messages", id, *messages), is_large=are_large
            )
            idempotency_key = IdempotencyKey.of(key, request)

        async def attempt() -> AppendResult:
            async with self._transaction(project_id) as inside:
                first_id, timestamp, _ = await inside._idempotency_keys.get_or_insert(
                    project_id, idempotency_key, new_first_id, now, id
                )
                stored = await worker.run(
                    lambda: with_consecutive_ids(messages, first_id, timestamp, id, level),
                    is_large=are_large,
                )
                replayed = first_id != new_first_id
                if not replayed and (level == "none" or not messages):
                    # Raise NotFound unless the conversation exists.
                    await inside.get(project_id, id)
                elif not replayed:
                    await inside._append(project_id, id, stored, level, are_large=are_large)
                return AppendResult(id, stored, replayed)

        result = await self._retry(attempt)
        if messages and level != "none" and not result.replayed:
            self._announce(project_id, id, "messages", result.messages)
        return result

    async def log(
        self, project_id: ProjectId, exchange: Exchange, key: str | None = None
    ) -> AppendResult:
        """Store an exchange in a new conversation or an existing one, all of it or nothing.

        The reply is the last message of the result. If nothing else reports the call, it is logged
        under the reply's id, with a receipt if signing keys are configured. A `key` that the
        project has used before returns what was stored then. If the conversation does not exist,
        the exchange starts a new one, and the result has a warning.
        """
        requested_id = exchange.conversation_id
        try:
            result = await self._log(project_id, exchange, requested_id, key)
        except NotFound:
            if requested_id is None:
                raise
            result = await self._log(project_id, exchange, None, key)
        if requested_id in {None, result.conversation_id}:
            return result
        return result._replace(warnings=[NO_SUCH_CONVERSATION, *result.warnings])

    async def _log(
        self,
        project_id: ProjectId,
        exchange: Exchange,
        existing_id: UUID | None,
        key: str | None,
    ) -> AppendResult:
        new_conversation_id = existing_id or new_id()
        new_first_id, now = new_id_and_time()
        reply_id = UUID(int=new_first_id.int + exchange.reply_index)
        *calls, without_usage = exchange.new_calls(new_conversation_id)
        for reported in calls:
            with suppress(InvalidRequest):
                call = await self._usage.price_call(project_id, reported.call, reply_id, now)
                break
        else:
            reported = without_usage
            call = await self._usage.price_call(project_id, reported.call, reply_id, now)
        messages = exchange.new_messages(reported.call, call.quote.cost)
        are_large = _are_large(messages)
        idempotency_key = None
        if key:
            request = await worker.run(
                lambda: fingerprint("exchange", exchange), is_large=are_large
            )
            idempotency_key = IdempotencyKey.of(key, request)

        async def attempt() -> AppendResult:
            async with self._transaction(project_id) as inside:
                first_id, timestamp, conversation_id = await inside._idempotency_keys.get_or_insert(
                    project_id, idempotency_key, new_first_id, now, new_conversation_id
                )
                stored = await worker.run(
                    lambda: with_consecutive_ids(
                        messages, first_id, timestamp, conversation_id, self._level
                    ),
                    is_large=are_large,
                )
                replayed = first_id != new_first_id
                if not replayed:
                    if self._level != "none":
                        if existing_id is None:
                            columns = exchange.new_conversation()
                            await inside._create(project_id, conversation_id, now, columns)
                        await inside._append(
                            project_id, conversation_id, stored, self._level, are_large=are_large
                        )
                    if exchange.logs_call:
                        await inside._usage.insert(call)
                receipt = None
                if exchange.logs_call:
                    receipt = await inside._receipts.receipt_for_call(project_id, stored[-1].id)
                if receipt:
                    stored[-1].receipt_id = receipt["receipt_id"]
                return AppendResult(conversation_id, stored, replayed, receipt, reported.warnings)

        result = await self._retry(attempt)
        self._announce_exchange(project_id, exchange, call, result, is_new=existing_id is None)
        return result

    async def delete_old_messages(self, project_id: ProjectId, days: int, *, actor: Actor) -> int:
        """Delete messages older than `days` and return their number.

        Each batch is committed by itself, the first together with the audit event.
        """
        before = datetime.now(UTC) - timedelta(days=days)
        async with self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._audit.record(actor, "messages.delete", str(project_id), project_id)
            deleted = await inside._delete_old_batch(project_id, before)
        total = deleted
        while deleted:
            deleted = await self._delete_old_batch(project_id, before)
            total += deleted
        return total

    async def list(
        self, project_id: ProjectId, page: ConversationPage | None = None
    ) -> list[Conversation]:
        """Return a page of conversations, most recently updated first.

        It is shorter than its limit if the conversations are large. `page.next` returns the cursor
        of the next page; only an empty page is the last one.
        """
        page = page or ConversationPage()
        bounds = {
            **page.after(project_id)._asdict(),
            "limit": page.limit,
            "offset": page.offset,
            "max_bytes": MAX_PAGE_BYTES,
        }
        # To measure hundreds of large prompts, or to search, may take seconds.
        async with self._database.long_statement(project_id):
            if page.q is None:
                rows = await self._fetch_all("list", project_id=project_id, **bounds)
            else:
                rows = await self._fetch_all(
                    "search",
                    project_id=project_id,
                    query=page.q,
                    match_limit=SEARCH_MATCH_LIMIT,
                    **bounds,
                )
        return [Conversation.from_row(row) for row in rows]

    def _announce(
        self,
        project_id: ProjectId,
        id: UUID,
        change: Change,
        messages: Sequence[Message] = (),
    ) -> None:
        if self._database.announces:
            self._database.events.announce([_updated(project_id, id, change, messages)])

    def _announce_exchange(
        self,
        project_id: ProjectId,
        exchange: Exchange,
        call: CallRecord,
        result: AppendResult,
        *,
        is_new: bool,
    ) -> None:
        """Announce the parts of an exchange; `is_new` if its conversation is."""
        if result.replayed or not self._database.announces:
            return
        events: list[AnnouncedEvent] = []
        if self._level != "none":
            if is_new:
                events.append(_updated(project_id, result.conversation_id, "created"))
            events.append(_updated(project_id, result.conversation_id, "messages", result.messages))
        if exchange.logs_call:
            events.append(call_logged(call))
        if result.receipt:
            events.append(receipt_issued(project_id, result.receipt, 1))
        self._database.events.announce(events)

    @asynccontextmanager
    async def _transaction(self, project_id: ProjectId) -> AsyncIterator[Self]:
        """Yield this service in a transaction, when it is the project's turn."""
        slot = self._database.slot(self._transaction_slots, project_id)
        async with slot, self._database.transaction() as transaction:
            yield self.with_database(transaction)

    def _slot_limits(self) -> SlotLimits:
        """Return how many transactions may run at once.

        Long reads may hold half of the connections. Beside all of these, some are left for calls.
        """
        slots = self._database.connections_for(0.2)
        return SlotLimits(slots, max(1, slots // 2))

    async def _create(
        self, project_id: ProjectId, id: UUID, now: datetime, columns: dict[str, Any]
    ) -> Conversation:
        row = await self._fetch_one("create", project_id=project_id, id=id, now=now, **columns)
        return Conversation.from_row(row)

    async def _append(
        self,
        project_id: ProjectId,
        id: UUID,
        messages: Sequence[Message],
        level: ContentLevel,
        *,
        are_large: bool,
    ) -> None:
        """Insert messages; raise NotFound if the conversation does not exist."""
        arrays = message_arrays(messages, level)
        while array := await worker.run(lambda: next(arrays, None), is_large=are_large):
            await self._fetch_all("append", project_id=project_id, id=id, messages=array)

    async def _delete_old_batch(self, project_id: ProjectId, before: datetime) -> int:
        return await self.delete_batch(
            "delete_old_messages", project_id=project_id, before=before, limit=DELETE_BATCH_SIZE
        )


def _updated(
    project_id: ProjectId, id: UUID, change: Change, messages: Sequence[Message] = ()
) -> ConversationUpdated:
    return ConversationUpdated(
        project_id=project_id,
        conversation_id=id,
        change=change,
        message_ids=tuple([message.id for message in messages]),
    )


def _are_large(messages: Sequence[NewMessage]) -> bool:
    """Tell whether the worker should do the work on these messages."""
    return worker.are_large(
        [
            [each.content, each.tool_calls, each.tool_results, each.metadata, each.members]
            for each in messages
        ]
    )
