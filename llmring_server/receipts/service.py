"""Receipts: issued for stored calls, stored as they were signed, listed, proved and verified."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self
from uuid import UUID

import asyncpg
import orjson

from llmring_server.core import worker
from llmring_server.core.events import ReceiptIssued
from llmring_server.core.identity import ProjectId
from llmring_server.core.ids import new_id
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.strict_json import json_default
from llmring_server.core.time_slices import TimeSlices
from llmring_server.db.database import Database
from llmring_server.db.repository import Repository
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
    NO_CALLS,
    UNCERTIFIED,
    InclusionProof,
    IssuedBatchReceipt,
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
from llmring_server.receipts.selection import (
    MAX_UNCERTIFIED_CALLS,
    CallSelection,
    Rows,
    UncertifiedCalls,
)
from llmring_server.receipts.signing_keys import Keyring, KeyringSource, SigningKeyError
from llmring_server.receipts.totals import ReceiptTotals, call_from_row
from llmring_server.receipts.verification import VerificationResult, verify_document, verify_fields
from llmring_server.usage.models import ExportedCall
from llmring_verify import legacy
from llmring_verify.canonical_json import CannotVerify, NotVerified
from llmring_verify.merkle import InclusionPath, MerkleRoot, leaf_hash
from llmring_verify.receipt import leaf_entry
from llmring_verify.verify import TrustedKeys

# Totals of lists are counted up to this number.
MAX_TOTAL = 100_000

_FIRST_RECEIPTS = ReceiptPage()
_FIRST_CALLS = OffsetPage()


# To hash so many calls takes a few milliseconds; the worker hashes more.
MANY_CALLS = 50


class Receipts(Repository):
    """The receipts of all projects, including those that were signed elsewhere."""

    row_kind = "Receipt"
    sql = "receipts/receipts"
    replica_reads = frozenset(
        {
            "get",
            "list",
            "count",
            "list_calls",
            "count_calls",
            "list_uncertified",
            "count_uncertified",
            "export",
            "leaf_index",
            "leaves",
        }
    )
    tables = (
        Table("receipt_calls", "receipt calls", "erase_receipt_calls"),
        Table("receipt_days", "receipt days", "erase_receipt_days", ("UPDATE",)),
        Table("receipts", "receipts", "erase_receipts"),
    )

    def __init__(self, database: Database, keyring_source: KeyringSource, issuer: str) -> None:
        super().__init__(database)
        self._selection = CallSelection(database)
        self._keyring_source = keyring_source
        self._issuer = issuer

    @property
    def keyring(self) -> Keyring | None:
        """The keys of receipts, or None if receipts are off."""
        return self._keyring_source()

    # Issue.

    async def generate(self, project_id: ProjectId, request: ReceiptRequest) -> IssuedBatchReceipt:
        """Certify the selected calls, all or none; raise BadRequest if there are none."""
        keyring = self._required_keyring()
        async with (
            self._database.long_transaction(project_id),
            self._database.transaction() as transaction,
        ):
            inside = self.with_database(transaction)
            await inside._lock_project(project_id)
            result = await inside._generate(keyring, project_id, request)
        # After the commit: days without uncertified calls are closed also if there was no call.
        if result is None:
            raise BadRequest(NO_CALLS)
        self._announce(project_id, result["receipt"], result["certified_count"])
        return result

    async def preview(self, project_id: ProjectId, request: ReceiptRequest) -> ReceiptPreview:
        """Return what a receipt of the selected calls would state."""
        totals = ReceiptTotals()
        uncertified = UncertifiedCalls(MAX_UNCERTIFIED_CALLS)
        async with aclosing(self._selection.pages(project_id, request, uncertified)) as pages:
            async for rows in pages:
                await worker.run(partial(totals.add, rows), is_large=len(rows) > MANY_CALLS)
        return receipt_preview(totals)

    async def issue(self, project_id: ProjectId, log_id: UUID) -> Receipt:
        """Return the receipt of one call: an existing one, or else a new one."""
        keyring = self._required_keyring()
        async with (
            self._database.long_transaction(project_id),
            self._database.transaction() as transaction,
        ):
            inside = self.with_database(transaction)
            await inside._lock_project(project_id)
            receipt, is_new = await inside._receipt_for_call(keyring, project_id, log_id)
        if receipt is None:
            raise NotFound.of("Call")
        if is_new:
            self._announce(project_id, receipt, 1)
        return receipt

    async def receipt_for_call(self, project_id: ProjectId, log_id: UUID) -> Receipt | None:
        """Return the receipt of one call, in the transaction that stores the call.

        The call is stored in any case: the result is None if receipts are off, the keys cannot be
        used, or the call has more tokens than JSON can count.
        """
        try:
            keyring = self.keyring
            if keyring is None:
                return None
            async with self._database.transaction() as transaction:
                inside = self.with_database(transaction)
                receipt, _ = await inside._receipt_for_call(keyring, project_id, log_id)
                return receipt
        except (InvalidRequest, SigningKeyError):
            return None

    def _required_keyring(self) -> Keyring:
        keyring = self.keyring
        if keyring is None:
            raise ReceiptsNotConfigured
        return keyring

    async def _lock_project(self, project_id: ProjectId) -> None:
        row = await self._fetch_one("lock_project", project_id=project_id)
        if row["isolation"] != "read committed":
            raise InvalidRequest("Receipts need isolation level READ COMMITTED.")

    async def _receipt_for_call(
        self, keyring: Keyring, project_id: ProjectId, log_id: UUID
    ) -> tuple[Receipt | None, bool]:
        """Return the receipt of a call, None if there is no such call, and whether it is new."""
        rows = await self._fetch_all(
            "receipt_of_call", project_id=project_id, log_id=log_id, kids=list(keyring.trusted)
        )
        if rows:
            return StoredReceipt.from_row(rows[0]).to_response(), False
        result = await self._generate(keyring, project_id, ReceiptRequest(log_ids=[log_id]))
        return (result["receipt"], True) if result else (None, False)

    def _announce(self, project_id: ProjectId, receipt: Receipt, calls: int) -> None:
        if self._database.announces:
            self._database.events.announce([receipt_issued(project_id, receipt, calls)])

    async def _generate(
        self, keyring: Keyring, project_id: ProjectId, request: ReceiptRequest
    ) -> IssuedBatchReceipt | None:
        id = new_id()
        totals, tree = ReceiptTotals(), MerkleRoot()
        last_call = None
        uncertified = UncertifiedCalls(MAX_UNCERTIFIED_CALLS)
        async with aclosing(self._selection.pages(project_id, request, uncertified)) as pages:
            async for rows in pages:
                add = partial(_add, rows, tree, totals)
                leaves = await worker.run(add, is_large=len(rows) > MANY_CALLS)
                last_call = call_from_row(rows[-1])
                await self._insert_receipt_calls(project_id, id, rows, leaves)
        await self._selection.close_days(project_id, uncertified)
        if last_call is None:
            return None
        draft = ReceiptDraft(id, project_id, self._issuer, datetime.now(UTC), request, totals)
        stored = await sign_draft(keyring, draft, tree.value(), last_call)
        await self._insert_receipt(project_id, stored)
        return {
            "receipt": stored.to_response(),
            "certified_count": totals.count,
            "has_more": uncertified.has_more,
            "skipped_count": uncertified.skipped,
        }

    async def _insert_receipt_calls(
        self, project_id: ProjectId, id: UUID, rows: Rows, leaves: Sequence[bytes]
    ) -> None:
        await self._fetch_all(
            "insert_receipt_calls",
            project_id=project_id,
            id=str(id),
            log_ids=[row["id"] for row in rows],
            times=[row["logged_at"] for row in rows],
            leaves=leaves,
        )

    async def _insert_receipt(self, project_id: ProjectId, stored: StoredReceipt) -> bool:
        """Store a receipt; return False if there is one with this id."""
        columns = {**stored._asdict(), **log_commitment(stored)}
        rows = await self._fetch_all(
            "insert_receipt", project_id=project_id, position=new_id(), **columns
        )
        return bool(rows)

    # Read.

    async def get(self, project_id: ProjectId, id: str) -> Receipt:
        return (await self._get(project_id, id)).to_response()

    async def list(self, project_id: ProjectId, page: ReceiptPage = _FIRST_RECEIPTS) -> ReceiptList:
        """Return a page of receipts, newest first; fewer than its limit if they are large.

        Only a page without `next` is the last one.
        """
        rows = await self._fetch_all(
            "list",
            project_id=project_id,
            last_id=page.after(project_id).last_id,
            limit=page.limit,
            offset=page.offset,
            max_bytes=MAX_PAGE_BYTES,
        )
        count = await self._fetch_one("count", project_id=project_id, max_total=MAX_TOTAL)
        receipts = []
        slices = TimeSlices()
        for row in rows:
            receipts.append(StoredReceipt.from_row(row).to_response(self._read_json))
            await slices.pause()
        return {
            "receipts": receipts,
            "total": count["total"],
            "limit": page.limit,
            "offset": page.offset,
            "next": page.next(project_id, rows[-1]["position"]) if rows else None,
        }

    async def calls(
        self, project_id: ProjectId, id: str, page: OffsetPage = _FIRST_CALLS
    ) -> ReceiptCalls:
        """Return a page of the calls of a receipt that are still stored, newest first."""
        service, receipt = await self._find(project_id, id)
        last_at, last_id = page.after(project_id, receipt.flat_id.encode())
        async with self._database.long_statement(project_id):
            rows = await service._fetch_all(
                "list_calls",
                project_id=project_id,
                id=receipt.id,
                last_at=last_at,
                last_id=last_id,
                limit=page.limit,
                offset=page.offset,
            )
            count = await service._fetch_one("count_calls", project_id=project_id, id=receipt.id)
        return {"receipt_id": receipt.flat_id, **_page_of_calls(rows, count["total"], page)}

    async def uncertified(
        self, project_id: ProjectId, page: OffsetPage = _FIRST_CALLS
    ) -> ReceiptCallPage:
        """Return a page of the calls that no receipt certifies, newest first."""
        last_at, last_id = page.after(project_id, UNCERTIFIED.encode())
        async with self._database.long_statement(project_id):
            rows = await self._fetch_all(
                "list_uncertified",
                project_id=project_id,
                last_at=last_at,
                last_id=last_id,
                limit=page.limit,
                offset=page.offset,
            )
            count = await self._fetch_one(
                "count_uncertified", project_id=project_id, max_total=MAX_TOTAL
            )
        return _page_of_calls(rows, count["total"], page)

    async def export(self, project_id: ProjectId, id: str) -> AsyncGenerator[ExportedCall]:
        """Yield the calls of a receipt that are still stored, newest first, from one snapshot.

        The generator holds a transaction: use `contextlib.aclosing` if you may stop before its end.
        """
        service, receipt = await self._find(project_id, id)
        rows = service._stream("export", project_id=project_id, id=receipt.id)
        async with aclosing(ExportedCall.from_stream(rows, self._read_json)) as calls:
            async for call in calls:
                yield call

    async def proof(self, project_id: ProjectId, id: str, log_id: UUID) -> InclusionProof:
        """Return the proof that a batch receipt certifies a call.

        Raise NotFound if the receipt does not certify the call or the call is no longer stored, and
        InvalidRequest if the receipt is of one call, which it contains.
        """
        service, receipt = await self._find(project_id, id)
        envelope = receipt.envelope()
        async with self._database.long_statement(project_id):
            position = await service._fetch_one(
                "leaf_index", "Call", project_id=project_id, id=receipt.id, log_id=log_id
            )
        if envelope is None:
            raise NotFound.of("Proof")
        if envelope["receipt"]["kind"] != "batch":
            raise InvalidRequest(
                "A receipt for a single call contains the call; there is no separate proof."
            )
        call = call_from_row(await self._selection.call(project_id, log_id))
        path = InclusionPath(position["index"])
        leaves = service._stream("leaves", project_id=project_id, id=receipt.id)
        async with aclosing(leaves) as rows:
            async for row in rows:
                path.add(row["leaf"])
        return {
            "envelope": envelope,
            "call": call,
            "leaf_index": position["index"],
            "tree_size": path.size,
            "path": [node.hex() for node in path.value()],
        }

    # Verify, and store what was signed elsewhere.

    def verify(self, document: Any) -> VerificationResult:
        """Verify a receipt or its envelope; raise InvalidRequest if the document is neither."""
        return verify_document(self._trusted_keys(), document)

    async def store(self, project_id: ProjectId, receipt: Mapping[str, Any]) -> str:
        """Store a receipt that one of our keys signed, here or elsewhere; return its id.

        Raise BadRequest if it is not genuine or its envelope is missing, and Conflict if another
        receipt has its id.
        """
        try:
            document = orjson.loads(orjson.dumps(receipt, json_default))
        except TypeError as exc:
            raise BadRequest("Invalid receipt signature: a number has more than 64 bits.") from exc
        try:
            stored = verify_fields(self._trusted_keys(), document)
        except (NotVerified, CannotVerify) as exc:
            raise BadRequest(f"Invalid receipt signature: {exc}") from None
        if stored.signed is None and legacy.envelope_id(stored.id):
            raise BadRequest("The envelope is missing: only legacy receipts have none.")
        if not await self._insert_receipt(project_id, stored):
            existing = await self._on_primary()._get(project_id, stored.id)
            same = (stored.legacy_body, stored.legacy_signature)
            if (existing.legacy_body, existing.legacy_signature) != same:
                raise Conflict("Another receipt is stored under this id.")
        return stored.flat_id

    def _trusted_keys(self) -> TrustedKeys:
        keyring = self.keyring
        return keyring.trusted if keyring else {}

    async def _get(self, project_id: ProjectId, id: str) -> StoredReceipt:
        """Return a receipt by the id in its envelope, or by the one beside it."""
        return (await self._find(project_id, id))[1]

    async def _find(self, project_id: ProjectId, id: str) -> tuple[Self, StoredReceipt]:
        """Return a receipt, and this service on a database that has the receipt's calls, too.

        A replica may not have a receipt that was issued a moment ago.
        """
        id = legacy.envelope_id(id) or id
        service = self
        if not (rows := await service._fetch_all("get", project_id=project_id, id=id)):
            service = self._on_primary()
            rows = [await service._fetch_one("get", project_id=project_id, id=id)]
        return service, StoredReceipt.from_row(rows[0])


def receipt_issued(project_id: ProjectId, receipt: Receipt, calls: int) -> ReceiptIssued:
    """Return the event of a receipt that certifies this number of calls."""
    return ReceiptIssued(project_id=project_id, receipt_id=receipt["receipt_id"], calls=calls)


def _add(rows: Rows, tree: MerkleRoot, totals: ReceiptTotals) -> list[bytes]:
    """Add calls to the tree and the totals of a receipt; return their leaves."""
    leaves = [leaf_hash(leaf_entry(call_from_row(row))) for row in rows]
    for leaf in leaves:
        tree.add(leaf)
    totals.add(rows)
    return leaves


def _page_of_calls(rows: Sequence[asyncpg.Record], total: int, page: OffsetPage) -> ReceiptCallPage:
    return {
        "logs": [receipt_call(row) for row in rows],
        "total": total,
        "limit": page.limit,
        "offset": page.offset,
    }
