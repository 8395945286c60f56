"""Receipts, over HTTP."""

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypedDict

from llmring_server.bounded import Json
from llmring_server.errors import BadRequest, Conflict, NotFound
from llmring_server.items import Items, Logs, Preview
from llmring_server.receipt import Generated, Proof, Receipt, ReceiptList
from llmring_server.verdict import Verdict, verdict
from llmring_server.wanted import Asked, Listing, Stretch, Wanted
from llmring_server.web.body import JSON
from llmring_server.web.call import Body, Call
from llmring_server.web.paging import link
from llmring_verify.canonical_json import NotVerified, parse


class Signed(BaseModel):
    """A receipt that one of the published keys has signed, in the form that `get` shows."""

    receipt: Json


class Verified(TypedDict):
    """That a receipt is genuine, and kept."""

    receipt_id: str
    status: Literal["verified"]


async def list_receipts(call: Call, query: Listing) -> Annotated[ReceiptList, "Link"]:
    """List receipts, the newest first, a page at a time, fewer where they are large."""
    found = await call.ring.receipts.list(call.tenant, query)
    if found["next"]:
        call.says = link(query, found["next"])
    return found


async def get_receipt(call: Call, id: str) -> Receipt:
    """Show a receipt, with the envelope that proves it."""
    return await call.ring.receipts.get(call.tenant, id)


async def receipt_logs(call: Call, id: str, query: Stretch) -> Logs:
    """List the calls that a receipt certifies, newest first."""
    with call.at_length():
        return await call.ring.receipts.logs(call.tenant, id, query)


async def receipt_proof(call: Call, id: str, log_id: UUID) -> Proof:
    """Prove that a call is one of those that a receipt certifies."""
    with call.at_length():
        return await call.ring.receipts.proof(call.tenant, id, log_id)


async def uncertified(call: Call, query: Stretch) -> Items:
    """List the calls that no receipt certifies, newest first."""
    with call.at_length():
        return await call.ring.receipts.uncertified(call.tenant, query)


async def generate_receipt(call: Call, body: Wanted) -> Annotated[Generated, Conflict]:
    """Certify calls: of a conversation, a span of time, by their ids, or all that are not yet."""
    call.caller.must("read")
    with call.at_length():
        return await call.ring.receipts.generate(call.tenant, body)


async def preview_receipt(call: Call, body: Wanted) -> Preview:
    """Tell what such a receipt would say; nothing is signed, and nothing stored."""
    with call.at_length():
        return await call.ring.receipts.preview(call.tenant, body)


async def issue_receipt(call: Call, body: Asked) -> Annotated[Receipt, NotFound, Conflict]:
    """Give the receipt of one stored call, which is signed now if it was not before."""
    call.caller.must("read")
    with call.at_length():
        return await call.ring.receipts.issue(call.tenant, body.log_id)


async def store_receipt(call: Call, body: Signed) -> Annotated[Verified, Conflict]:
    """Keep a receipt that was signed with one of our keys, here or elsewhere."""
    return {
        "receipt_id": await call.ring.receipts.store(call.tenant, body.receipt),
        "status": "verified",
    }


async def verify_receipt(call: Call, body: Annotated[Body, {JSON: dict[str, Any]}]) -> Verdict:
    """Say whether a receipt, or its envelope alone, is genuine."""
    try:
        document = parse(body.data)
    except NotVerified as exc:
        return _not_strict(body.data, str(exc))
    return call.ring.receipts.verify(document)


def _not_strict(data: bytes, reason: str) -> Verdict:
    """Tell what can be read in two ways, and so proves nothing, from what cannot be read."""
    try:
        json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BadRequest("The body is not JSON.") from exc
    return verdict(reason=reason)
