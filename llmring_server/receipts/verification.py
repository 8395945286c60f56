"""Is a receipt genuine: in its old form, in its envelope, and that both say the same."""

from collections.abc import Mapping
from typing import Any, Literal

import rfc8785
from typing_extensions import TypedDict

from llmring_server.errors import InvalidRequest
from llmring_server.receipts.models import StoredReceipt, kind_of
from llmring_verify import legacy
from llmring_verify.canonical_json import CannotVerify, NotVerified
from llmring_verify.keys import is_valid_signature
from llmring_verify.receipt import open_envelope
from llmring_verify.schema import is_uuid
from llmring_verify.verify import TrustedKeys, verify_envelope, verify_receipt

_ONLY_IN_ENVELOPE = ("batch_summary", "description", "tags")
NO_RECEIPT = "receipt: give a receipt with its 13 fields and signature, or an envelope"

Form = Literal["envelope", "fields"]


class VerificationResult(TypedDict):
    """Whether a receipt is genuine; which key signed it, or what is wrong.

    `form` is what was proved: the whole of an `envelope`, or the 13 `fields` of an answer alone.
    """

    receipt_id: str
    valid: bool
    algorithm: Literal["Ed25519"]
    kid: str | None
    form: Form | None
    reason: str | None


def verify_document(keys: TrustedKeys, document: Any) -> VerificationResult:
    """Say whether this is a genuine receipt or envelope; Invalid if it is neither."""
    if isinstance(document, dict) and "certified_count" in document:
        document = document.get("receipt")
    if not isinstance(document, dict):
        raise InvalidRequest(NO_RECEIPT)
    alone = "receipt" in document
    if not alone and not legacy.FIELDS.keys() <= document.keys():
        raise InvalidRequest(NO_RECEIPT)
    body = document["receipt"] if alone else document
    id = body.get("receipt_id") if isinstance(body, dict) else None
    id = id if isinstance(id, str) and _is_text(id) else ""
    try:
        if alone:
            return verification_result(id, verify_envelope(document, keys)["kid"], "envelope")
        found = verify_fields(keys, document)
    except (NotVerified, CannotVerify) as exc:
        return verification_result(id, reason=str(exc))
    return verification_result(id, found.kid, "envelope" if found.signed else "fields")


def _is_text(id: str) -> bool:
    try:
        id.encode()
    except UnicodeEncodeError:
        return False
    return True


def verification_result(
    id: str = "", kid: str | None = None, form: Form | None = None, reason: str | None = None
) -> VerificationResult:
    """Return a verdict: genuine, unless there is a reason against it."""
    valid = reason is None
    return {
        "receipt_id": id, "valid": valid, "algorithm": "Ed25519", "kid": kid, "form": form,
        "reason": reason,
    }  # fmt: skip


def verify_fields(keys: TrustedKeys, told: Mapping[str, Any]) -> StoredReceipt:
    """Return what is to be kept of a receipt; NotVerified or CannotVerify if it is not genuine.

    Without an envelope it is worth its 13 fields, and nothing else of it is kept.
    """
    written, signature = legacy.signed_bytes(dict(told)), legacy.signature(dict(told))
    flat = StoredReceipt(told["receipt_id"], "", written, signature)
    if told.get("envelope") is None:
        if is_uuid(told["receipt_id"]) and any(told.get(name) for name in _ONLY_IN_ENVELOPE):
            raise NotVerified("it has lost the envelope that proves all but its 13 fields")
        if told.get("receipt_type", kind_of(told["model"])) != kind_of(told["model"]):
            raise NotVerified("its receipt_type is not that of its model")
        return flat._replace(kid=_signer(keys, flat))
    verify_receipt(told, keys)
    kid, data, sig = open_envelope(told["envelope"])
    summary = told.get("batch_summary")
    digested = None if summary is None else rfc8785.dumps(summary)
    return flat._replace(kid=kid, signed=data, sig=sig, summary=digested)


def _signer(keys: TrustedKeys, stored: StoredReceipt) -> str:
    for key in keys.values():
        if is_valid_signature(key.public, stored.flat, stored.flat_sig):
            return key.kid
    raise NotVerified("no key that is trusted here has signed it, or it was altered")
