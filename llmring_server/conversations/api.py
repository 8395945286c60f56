"""Conversations API: handlers of `/api/v1/conversations`."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.conversations.exchange import Exchange
from llmring_server.conversations.models import (
    AddedMessage,
    AppendResult,
    Conversation,
    ConversationPage,
    ConversationWithMessages,
    Message,
    MessageBatch,
    MessagePage,
    MessageResponse,
    MessageWindow,
    NewConversation,
    NewMessage,
)
from llmring_server.core.warnings import RequestWarning
from llmring_server.receipts.models import Receipt
from llmring_server.usage.api import REPLAYED
from llmring_server.web.request import IdempotencyKeyHeader, IdOf, Request, link

ConversationId = Annotated[UUID, IdOf("Conversation")]


class RetentionQuery(BaseModel):
    """Messages of the last `retention_days` days are kept."""

    retention_days: int = Field(
        30, ge=1, le=36_500, description="Messages that are older than this many days are deleted."
    )


class DeletedConversation(TypedDict):
    """The conversation that was deleted."""

    id: UUID
    deleted: Literal[True]


class LoggedExchange(TypedDict):
    """A stored exchange. `message_id` is the reply's; `log_id` is set if the call was logged.

    `content_kept` is false if the server stores less of the messages than was sent. `warnings` says
    what else was not stored.
    """

    conversation_id: UUID
    message_id: UUID
    log_id: UUID | None
    receipt: Receipt | None
    content_kept: bool
    warnings: list[RequestWarning]


class DeletedMessages(TypedDict):
    """The number of messages that were deleted."""

    deleted_count: int
    retention_days: int


def _added(message: Message, warnings: Iterable[RequestWarning]) -> AddedMessage:
    return {**message.response(), "warnings": [*warnings]}


def _mark_replay(request: Request, result: AppendResult) -> None:
    if result.replayed:
        request.response_headers = REPLAYED


async def create_conversation(request: Request, body: NewConversation) -> Conversation:
    """Create a conversation."""
    return await request.ring.conversations.create(request.project_id, body)


async def list_conversations(
    request: Request, query: ConversationPage
) -> Annotated[list[Conversation], "Link"]:
    """List conversations, most recently updated first. A page has at most about 8 MiB."""
    conversations = await request.ring.conversations.list(request.project_id, query)
    if conversations:
        request.response_headers = link(query, query.next(request.project_id, conversations[-1]))
    return conversations


async def get_conversation(
    request: Request, id: ConversationId, query: MessageWindow
) -> ConversationWithMessages:
    """Get a conversation with its newest messages."""
    conversation = await request.ring.conversations.get(request.project_id, id)
    messages: list[MessageResponse] = []
    if query.include_messages:
        page = MessagePage(limit=query.message_limit, order="desc")
        messages = await request.ring.conversations.message_responses(request.project_id, id, page)
        messages.reverse()
    return ConversationWithMessages.of(conversation, messages)


async def update_conversation(
    request: Request, id: ConversationId, body: NewConversation
) -> Conversation:
    """Update the fields that the body contains; null clears a field."""
    return await request.ring.conversations.update(request.project_id, id, body)


async def delete_conversation(request: Request, id: ConversationId) -> DeletedConversation:
    """Delete a conversation and its messages."""
    await request.ring.conversations.delete(request.project_id, id)
    return {"id": id, "deleted": True}


async def list_messages(
    request: Request, id: ConversationId, query: MessagePage
) -> Annotated[list[MessageResponse], "Link"]:
    """List the messages of a conversation. A page has at most about 8 MiB."""
    messages = await request.ring.conversations.message_responses(request.project_id, id, query)
    if messages:
        last = messages[-1]
        cursor = query.next_after(request.project_id, id, last["timestamp"], last["id"])
        request.response_headers = link(query, cursor)
    return messages


async def add_message(
    request: Request, id: ConversationId, body: NewMessage, key: IdempotencyKeyHeader
) -> AddedMessage:
    """Add a message; with an Idempotency-Key, exactly once."""
    result = await request.ring.conversations.append(request.project_id, id, [body], key=key)
    _mark_replay(request, result)
    return _added(result.messages[0], request.warnings)


async def add_messages(
    request: Request, id: ConversationId, body: MessageBatch, key: IdempotencyKeyHeader
) -> list[AddedMessage]:
    """Add up to 1,000 messages in order, all or none."""
    result = await request.ring.conversations.append(
        request.project_id, id, body.messages, body.logging_level, key
    )
    _mark_replay(request, result)
    return [
        _added(message, _warnings_of_message(index, request.warnings))
        for index, message in enumerate(result.messages)
    ]


def _warnings_of_message(
    index: int, warnings: Iterable[RequestWarning]
) -> Iterator[RequestWarning]:
    """Yield the warnings about one message of a batch; with the first, those about the batch."""
    prefix = f"messages.{index}."
    for warning in warnings:
        field = warning["field"]
        if field.startswith(prefix):
            yield {**warning, "field": field.removeprefix(prefix)}
        elif index == 0 and not field.startswith("messages."):
            yield warning


async def log_exchange(
    request: Request, body: Exchange, key: IdempotencyKeyHeader
) -> LoggedExchange:
    """Log an exchange in a new conversation or an existing one."""
    result = await request.ring.conversations.log(request.project_id, body, key)
    _mark_replay(request, result)
    reply_id = result.messages[-1].id
    return {
        "conversation_id": result.conversation_id,
        "message_id": reply_id,
        "log_id": reply_id if body.logs_call else None,
        "receipt": result.receipt,
        "content_kept": all(message.content_kept for message in result.messages),
        "warnings": [*request.warnings, *result.warnings],
    }


async def delete_old_messages(request: Request, query: RetentionQuery) -> DeletedMessages:
    """Delete the project's messages that are older than `retention_days`."""
    days = query.retention_days
    deleted = await request.ring.conversations.delete_old_messages(
        request.project_id, days, actor=request.actor
    )
    return {"deleted_count": deleted, "retention_days": days}
