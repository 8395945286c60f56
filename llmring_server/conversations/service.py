"""What was said: conversations and their messages, added up exactly."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from llmring_server.conversations.exchange import Exchange, Recording
from llmring_server.conversations.models import (
    LEVELS,
    AppendResult,
    Conversation,
    ConversationPage,
    Level,
    Message,
    MessagePage,
    NewConversation,
    NewMessage,
    numbered,
    rows,
)
from llmring_server.core.identity import Actor, Auditing, ProjectId
from llmring_server.core.ids import new_id
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
from llmring_server.receipts import Receipts
from llmring_server.usage.idempotency import IdempotencyKey, IdempotencyKeys, fingerprint

# Words that are in so many messages are looked for in another way.
MANY, AT_ONCE = 2000, 5000

_FIRST = ConversationPage()


class Conversations(Repository):
    """The conversations of every project; of their content, as much as `level` lets through."""

    sql = "conversations/conversations"

    def __init__(  # noqa: PLR0913, PLR0917, they are all of it
        self,
        database: Database,
        usage: Recording,
        claims: IdempotencyKeys,
        audit: Auditing,
        receipts: Receipts,
        level: Level,
    ) -> None:
        super().__init__(database)
        self._usage, self._claims = usage, claims
        self._audit, self._receipts = audit, receipts
        self._level: Level = level

    async def create(
        self, project_id: ProjectId, heading: NewConversation | None = None
    ) -> Conversation:
        fields = (heading or NewConversation()).model_dump()
        return await self._create(project_id, new_id(), fields | {"origin": None})

    async def get(self, project_id: ProjectId, id: UUID) -> Conversation:
        return Conversation.of(await self._fetch_one("get", project_id=project_id, id=id))

    async def update(
        self, project_id: ProjectId, id: UUID, heading: NewConversation
    ) -> Conversation:
        """Change what `heading` sets, also to nothing."""
        given = sorted(heading.model_fields_set)
        if not given:
            return await self.get(project_id, id)
        fields = heading.model_dump()
        changed = await self._fetch_one(
            "update", project_id=project_id, id=id, given=given, **fields
        )
        return Conversation.of(changed)

    async def delete(self, project_id: ProjectId, id: UUID) -> None:
        """Delete a conversation and all that was said in it."""
        await self._fetch_one("delete", project_id=project_id, id=id)

    async def messages(
        self, project_id: ProjectId, id: UUID, page: MessagePage | None = None
    ) -> list[Message]:
        """Return a page of messages in its order; fewer than its limit where they are large."""
        page = page or MessagePage()
        found = await self._fetch_all(
            "oldest" if page.order == "asc" else "newest",
            project_id=project_id,
            id=id,
            last_id=page.after(project_id, id.bytes).last_id,
            limit=page.limit,
            offset=page.offset,
            most=MAX_PAGE_BYTES,
        )
        if not found:
            await self.get(project_id, id)
        return [Message.of(row, id) for row in found]

    async def read(self, project_id: ProjectId, id: UUID) -> AsyncIterator[Message]:
        """Yield every message of a conversation, from its start on."""
        page = MessagePage()
        while found := await self.messages(project_id, id, page):
            for each in found:
                yield each
            page = MessagePage(cursor=page.next(project_id, found[-1]))

    async def append(
        self,
        project_id: ProjectId,
        to: UUID,
        messages: Sequence[NewMessage],
        level: Level = "full",
        key: str | None = None,
    ) -> AppendResult:
        """Add messages, all or none, in this order; less of them is kept than the `level` may say.

        A `key` that the project used before gives the first answer again.
        """
        level, first = min(level, self._level, key=LEVELS.index), new_id()
        claim = IdempotencyKey.of(key, fingerprint("messages", to, *messages))

        async def work(inside: Self) -> AppendResult:
            start, _ = await inside._claims.first(project_id, claim, first, to)
            made = numbered(start, messages, to, level)
            if start == first:
                await inside._append(project_id, to, made, level)
            return AppendResult(to, made, replayed=start != first)

        return await self._together(work)

    async def log(
        self, project_id: ProjectId, exchange: Exchange, key: str | None = None
    ) -> AppendResult:
        """Store an exchange: in a new conversation or one that is there, all of it or nothing.

        The reply comes last. If this is the only report of the call, the log of calls has it, too,
        under the reply's id, with a receipt if there are keys. A `key` is as in `append`.
        """
        to, first = exchange.conversation_id or new_id(), new_id()
        reply = UUID(int=first.int + exchange.reply_at)
        call = await self._usage.rated(project_id, exchange.entry(to), reply)
        claim = IdempotencyKey.of(key, fingerprint("exchange", exchange))
        said, sole = exchange.said(call.quote.cost), exchange.is_sole_report

        async def work(inside: Self) -> AppendResult:
            start, at = await inside._claims.first(project_id, claim, first, to)
            made = numbered(start, said, at, self._level)
            if start == first:
                await inside._store(project_id, exchange, to, made)
                if sole:
                    await inside._usage.store(call)
            receipt = None
            if sole:
                receipt = await inside._receipts.receipt_for_call(project_id, made[-1].id)
            return AppendResult(at, made, start != first, receipt)

        return await self._together(work)

    async def forget(self, project_id: ProjectId, days: int, *, actor: Actor) -> int:
        """Delete messages that are older than this number of days; return their number.

        They are deleted in batches, each committed by itself; the audit event with the first.
        """
        until = datetime.now(UTC) - timedelta(days=days)
        async with self._database.transaction() as inside:
            here = self.with_database(inside)
            await here._audit.record(actor, "messages.delete", str(project_id), project_id)
            total = gone = await here._forget(project_id, until)
        while gone:
            gone = await self._forget(project_id, until)
            total += gone
        return total

    async def _forget(self, project_id: ProjectId, until: datetime) -> int:
        row = await self._fetch_one("forget", project_id=project_id, until=until, limit=AT_ONCE)
        gone: int = row["gone"]
        return gone

    async def list(
        self, project_id: ProjectId, page: ConversationPage = _FIRST
    ) -> list[Conversation]:
        """Return a page of conversations; fewer than its limit where they are large.

        `page.next` makes the cursor of the next one.
        """
        bounds = {"limit": page.limit, "offset": page.offset, "most": MAX_PAGE_BYTES}
        bounds |= page.after(project_id)._asdict()
        if page.q is None:
            found = await self._fetch_all("list", project_id=project_id, **bounds)
        else:
            found = await self._fetch_all(
                "search", project_id=project_id, words=page.q, many=MANY, **bounds
            )
        return [Conversation.of(row) for row in found]

    async def _create(
        self, project_id: ProjectId, id: UUID, heading: dict[str, Any]
    ) -> Conversation:
        return Conversation.of(
            await self._fetch_one("create", project_id=project_id, id=id, **heading)
        )

    async def _store(
        self, project_id: ProjectId, exchange: Exchange, to: UUID, messages: Sequence[Message]
    ) -> None:
        if exchange.conversation_id is None and self._level != "none":
            await self._create(project_id, to, NewConversation().model_dump() | exchange.heading())
        if exchange.conversation_id or self._level != "none":
            await self._append(project_id, to, messages, self._level)

    async def _append(
        self, project_id: ProjectId, id: UUID, messages: Sequence[Message], level: Level
    ) -> None:
        if level != "none":
            await self._fetch_all("append", project_id=project_id, id=id, messages=rows(messages))
        else:
            await self.get(project_id, id)

    async def _together(self, work: Callable[[Self], Awaitable[AppendResult]]) -> AppendResult:
        async def once() -> AppendResult:
            async with self._database.transaction() as inside:
                return await work(self.with_database(inside))

        return await self._retry(once)
