"""Receipts of what this server stored: kept as they were signed, shown, proved, verified."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import moment_of, new_id
from llmring_server.core.strict_json import json_default
from llmring_server.db.database import Database
from llmring_server.db.tables import Table
from llmring_server.errors import (
    BadRequest,
    Conflict,
    InvalidRequest,
    NotFound,
    ReceiptsNotConfigured,
)
from llmring_server.receipts.document import ReceiptDraft, log_commitment, sign_draft
from llmring_server.receipts.models import (
    NOTHING,
    GenerateResult,
    InclusionProof,
    OffsetPage,
    Receipt,
    ReceiptCallPage,
    ReceiptCalls,
    ReceiptList,
    ReceiptPage,
    ReceiptPreview,
    ReceiptRequest,
    StoredReceipt,
    receipt_call,
    receipt_preview,
)
from llmring_server.receipts.selection import CallSelection, Rows
from llmring_server.receipts.signing_keys import Keyring, KeyringSource, SigningKeyError
from llmring_server.receipts.totals import ReceiptTotals, call_of
from llmring_server.receipts.verification import VerificationResult, verify_document, verify_fields
from llmring_server.usage.models import Call
from llmring_verify import merkle
from llmring_verify.canonical_json import CannotVerify, NotVerified
from llmring_verify.receipt import leaf_entry
from llmring_verify.schema import is_uuid
from llmring_verify.verify import TrustedKeys


class Issuing(CallSelection):
    """Signs what is stored, if there are keys to sign with."""

    sql = "receipts/receipts"

    def __init__(self, database: Database, keys: KeyringSource, issuer: str) -> None:
        super().__init__(database)
        self.keys, self._issuer = keys, issuer

    @property
    def keyring(self) -> Keyring:
        """Return the keys that sign; NotConfigured if there are none."""
        keys = self.keys()
        if keys is None:
            raise ReceiptsNotConfigured
        return keys

    async def generate(self, project_id: ProjectId, wanted: ReceiptRequest) -> GenerateResult:
        """Certify the calls that are wanted, all of them or none; BadRequest if there are none."""
        keys = self.keyring
        async with self._database.transaction() as inside:
            await self.with_database(inside)._alone(project_id)
            made = await self.with_database(inside)._generate(keys, project_id, wanted)
        if made is None:
            raise BadRequest(NOTHING)
        return made

    async def preview(self, project_id: ProjectId, wanted: ReceiptRequest) -> ReceiptPreview:
        """Tell what a receipt of these calls would say."""
        tally = ReceiptTotals()

        async def add(rows: Rows) -> None:
            tally.add(rows)

        await self._read(project_id, wanted, add)
        return receipt_preview(tally)

    async def issue(self, project_id: ProjectId, log_id: UUID) -> Receipt:
        """Return the receipt of one stored call: the one that there is, or else a new one."""
        keys = self.keyring
        async with self._database.transaction() as inside:
            await self.with_database(inside)._alone(project_id)
            if found := await self.with_database(inside)._of_call(keys, project_id, log_id):
                return found
        raise NotFound

    async def certify(self, project_id: ProjectId, log_id: UUID) -> Receipt | None:
        """Do the same, on the transaction that stores the call; None if nothing can be signed.

        The keys cannot be used, or the call has more tokens than JSON can count: it is stored.
        """
        try:
            if (keys := self.keys()) is None:
                return None
            async with self._database.transaction() as inside:
                return await self.with_database(inside)._of_call(keys, project_id, log_id)
        except (InvalidRequest, SigningKeyError):
            return None

    async def _alone(self, project_id: ProjectId) -> None:
        if (await self._fetch_one("one_at_a_time", project_id=project_id))[
            "isolation"
        ] != "read committed":
            raise InvalidRequest("Receipts are made in transactions of READ COMMITTED alone.")

    async def _of_call(self, keys: Keyring, project_id: ProjectId, log_id: UUID) -> Receipt | None:
        kids = list(keys.trusted)
        if found := await self._fetch_all(
            "of_call", project_id=project_id, log_id=log_id, kids=kids
        ):
            return StoredReceipt.of(found[0]).told()
        made = await self._generate(keys, project_id, ReceiptRequest(log_ids=[log_id]))
        return made and made["receipt"]

    async def _generate(
        self, keys: Keyring, project_id: ProjectId, wanted: ReceiptRequest
    ) -> GenerateResult | None:
        id, tally, tree, last = new_id(), ReceiptTotals(), merkle.MerkleRoot(), None

        async def take(rows: Rows) -> None:
            nonlocal last
            calls = [call_of(row) for row in rows]
            leaves = [merkle.leaf_hash(leaf_entry(each)) for each in calls]
            for each in leaves:
                tree.add(each)
            tally.add(rows)
            last = calls[-1]
            await self._certify(project_id, id, rows, leaves)

        rest = await self._read(project_id, wanted, take)
        await self._close(project_id, rest)
        if last is None:
            return None
        draft = ReceiptDraft(id, project_id, self._issuer, datetime.now(UTC), wanted, tally)
        stored = await sign_draft(keys, draft, tree.value(), last)
        await self.keep(project_id, stored)
        return {
            "receipt": stored.told(),
            "certified_count": tally.count,
            "more": rest.more,
            "uncountable": rest.uncountable,
        }

    async def _certify(
        self, project_id: ProjectId, id: UUID, rows: Rows, leaves: Sequence[bytes]
    ) -> None:
        await self._fetch_all(
            "certify",
            project_id=project_id,
            id=str(id),
            log_ids=[row["id"] for row in rows],
            times=[row["logged_at"] for row in rows],
            leaves=leaves,
        )

    async def keep(self, project_id: ProjectId, stored: StoredReceipt) -> bool:
        """Store a receipt as it was signed; False if there is one of that id."""
        row = {**stored._asdict(), **log_commitment(stored)}
        return bool(await self._fetch_all("keep", project_id=project_id, place=new_id(), **row))


# No page is larger, and no list counts further.
MAX_PAGE_BYTES, MAX_COUNTED = 8 * 1024 * 1024, 100_000


_FIRST, _ALL = ReceiptPage(), OffsetPage()


class Receipts(Issuing):
    """The receipts of every project, those that were signed elsewhere included."""

    sql = "receipts/receipts"
    tables = (
        Table("receipt_calls", "receipt calls", "erase_receipt_calls"),
        Table("receipt_days", "receipt days", "erase_receipt_days", ("UPDATE",)),
        Table("receipts", "receipts", "erase_receipts"),
    )

    async def get(self, project_id: ProjectId, id: str) -> Receipt:
        return (await self._get(project_id, id)).told()

    async def list(self, project_id: ProjectId, page: ReceiptPage = _FIRST) -> ReceiptList:
        """Return a page of receipts, the newest first; fewer than its limit where they are large.

        `next` makes the cursor of the page after it.
        """
        rows = await self._fetch_all(
            "list",
            project_id=project_id,
            last_id=page.after(project_id).last_id,
            limit=page.limit,
            offset=page.offset,
            most=MAX_PAGE_BYTES,
        )
        total = (await self._fetch_one("count", project_id=project_id, most=MAX_COUNTED))["total"]
        next = page.next(project_id, rows[-1]["place"]) if rows else None
        found = [StoredReceipt.of(row).told() for row in rows]
        return {
            "receipts": found,
            "total": total,
            "limit": page.limit,
            "offset": page.offset,
            "next": next,
        }

    async def uncertified(self, project_id: ProjectId, page: OffsetPage = _ALL) -> ReceiptCallPage:
        """Return calls that no receipt certifies, newest first."""
        rows = await self._fetch_all("uncertified", project_id=project_id, **page.model_dump())
        counted = await self._fetch_one(
            "count_uncertified", project_id=project_id, most=MAX_COUNTED
        )
        return _stretch(rows, counted["total"], page)

    async def logs(self, project_id: ProjectId, id: str, page: OffsetPage = _ALL) -> ReceiptCalls:
        """Return the calls of a receipt that are still kept, newest first."""
        await self._get(project_id, id)
        rows = await self._fetch_all("logs", project_id=project_id, id=id, **page.model_dump())
        total = (await self._fetch_one("count_logs", project_id=project_id, id=id))["total"]
        return {"receipt_id": id, **_stretch(rows, total, page)}

    async def export(self, project_id: ProjectId, id: str) -> AsyncGenerator[Call]:
        """Yield the calls of a receipt that are still kept, newest first, from one snapshot.

        It holds a transaction: whoever may leave before the end uses `contextlib.aclosing`.
        """
        await self._get(project_id, id)
        rows = self._stream("export", project_id=project_id, id=id)
        async with aclosing(Call.from_stream(rows)) as calls:
            async for call in calls:
                yield call

    async def proof(self, project_id: ProjectId, id: str, log_id: UUID) -> InclusionProof:
        """Return what proves that a call is in a batch; NotFound if it is not, or no longer kept.

        A receipt of one call holds it, and needs none: Invalid.
        """
        envelope = (await self._get(project_id, id)).envelope()
        place = await self._fetch_one("place", project_id=project_id, id=id, log_id=log_id)
        if envelope is None:
            raise NotFound
        if envelope["receipt"]["kind"] != "batch":
            raise InvalidRequest(
                "This receipt is of one call, and holds it: it needs no other proof."
            )
        named = {"ids": [log_id], "times": [moment_of(log_id)]}
        told = call_of(await self._fetch_one("named", project_id=project_id, **named))
        path = merkle.InclusionPath(place["index"])
        async with aclosing(self._stream("leaves", project_id=project_id, id=id)) as rows:
            async for row in rows:
                path.add(row["leaf"])
        return {
            "envelope": envelope,
            "call": told,
            "leaf_index": place["index"],
            "tree_size": path.size,
            "path": [each.hex() for each in path.value()],
        }

    def verify(self, document: Any) -> VerificationResult:
        """Say whether a receipt, or its envelope alone, is genuine; Invalid if it is neither."""
        return verify_document(self._trusted(), document)

    async def store(self, project_id: ProjectId, told: Mapping[str, Any]) -> str:
        """Keep a receipt that one of our keys has signed, here or elsewhere; return its id.

        BadRequest if it is not genuine, or has lost its envelope; Conflict if another is kept
        under its id.
        """
        try:
            stored = verify_fields(self._trusted(), orjson.loads(orjson.dumps(told, json_default)))
        except (NotVerified, CannotVerify) as exc:
            raise BadRequest(f"Invalid receipt signature: {exc}") from None
        if stored.signed is None and is_uuid(stored.id):
            raise BadRequest("Only old receipts have no envelope: send this one with its own.")
        if not await self.keep(project_id, stored):
            kept = await self._get(project_id, stored.id)
            if (kept.flat, kept.flat_sig) != (stored.flat, stored.flat_sig):
                raise Conflict("Another receipt is kept under this id.")
        return stored.id

    def _trusted(self) -> TrustedKeys:
        keys = self.keys()
        return keys.trusted if keys else {}

    async def _get(self, project_id: ProjectId, id: str) -> StoredReceipt:
        return StoredReceipt.of(await self._fetch_one("get", project_id=project_id, id=id))


def _stretch(rows: Sequence[asyncpg.Record], total: int, page: OffsetPage) -> ReceiptCallPage:
    found = [receipt_call(row) for row in rows]
    return {"logs": found, "total": total, "limit": page.limit, "offset": page.offset}
