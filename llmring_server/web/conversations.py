"""What was said, over HTTP."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field
from starlette.responses import Response

from llmring_server.exchange import Exchange
from llmring_server.messages import Message, Said
from llmring_server.threads import (
    Added,
    Batch,
    Conversation,
    Heading,
    Recent,
    Stretch,
    Window,
    spelled,
)
from llmring_server.web.call import Call, blaming_the_client, render
from llmring_server.web.paging import paged
from llmring_server.web.usage import replay


class Place(BaseModel):
    """What a path names."""

    id: UUID


class Age(BaseModel):
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 30


def _id(call: Call) -> UUID:
    with blaming_the_client():
        return Place(id=call.path("id")).id


def _answer(added: Added, result: Any) -> Any:
    return replay(render(result)) if added.replayed else result


def _shown(call: Call, conversation: Conversation) -> dict[str, Any]:
    return spelled(call.tenant, conversation)


async def create(call: Call) -> dict[str, Any]:
    heading = await call.read(Heading)
    return _shown(call, await call.ring.conversations.create(call.tenant, heading))


async def list_conversations(call: Call) -> Response:
    page = call.query(Recent)
    found = await call.ring.conversations.list(call.tenant, page)
    cursor = page.next(call.tenant, found[-1]) if len(found) == page.limit else None
    return paged(page, [_shown(call, each) for each in found], cursor)


async def get(call: Call) -> dict[str, Any]:
    id, window = _id(call), call.query(Window)
    shown = _shown(call, await call.ring.conversations.get(call.tenant, id))
    if not window.include_messages:
        return shown | {"messages": []}
    last = Stretch(limit=window.message_limit, order="desc")
    messages = await call.ring.conversations.messages(call.tenant, id, last)
    return shown | {"messages": messages[::-1]}


async def update(call: Call) -> dict[str, Any]:
    id, heading = _id(call), await call.read(Heading)
    return _shown(call, await call.ring.conversations.update(call.tenant, id, heading))


async def delete(call: Call) -> dict[str, Any]:
    id = _id(call)
    await call.ring.conversations.delete(call.tenant, id)
    return {"id": id, "deleted": True}


async def messages(call: Call) -> Response:
    id, page = _id(call), call.query(Stretch)
    found = await call.ring.conversations.messages(call.tenant, id, page)
    cursor = page.next(call.tenant, found[-1]) if found else None
    return paged(page, found, cursor)


async def add(call: Call) -> Message | Response:
    id, said = _id(call), await call.read(Said)
    added = await call.ring.conversations.append(call.tenant, id, [said], key=call.idempotency_key)
    answer: Message | Response = _answer(added, added.messages[0])
    return answer


async def add_batch(call: Call) -> list[Message] | Response:
    id, batch = _id(call), await call.read(Batch)
    added = await call.ring.conversations.append(
        call.tenant, id, batch.messages, batch.logging_level, call.idempotency_key
    )
    answer: list[Message] | Response = _answer(added, added.messages)
    return answer


async def log(call: Call) -> dict[str, Any] | Response:
    exchange = await call.read(Exchange)
    added = await call.ring.conversations.log(call.tenant, exchange, call.idempotency_key)
    reply = added.messages[-1].id
    told = {"conversation_id": added.conversation_id, "message_id": reply, "receipt": None}
    told |= {"log_id": reply if exchange.is_sole_report else None}
    answer: dict[str, Any] | Response = _answer(added, told)
    return answer


async def forget(call: Call) -> dict[str, int]:
    days = call.query(Age).retention_days
    gone = await call.ring.conversations.forget(call.tenant, days)
    return {"deleted_count": gone, "retention_days": days}
