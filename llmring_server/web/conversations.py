"""What was said, over HTTP."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmring_server.errors import NotFound
from llmring_server.exchange import Exchange
from llmring_server.messages import Message, Said
from llmring_server.receipt import Receipt
from llmring_server.threads import Added, Batch, Heading, Recent, Shown, Stretch, Whole, Window
from llmring_server.web.call import Call, Key
from llmring_server.web.paging import link
from llmring_server.web.usage import REPLAYED


class Age(BaseModel):
    """Messages that are older than so many days."""

    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 30


class Deleted(TypedDict):
    """Which conversation is gone."""

    id: UUID
    deleted: Literal[True]


class Kept(TypedDict):
    """Where an exchange is: `message_id` is the reply's, the rest the call's if it was logged."""

    conversation_id: UUID
    message_id: UUID
    log_id: UUID | None
    receipt: Receipt | None


class Forgotten(TypedDict):
    """How many messages are gone."""

    deleted_count: int
    retention_days: int


def _added(call: Call, added: Added) -> list[Message]:
    if added.replayed:
        call.says = REPLAYED
    return added.messages


async def create(call: Call, body: Heading) -> Shown:
    """Begin a conversation."""
    return Shown.to(call.tenant, await call.ring.conversations.create(call.tenant, body))


async def list_conversations(call: Call, query: Recent) -> Annotated[list[Shown], "Link"]:
    """List conversations, the last to change first, a page at a time; fewer where large."""
    found = await call.ring.conversations.list(call.tenant, query)
    if found:
        call.says = link(query, query.next(call.tenant, found[-1]))
    return [Shown.to(call.tenant, each) for each in found]


async def get(call: Call, id: UUID, query: Window) -> Whole:
    """Show a conversation, with its last messages."""
    whole = Whole.to(call.tenant, await call.ring.conversations.get(call.tenant, id))
    if query.include_messages:
        last = Stretch(limit=query.message_limit, order="desc")
        whole.messages = (await call.ring.conversations.messages(call.tenant, id, last))[::-1]
    return whole


async def update(call: Call, id: UUID, body: Heading) -> Shown:
    """Change what is named in the body, also to nothing."""
    return Shown.to(call.tenant, await call.ring.conversations.update(call.tenant, id, body))


async def delete(call: Call, id: UUID) -> Deleted:
    """Delete a conversation, and all that was said in it."""
    await call.ring.conversations.delete(call.tenant, id)
    return {"id": id, "deleted": True}


async def messages(call: Call, id: UUID, query: Stretch) -> Annotated[list[Message], "Link"]:
    """List messages, a page at a time; fewer than its limit where they are large."""
    found = await call.ring.conversations.messages(call.tenant, id, query)
    if found:
        call.says = link(query, query.next(call.tenant, found[-1]))
    return found


async def add(call: Call, id: UUID, body: Said, key: Key) -> Message:
    """Add a message, exactly once if it brings an Idempotency-Key."""
    added = await call.ring.conversations.append(call.tenant, id, [body], key=key)
    return _added(call, added)[0]


async def add_batch(call: Call, id: UUID, body: Batch, key: Key) -> list[Message]:
    """Add up to 500 messages in this order, all or none."""
    added = await call.ring.conversations.append(
        call.tenant, id, body.messages, body.logging_level, key
    )
    return _added(call, added)


async def log(call: Call, body: Exchange, key: Key) -> Annotated[Kept, NotFound]:
    """Store an exchange, in a new conversation or one that is there, all of it or nothing."""
    added = await call.ring.conversations.log(call.tenant, body, key)
    reply = _added(call, added)[-1].id
    return {
        "conversation_id": added.conversation_id,
        "message_id": reply,
        "log_id": reply if body.is_sole_report else None,
        "receipt": added.receipt,
    }


async def forget(call: Call, query: Age) -> Forgotten:
    """Delete old messages of your project."""
    days = query.retention_days
    gone = await call.ring.conversations.forget(call.tenant, days, actor=call.actor)
    return {"deleted_count": gone, "retention_days": days}
