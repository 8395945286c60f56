"""What was said, over HTTP."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.conversations.exchange import Exchange
from llmring_server.conversations.models import (
    AppendResult,
    ConversationPage,
    ConversationSummary,
    ConversationWithMessages,
    Message,
    MessageBatch,
    MessagePage,
    MessageWindow,
    NewConversation,
    NewMessage,
)
from llmring_server.errors import NotFound
from llmring_server.receipts.models import Receipt
from llmring_server.usage.api import REPLAYED
from llmring_server.web.request import IdempotencyKeyHeader, Request, link


class RetentionQuery(BaseModel):
    """Messages that are older than so many days."""

    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 30


class DeletedConversation(TypedDict):
    """Which conversation is gone."""

    id: UUID
    deleted: Literal[True]


class LoggedExchange(TypedDict):
    """Where an exchange is: `message_id` is the reply's, the rest the call's if it was logged."""

    conversation_id: UUID
    message_id: UUID
    log_id: UUID | None
    receipt: Receipt | None


class DeletedMessages(TypedDict):
    """How many messages are gone."""

    deleted_count: int
    retention_days: int


def _added(request: Request, added: AppendResult) -> list[Message]:
    if added.replayed:
        request.response_headers = REPLAYED
    return added.messages


async def create_conversation(request: Request, body: NewConversation) -> ConversationSummary:
    """Begin a conversation."""
    return ConversationSummary.to(
        request.project_id, await request.ring.conversations.create(request.project_id, body)
    )


async def list_conversations(
    request: Request, query: ConversationPage
) -> Annotated[list[ConversationSummary], "Link"]:
    """List conversations, the last to change first, a page at a time; fewer where large."""
    found = await request.ring.conversations.list(request.project_id, query)
    if found:
        request.response_headers = link(query, query.next(request.project_id, found[-1]))
    return [ConversationSummary.to(request.project_id, each) for each in found]


async def get_conversation(
    request: Request, id: UUID, query: MessageWindow
) -> ConversationWithMessages:
    """Show a conversation, with its last messages."""
    whole = ConversationWithMessages.to(
        request.project_id, await request.ring.conversations.get(request.project_id, id)
    )
    if query.include_messages:
        last = MessagePage(limit=query.message_limit, order="desc")
        whole.messages = (await request.ring.conversations.messages(request.project_id, id, last))[
            ::-1
        ]
    return whole


async def update_conversation(
    request: Request, id: UUID, body: NewConversation
) -> ConversationSummary:
    """Change what is named in the body, also to nothing."""
    return ConversationSummary.to(
        request.project_id, await request.ring.conversations.update(request.project_id, id, body)
    )


async def delete_conversation(request: Request, id: UUID) -> DeletedConversation:
    """Delete a conversation, and all that was said in it."""
    await request.ring.conversations.delete(request.project_id, id)
    return {"id": id, "deleted": True}


async def list_messages(
    request: Request, id: UUID, query: MessagePage
) -> Annotated[list[Message], "Link"]:
    """List messages, a page at a time; fewer than its limit where they are large."""
    found = await request.ring.conversations.messages(request.project_id, id, query)
    if found:
        request.response_headers = link(query, query.next(request.project_id, found[-1]))
    return found


async def add_message(
    request: Request, id: UUID, body: NewMessage, key: IdempotencyKeyHeader
) -> Message:
    """Add a message, exactly once if it brings an Idempotency-Key."""
    added = await request.ring.conversations.append(request.project_id, id, [body], key=key)
    return _added(request, added)[0]


async def add_messages(
    request: Request, id: UUID, body: MessageBatch, key: IdempotencyKeyHeader
) -> list[Message]:
    """Add up to 500 messages in this order, all or none."""
    added = await request.ring.conversations.append(
        request.project_id, id, body.messages, body.logging_level, key
    )
    return _added(request, added)


async def log_exchange(
    request: Request, body: Exchange, key: IdempotencyKeyHeader
) -> Annotated[LoggedExchange, NotFound]:
    """Store an exchange, in a new conversation or one that is there, all of it or nothing."""
    added = await request.ring.conversations.log(request.project_id, body, key)
    reply = _added(request, added)[-1].id
    return {
        "conversation_id": added.conversation_id,
        "message_id": reply,
        "log_id": reply if body.is_sole_report else None,
        "receipt": added.receipt,
    }


async def delete_old_messages(request: Request, query: RetentionQuery) -> DeletedMessages:
    """Delete old messages of your project."""
    days = query.retention_days
    gone = await request.ring.conversations.forget(request.project_id, days, actor=request.actor)
    return {"deleted_count": gone, "retention_days": days}
