"""What a receipt says, before and after it is signed: in its own form, and in the old one."""

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

_LEAF = b"llmring-leaf/1\n"


class ReceiptDraft(NamedTuple):
    """What is said of some calls: who says it, when, and what for."""

    id: UUID
    project_id: ProjectId
    issuer: str
    issued_at: datetime
    wanted: ReceiptRequest
    tally: ReceiptTotals

    def of_call(self, kid: str, told: dict[str, Any]) -> dict[str, Any]:
        """Say that this call was stored."""
        unknown = dict.fromkeys(("lock_digest", "registry_snapshot", "content"))
        fields = {name: told[name] for name in receipt.CALL_FIELDS}
        return self._body(kid, "usage") | fields | unknown

    def of_batch(self, kid: str, root: bytes, summary: bytes) -> dict[str, Any]:
        """Say that these calls were stored, and what they add up to."""
        return self._body(kid, "batch") | {
            "from": format_timestamp(self.tally.since),
            "to": format_timestamp(self.tally.until),
            "count": self.tally.count,
            "totals": self.tally.totals(),
            "leaves_root": root.hex(),
            "summary_sha256": sha256(summary).hexdigest(),
        }

    def flat(self, model: str) -> dict[str, Any]:
        """Say the same in 13 fields. What a call cost is not known in parts."""
        tokens = self.tally.totals()["tokens"]
        return {
            "receipt_id": str(self.id),
            "timestamp": self.issued_at.isoformat(),
            "alias": self.tally.alias,
            "profile": self.tally.profile,
            "lock_digest": "",
            "provider": self.tally.maker,
            "model": model,
            "prompt_tokens": tokens["input"],
            "completion_tokens": tokens["output"],
            "total_tokens": self.tally.used,
            "input_cost": 0.0,
            "output_cost": 0.0,
            "total_cost": float(self.tally.cost),
        }

    def _body(self, kid: str, kind: str) -> dict[str, Any]:
        return {
            "v": receipt.RECEIPT_VERSION,
            "kind": kind,
            "receipt_id": str(self.id),
            "issuer": self.issuer,
            "kid": kid,
            "project_id": str(self.project_id),
            "issued_at": format_timestamp(self.issued_at),
            "description": self.wanted.description,
            "tags": self.wanted.tags or [],
        }


async def sign_draft(
    keys: Keyring, draft: ReceiptDraft, root: bytes, last: dict[str, Any]
) -> StoredReceipt:
    """Sign a draft in both of its forms; `last` is its last call, and may be its only one.

    Invalid if its calls add up to more than JSON can count.
    """
    kid = keys.active.kid
    draft.tally.totals()
    if draft.tally.count == 1:
        summary, model = None, last["model"]
        body = draft.of_call(kid, last)
    else:
        summary, model = digested(draft.tally.summary()), f"batch:{draft.tally.count} calls"
        body = draft.of_batch(kid, root, summary)
    signed, flat = receipt.signed_bytes(body), legacy.signed_bytes(draft.flat(model))
    return StoredReceipt(
        id=str(draft.id),
        kid=kid,
        flat=flat,
        flat_sig=await keys.sign(flat),
        signed=signed,
        sig=await keys.sign(signed),
        summary=summary,
    )


def digested(summary: Any) -> bytes:
    """Write a summary as its digest is made (RFC 8785)."""
    return rfc8785.dumps(summary)


def log_commitment(stored: StoredReceipt) -> dict[str, bytes | None]:
    """Return what a public log may show of a receipt, and the salt that keeps it from telling."""
    if stored.signed is None or stored.sig is None:
        return {"salt": None, "leaf": None}
    salt = secrets.token_bytes(16)
    shown = sha256(_LEAF + salt + sha256(stored.signed).digest() + stored.sig).digest()
    return {"salt": salt, "leaf": shown}
