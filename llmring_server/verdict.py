"""Is a receipt genuine: its old form, its envelope, and that both say the same."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal

import rfc8785
from typing_extensions import TypedDict

from llmring_server.errors import Invalid
from llmring_server.keyring import Key
from llmring_server.receipt import Receipt, Stored
from llmring_verify import legacy, receipt
from llmring_verify.strict import Refused

NO_RECEIPT = "receipt: give a receipt with its 13 fields and signature, or an envelope"
UNKNOWN = "no key that is trusted here has signed it"


class Verdict(TypedDict):
    """Whether a receipt is genuine; which key signed it, or what is wrong."""

    receipt_id: str
    valid: bool
    algorithm: Literal["Ed25519"]
    kid: str | None
    reason: str | None


def judged(keys: Sequence[Key], document: Any) -> Verdict:
    """Say whether this is a genuine receipt or envelope; Invalid if it is neither."""
    if not isinstance(document, dict):
        raise Invalid(NO_RECEIPT)
    alone = "receipt" in document
    if not alone and not legacy.FIELDS.keys() <= document.keys():
        raise Invalid(NO_RECEIPT)
    body = document["receipt"] if alone else document
    id = body.get("receipt_id") if isinstance(body, dict) else None
    id = id if isinstance(id, str) else ""
    try:
        kid = opened(keys, document)[0] if alone else checked(keys, document).kid
    except Refused as exc:
        return verdict(id, reason=str(exc))
    return verdict(id, kid)


def verdict(id: str = "", kid: str | None = None, reason: str | None = None) -> Verdict:
    """Return a verdict: genuine, unless there is a reason against it."""
    valid = reason is None
    return {
        "receipt_id": id, "valid": valid, "algorithm": "Ed25519", "kid": kid, "reason": reason,
    }  # fmt: skip


def checked(keys: Sequence[Key], told: Mapping[str, Any]) -> Stored:
    """Return what is to be kept of a receipt in its old form; Refused if it is not genuine."""
    flat, flat_sig = legacy.canonical(dict(told)), legacy.signature(dict(told))
    key = next((key for key in keys if key.signed(flat, flat_sig)), None)
    if key is None:
        raise Refused(UNKNOWN)
    stored = Stored(told["receipt_id"], key.kid, flat, flat_sig)
    if told.get("envelope") is not None:
        kid, signed, sig = opened(keys, told["envelope"])
        summary = told.get("batch_summary")
        stored = stored._replace(kid=kid, signed=signed, sig=sig, summary=_summary(summary))
        _agree(stored.told(), told)
    return stored


def opened(keys: Sequence[Key], envelope: Any) -> tuple[str, bytes, bytes]:
    """Return the key's id, what it signed, and the signature; Refused if it did not."""
    kid, signed, sig = receipt.opened(envelope)
    if not any(key.kid == kid and key.signed(signed, sig) for key in keys):
        raise Refused(UNKNOWN)
    return kid, signed, sig


def _summary(told: Any) -> bytes | None:
    try:
        return None if told is None else rfc8785.dumps(told)
    except (ValueError, RecursionError):
        raise Refused("batch_summary is not of its form") from None


def _agree(stored: Receipt, told: Mapping[str, Any]) -> None:
    """Check that what stands around an envelope is what the envelope says; Refused."""
    body, summary = told["envelope"]["receipt"], _summary(told.get("batch_summary"))
    digest = summary and sha256(summary).hexdigest()
    if body["receipt_id"] != told["receipt_id"] or body.get("summary_sha256") != digest:
        raise Refused("the envelope is another receipt's")
    for name in ("receipt_type", "description", "tags"):
        if name in told and told[name] != stored[name]:
            raise Refused(f"{name} is not what was signed")
