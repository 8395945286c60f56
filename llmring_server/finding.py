"""How the calls are read that a receipt is wanted of: in order, a page at a time, from a cursor."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing

import asyncpg

from llmring_server.errors import Invalid
from llmring_server.ids import moment_of
from llmring_server.repository import Repository
from llmring_server.rest import Day, Rest, parts
from llmring_server.tenant import Tenant
from llmring_server.wanted import Wanted

# A receipt is of no more calls than MOST, or of REST where one comes after another: that keeps
# the statement far from its limit of time. So many are read and written at once.
MOST, REST, AT_ONCE = 1_000_000, 250_000, 500
UNCOUNTABLE = "The calls that are left have 2^53 tokens or more each: they cannot be certified."

Rows = Sequence[asyncpg.Record]


class Finding(Repository):
    """Finds what is to be certified."""

    noun = "receipts"

    async def _read(
        self, tenant: Tenant, wanted: Wanted, take: Callable[[Rows], Awaitable[None]]
    ) -> Rest:
        """Pass the calls that are wanted on, a page at a time; Invalid if they are too many."""
        rest = Rest(REST)
        if wanted.rest:
            found = self._rest(tenant, rest)
        elif ids := wanted.named():
            found = self._stream("named", tenant=tenant, ids=ids, times=[*map(moment_of, ids)])
        else:
            found = _not_too_many(self._stream("calls", tenant=tenant, most=MOST, **wanted.where()))
        async with aclosing(found) as rows, aclosing(_paged(rows)) as pages:
            async for page in pages:
                await take(page)
        if rest.uncountable and not rest.taken:
            raise Invalid(UNCOUNTABLE)
        return rest

    async def _rest(self, tenant: Tenant, rest: Rest) -> AsyncGenerator[asyncpg.Record]:
        for part in parts(
            [Day(**row) for row in await self._all("open_days", tenant=tenant)], REST
        ):
            if rest.taken:
                rest.more = True
            if rest.more:
                return
            rest.days += part
            days = [each.day for each in part]
            async with aclosing(self._stream("rest", tenant=tenant, days=days, most=REST)) as rows:
                # To its end: a stream that is left takes back what was written meanwhile.
                async for row in rows:
                    if rest.takes(row):
                        yield row

    async def _close(self, tenant: Tenant, rest: Rest) -> None:
        if done := rest.done():
            days, requests = [each.day for each in done], [each.requests for each in done]
            await self._all("close_days", tenant=tenant, days=days, requests=requests)


async def _not_too_many(
    found: AsyncGenerator[asyncpg.Record],
) -> AsyncGenerator[asyncpg.Record]:
    async with aclosing(found) as rows:
        async for row in rows:
            if row["calls"] > MOST:
                raise Invalid(f"More than {MOST:,} calls: certify them in smaller parts.")
            yield row


async def _paged(rows: AsyncIterator[asyncpg.Record]) -> AsyncGenerator[Rows]:
    page = []
    async for row in rows:
        page.append(row)
        if len(page) == AT_ONCE:
            yield page
            page = []
    if page:
        yield page
