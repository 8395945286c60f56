"""Receipt documents: what a receipt states, in today's format and the legacy one, and signing."""

import secrets
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import rfc8785

from llmring_server.core.identity import ProjectId
from llmring_server.receipts.models import ReceiptRequest, StoredReceipt
from llmring_server.receipts.signing_keys import Keyring, format_timestamp
from llmring_server.receipts.totals import ReceiptTotals
from llmring_verify import legacy, receipt

_LOG_COMMITMENT_PREFIX = b"llmring-leaf/1\n"
# Fields of a receipt for one call that this server has no values for.
_UNKNOWN_CALL_FIELDS = {"lock_digest": None, "registry_snapshot": None, "content": None}


class ReceiptDraft(NamedTuple):
    """A receipt before it is signed: who issues it, when, why, and the totals of its calls."""

    id: UUID
    project_id: ProjectId
    issuer: str
    issued_at: datetime
    request: ReceiptRequest
    totals: ReceiptTotals

    def usage_receipt(self, kid: str, call: dict[str, Any]) -> dict[str, Any]:
        """Return the receipt of one call, which it contains."""
        call_fields = {name: call[name] for name in receipt.CALL_FIELDS}
        return self._common_fields(kid, "usage") | call_fields | _UNKNOWN_CALL_FIELDS

    def batch_receipt(self, kid: str, root: bytes, summary: bytes) -> dict[str, Any]:
        """Return the receipt of several calls: their totals and the root of their Merkle tree."""
        return self._common_fields(kid, "batch") | {
            "from": format_timestamp(self.totals.first_logged_at),
            "to": format_timestamp(self.totals.last_logged_at),
            "count": self.totals.count,
            "totals": self.totals.signed_totals(),
            "leaves_root": root.hex(),
            "summary_sha256": sha256(summary).hexdigest(),
        }

    def legacy_receipt(self, model: str) -> dict[str, Any]:
        """Return the 13 fields of a legacy receipt."""
        return {
            "receipt_id": legacy.flat_id(str(self.id)),
            "timestamp": self.issued_at.isoformat(),
            "alias": self.totals.alias,
            "profile": self.totals.profile,
            "lock_digest": "",
            "provider": self.totals.provider,
            "model": model,
            "prompt_tokens": self.totals.tokens["input"],
            "completion_tokens": self.totals.tokens["output"],
            "total_tokens": self.totals.total_tokens,
            # A stored call has a single cost.
            "input_cost": 0.0,
            "output_cost": 0.0,
            "total_cost": float(self.totals.cost),
        }

    def _common_fields(self, kid: str, kind: str) -> dict[str, Any]:
        return {
            "v": receipt.RECEIPT_VERSION,
            "kind": kind,
            "receipt_id": str(self.id),
            "issuer": self.issuer,
            "kid": kid,
            "project_id": str(self.project_id),
            "issued_at": format_timestamp(self.issued_at),
            "description": self.request.description,
            "tags": self.request.tags or [],
        }


async def sign_draft(
    keyring: Keyring, draft: ReceiptDraft, root: bytes, last_call: dict[str, Any]
) -> StoredReceipt:
    """Sign both formats of a receipt; a receipt of one call contains `last_call`.

    Raise InvalidRequest if the totals are larger than JSON can count.
    """
    totals, kid = draft.totals, keyring.active.kid
    totals.check_countable()
    if totals.count == 1:
        summary = None
        model = last_call["model"]
        body = draft.usage_receipt(kid, last_call)
    else:
        summary = canonical_summary(totals.summary())
        model = f"batch:{totals.count} calls"
        body = draft.batch_receipt(kid, root, summary)
    signed = receipt.signed_bytes(body)
    legacy_body = legacy.signed_bytes(draft.legacy_receipt(model))
    return StoredReceipt(
        id=str(draft.id),
        kid=kid,
        legacy_body=legacy_body,
        legacy_signature=await keyring.sign(legacy_body),
        signed=signed,
        signature=await keyring.sign(signed),
        summary=summary,
    )


def canonical_summary(summary: Any) -> bytes:
    """Return a summary in the form of which a receipt contains the digest (RFC 8785)."""
    return rfc8785.dumps(summary)


def log_commitment(stored: StoredReceipt) -> dict[str, bytes | None]:
    """Return the commitment that a public log may show, and the salt without which it is opaque."""
    if stored.signed is None or stored.signature is None:
        return {"salt": None, "log_commitment": None}
    salt = secrets.token_bytes(16)
    committed = salt + sha256(stored.signed).digest() + stored.signature
    return {
        "salt": salt,
        "log_commitment": sha256(_LOG_COMMITMENT_PREFIX + committed).digest(),
    }
