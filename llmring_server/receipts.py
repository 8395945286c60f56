"""Receipts of what this server stored: kept as they were signed, shown, proved, verified."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from llmring_server.bounded import plain
from llmring_server.errors import BadRequest, Conflict, Invalid, NotFound
from llmring_server.ids import moment_of
from llmring_server.issuing import Issuing
from llmring_server.items import Items, Logs, item
from llmring_server.pages import Log
from llmring_server.receipt import Proof, Receipt, ReceiptList, Stored
from llmring_server.tally import call_of
from llmring_server.tenant import Tenant
from llmring_server.verdict import Verdict, checked, judged
from llmring_server.wanted import Listing, Stretch
from llmring_verify import merkle
from llmring_verify.canonical_json import CannotVerify, NotVerified
from llmring_verify.schema import is_uuid
from llmring_verify.verify import TrustedKeys

# No page is larger, and no list counts further.
PAGE_BYTES, COUNTED = 8 * 1024 * 1024, 100_000

_FIRST, _ALL = Listing(), Stretch()


class Receipts(Issuing):
    """The receipts of every tenant, those that were signed elsewhere included."""

    noun = "receipts"

    async def get(self, tenant: Tenant, id: str) -> Receipt:
        return (await self._get(tenant, id)).told()

    async def list(self, tenant: Tenant, page: Listing = _FIRST) -> ReceiptList:
        """Return a page of receipts, the newest first; fewer than its limit where they are large.

        `next` makes the cursor of the page after it.
        """
        rows = await self._all(
            "list",
            tenant=tenant,
            last_id=page.after(tenant).last_id,
            limit=page.limit,
            offset=page.offset,
            most=PAGE_BYTES,
        )
        total = (await self._one("count", tenant=tenant, most=COUNTED))["total"]
        next = page.next(tenant, rows[-1]["place"]) if rows else None
        found = [Stored.of(row).told() for row in rows]
        return {
            "receipts": found,
            "total": total,
            "limit": page.limit,
            "offset": page.offset,
            "next": next,
        }

    async def uncertified(self, tenant: Tenant, page: Stretch = _ALL) -> Items:
        """Return calls that no receipt certifies, newest first."""
        rows = await self._all("uncertified", tenant=tenant, **page.model_dump())
        counted = await self._one("count_uncertified", tenant=tenant, most=COUNTED)
        return _stretch(rows, counted["total"], page)

    async def logs(self, tenant: Tenant, id: str, page: Stretch = _ALL) -> Logs:
        """Return the calls of a receipt that are still kept, newest first."""
        await self._get(tenant, id)
        rows = await self._all("logs", tenant=tenant, id=id, **page.model_dump())
        total = (await self._one("count_logs", tenant=tenant, id=id))["total"]
        return {"receipt_id": id, **_stretch(rows, total, page)}

    async def export(self, tenant: Tenant, id: str) -> AsyncGenerator[Log]:
        """Yield the calls of a receipt that are still kept, newest first, from one snapshot.

        It holds a transaction: whoever may leave before the end uses `contextlib.aclosing`.
        """
        await self._get(tenant, id)
        async with aclosing(self._stream("export", tenant=tenant, id=id)) as rows:
            async for row in rows:
                yield Log.of(row)

    async def proof(self, tenant: Tenant, id: str, log_id: UUID) -> Proof:
        """Return what proves that a call is in a batch; NotFound if it is not, or no longer kept.

        A receipt of one call holds it, and needs none: Invalid.
        """
        envelope = (await self._get(tenant, id)).envelope()
        place = await self._one("place", tenant=tenant, id=id, log_id=log_id)
        if envelope is None:
            raise NotFound
        if envelope["receipt"]["kind"] != "batch":
            raise Invalid("This receipt is of one call, and holds it: it needs no other proof.")
        named = {"ids": [log_id], "times": [moment_of(log_id)]}
        told = call_of(await self._one("named", tenant=tenant, **named))
        path = merkle.InclusionPath(place["index"])
        async with aclosing(self._stream("leaves", tenant=tenant, id=id)) as rows:
            async for row in rows:
                path.add(row["leaf"])
        return {
            "envelope": envelope,
            "call": told,
            "leaf_index": place["index"],
            "tree_size": path.size,
            "path": [each.hex() for each in path.value()],
        }

    def verify(self, document: Any) -> Verdict:
        """Say whether a receipt, or its envelope alone, is genuine; Invalid if it is neither."""
        return judged(self._trusted(), document)

    async def store(self, tenant: Tenant, told: Mapping[str, Any]) -> str:
        """Keep a receipt that one of our keys has signed, here or elsewhere; return its id.

        BadRequest if it is not genuine, or has lost its envelope; Conflict if another is kept
        under its id.
        """
        try:
            stored = checked(self._trusted(), orjson.loads(orjson.dumps(told, plain)))
        except (NotVerified, CannotVerify) as exc:
            raise BadRequest(f"Invalid receipt signature: {exc}") from None
        if stored.signed is None and is_uuid(stored.id):
            raise BadRequest("Only old receipts have no envelope: send this one with its own.")
        if not await self.keep(tenant, stored):
            kept = await self._get(tenant, stored.id)
            if (kept.flat, kept.flat_sig) != (stored.flat, stored.flat_sig):
                raise Conflict("Another receipt is kept under this id.")
        return stored.id

    def _trusted(self) -> TrustedKeys:
        keys = self.keys()
        return keys.trusted if keys else {}

    async def _get(self, tenant: Tenant, id: str) -> Stored:
        return Stored.of(await self._one("get", tenant=tenant, id=id))


def _stretch(rows: Sequence[asyncpg.Record], total: int, page: Stretch) -> Items:
    found = [item(row) for row in rows]
    return {"logs": found, "total": total, "limit": page.limit, "offset": page.offset}
