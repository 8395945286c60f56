"""What was said: conversations and their messages, added up exactly."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from llmring_server.caller import Actor, Auditing
from llmring_server.claims import Claim, Claims, fingerprint
from llmring_server.database import Database
from llmring_server.exchange import Exchange, Recording
from llmring_server.ids import new_id
from llmring_server.messages import LEVELS, Level, Message, Said, numbered, rows
from llmring_server.pages import PAGE_BYTES
from llmring_server.receipt import Certifying
from llmring_server.repository import Repository
from llmring_server.tenant import Tenant
from llmring_server.threads import Added, Conversation, Heading, Recent, Stretch

# Words that are in so many messages are looked for in another way.
MANY, AT_ONCE = 2000, 5000

_FIRST = Recent()


class Conversations(Repository):
    """The conversations of every tenant; of their content, as much as `level` lets through."""

    noun = "conversations"

    def __init__(  # noqa: PLR0913, PLR0917, they are all of it
        self,
        database: Database,
        usage: Recording,
        claims: Claims,
        audit: Auditing,
        receipts: Certifying,
        level: Level,
    ) -> None:
        super().__init__(database)
        self._usage, self._claims = usage, claims
        self._audit, self._receipts = audit, receipts
        self._level: Level = level

    async def create(self, tenant: Tenant, heading: Heading | None = None) -> Conversation:
        fields = (heading or Heading()).model_dump()
        return await self._create(tenant, new_id(), fields | {"origin": None})

    async def get(self, tenant: Tenant, id: UUID) -> Conversation:
        return Conversation.of(await self._one("get", tenant=tenant, id=id))

    async def update(self, tenant: Tenant, id: UUID, heading: Heading) -> Conversation:
        """Change what `heading` sets, also to nothing."""
        given = sorted(heading.model_fields_set)
        if not given:
            return await self.get(tenant, id)
        fields = heading.model_dump()
        changed = await self._one("update", tenant=tenant, id=id, given=given, **fields)
        return Conversation.of(changed)

    async def delete(self, tenant: Tenant, id: UUID) -> None:
        """Delete a conversation and all that was said in it."""
        await self._one("delete", tenant=tenant, id=id)

    async def messages(
        self, tenant: Tenant, id: UUID, page: Stretch | None = None
    ) -> list[Message]:
        """Return a page of messages in its order; fewer than its limit where they are large."""
        page = page or Stretch()
        found = await self._all(
            "oldest" if page.order == "asc" else "newest",
            tenant=tenant,
            id=id,
            last_id=page.after(tenant, id.bytes).last_id,
            limit=page.limit,
            offset=page.offset,
            most=PAGE_BYTES,
        )
        if not found:
            await self.get(tenant, id)
        return [Message.of(row, id) for row in found]

    async def read(self, tenant: Tenant, id: UUID) -> AsyncIterator[Message]:
        """Yield every message of a conversation, from its start on."""
        page = Stretch()
        while found := await self.messages(tenant, id, page):
            for each in found:
                yield each
            page = Stretch(cursor=page.next(tenant, found[-1]))

    async def append(
        self,
        tenant: Tenant,
        to: UUID,
        messages: Sequence[Said],
        level: Level = "full",
        key: str | None = None,
    ) -> Added:
        """Add messages, all or none, in this order; less of them is kept than the `level` may say.

        A `key` that the tenant used before gives the first answer again.
        """
        level, first = min(level, self._level, key=LEVELS.index), new_id()
        claim = Claim.of(key, fingerprint("messages", to, *messages))

        async def work(inside: Self) -> Added:
            start, _ = await inside._claims.first(tenant, claim, first, to)
            made = numbered(start, messages, to, level)
            if start == first:
                await inside._append(tenant, to, made, level)
            return Added(to, made, replayed=start != first)

        return await self._together(work)

    async def log(self, tenant: Tenant, exchange: Exchange, key: str | None = None) -> Added:
        """Store an exchange: in a new conversation or one that is there, all of it or nothing.

        The reply comes last. If this is the only report of the call, the log of calls has it, too,
        under the reply's id, with a receipt if there are keys. A `key` is as in `append`.
        """
        to, first = exchange.conversation_id or new_id(), new_id()
        reply = UUID(int=first.int + exchange.reply_at)
        call = await self._usage.rated(tenant, exchange.entry(to), reply)
        claim = Claim.of(key, fingerprint("exchange", exchange))
        said, sole = exchange.said(call.quote.cost), exchange.is_sole_report

        async def work(inside: Self) -> Added:
            start, at = await inside._claims.first(tenant, claim, first, to)
            made = numbered(start, said, at, self._level)
            if start == first:
                await inside._store(tenant, exchange, to, made)
                if sole:
                    await inside._usage.store(call)
            receipt = await inside._receipts.certify(tenant, made[-1].id) if sole else None
            return Added(at, made, start != first, receipt)

        return await self._together(work)

    async def forget(self, tenant: Tenant, days: int, *, actor: Actor) -> int:
        """Delete messages that are older than this number of days; return their number.

        They are deleted in batches, each committed by itself; the audit event with the first.
        """
        until = datetime.now(UTC) - timedelta(days=days)
        async with self._database.transaction() as inside:
            here = self.on(inside)
            await here._audit.record(actor, "messages.delete", str(tenant), tenant)
            total = gone = await here._forget(tenant, until)
        while gone:
            gone = await self._forget(tenant, until)
            total += gone
        return total

    async def _forget(self, tenant: Tenant, until: datetime) -> int:
        row = await self._one("forget", tenant=tenant, until=until, limit=AT_ONCE)
        gone: int = row["gone"]
        return gone

    async def list(self, tenant: Tenant, page: Recent = _FIRST) -> list[Conversation]:
        """Return a page of conversations; fewer than its limit where they are large.

        `page.next` makes the cursor of the next one.
        """
        bounds = {"limit": page.limit, "offset": page.offset, "most": PAGE_BYTES}
        bounds |= page.after(tenant)._asdict()
        if page.q is None:
            found = await self._all("list", tenant=tenant, **bounds)
        else:
            found = await self._all("search", tenant=tenant, words=page.q, many=MANY, **bounds)
        return [Conversation.of(row) for row in found]

    async def _create(self, tenant: Tenant, id: UUID, heading: dict[str, Any]) -> Conversation:
        return Conversation.of(await self._one("create", tenant=tenant, id=id, **heading))

    async def _store(
        self, tenant: Tenant, exchange: Exchange, to: UUID, messages: Sequence[Message]
    ) -> None:
        if exchange.conversation_id is None and self._level != "none":
            await self._create(tenant, to, Heading().model_dump() | exchange.heading())
        if exchange.conversation_id or self._level != "none":
            await self._append(tenant, to, messages, self._level)

    async def _append(
        self, tenant: Tenant, id: UUID, messages: Sequence[Message], level: Level
    ) -> None:
        if level != "none":
            await self._all("append", tenant=tenant, id=id, messages=rows(messages))
        else:
            await self.get(tenant, id)

    async def _together(self, work: Callable[[Self], Awaitable[Added]]) -> Added:
        async def once() -> Added:
            async with self._database.transaction() as inside:
                return await work(self.on(inside))

        return await self._persist(once)
