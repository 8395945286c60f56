"""Verification of receipts: the legacy format, the envelope, and that both agree."""

from collections.abc import Mapping
from typing import Any, Literal

from typing_extensions import TypedDict

from llmring_server.errors import InvalidRequest
from llmring_server.receipts.document import canonical_summary
from llmring_server.receipts.models import StoredReceipt, type_of_model
from llmring_verify import legacy
from llmring_verify.canonical_json import CannotVerify, NotVerified
from llmring_verify.keys import is_valid_signature
from llmring_verify.receipt import open_envelope
from llmring_verify.verify import TrustedKeys, verify_envelope, verify_receipt

NOT_A_RECEIPT = "receipt: must be a receipt with its 13 fields and signature, or an envelope"

# Fields of a response that only an envelope proves.
_ENVELOPE_ONLY = ("batch_summary", "description", "tags")

Form = Literal["envelope", "fields"]


class VerificationResult(TypedDict):
    """Whether a receipt is genuine, and the key that signed it or the reason why it is not.

    `form` is what was verified: the whole `envelope`, or only the 13 `fields` beside it.
    """

    receipt_id: str
    valid: bool
    algorithm: Literal["Ed25519"]
    kid: str | None
    form: Form | None
    reason: str | None


def valid_result(receipt_id: str, kid: str, form: Form) -> VerificationResult:
    return {
        "receipt_id": receipt_id,
        "valid": True,
        "algorithm": "Ed25519",
        "kid": kid,
        "form": form,
        "reason": None,
    }


def invalid_result(reason: str, receipt_id: str = "") -> VerificationResult:
    return {
        "receipt_id": receipt_id,
        "valid": False,
        "algorithm": "Ed25519",
        "kid": None,
        "form": None,
        "reason": reason,
    }


def verify_document(keys: TrustedKeys, document: Any) -> VerificationResult:
    """Verify a receipt, its envelope, or the response of `generate`.

    Raise InvalidRequest if the document is none of these.
    """
    if isinstance(document, dict) and "certified_count" in document:
        document = document.get("receipt")
    if not isinstance(document, dict):
        raise InvalidRequest(NOT_A_RECEIPT)
    is_envelope = "receipt" in document
    if not is_envelope and not legacy.FIELDS.keys() <= document.keys():
        raise InvalidRequest(NOT_A_RECEIPT)
    receipt_id = _receipt_id(document["receipt"] if is_envelope else document)
    try:
        if is_envelope:
            return valid_result(receipt_id, verify_envelope(document, keys)["kid"], "envelope")
        stored = verify_fields(keys, document)
    except (NotVerified, CannotVerify) as exc:
        return invalid_result(str(exc), receipt_id)
    return valid_result(receipt_id, stored.kid, "envelope" if stored.signed else "fields")


def _receipt_id(receipt: Any) -> str:
    """Return the id of an unverified receipt, or "" if a response cannot contain it."""
    id = receipt.get("receipt_id") if isinstance(receipt, dict) else None
    if not isinstance(id, str):
        return ""
    try:
        id.encode()
    except UnicodeEncodeError:
        return ""
    return id


def verify_fields(keys: TrustedKeys, receipt: Mapping[str, Any]) -> StoredReceipt:
    """Verify a receipt with its 13 fields, and return what can be stored of it.

    Without an envelope, only the 13 fields are proved, and only they are returned. Raise
    NotVerified or CannotVerify if the receipt is not genuine.
    """
    fields = dict(receipt)
    # This also checks that all 13 fields are there.
    legacy_body = legacy.signed_bytes(fields)
    receipt_id = receipt["receipt_id"]
    stored = StoredReceipt(
        id=legacy.envelope_id(receipt_id) or receipt_id,
        kid="",
        legacy_body=legacy_body,
        legacy_signature=legacy.signature(fields),
    )
    if receipt.get("envelope") is None:
        _reject_unproved_fields(receipt)
        return stored._replace(kid=_legacy_signer(keys, stored))
    verify_receipt(receipt, keys)
    kid, signed, signature = open_envelope(receipt["envelope"])
    summary = receipt.get("batch_summary")
    return stored._replace(
        kid=kid,
        signed=signed,
        signature=signature,
        summary=None if summary is None else canonical_summary(summary),
    )


def _reject_unproved_fields(receipt: Mapping[str, Any]) -> None:
    if legacy.envelope_id(receipt["receipt_id"]) and any(
        receipt.get(name) for name in _ENVELOPE_ONLY
    ):
        raise NotVerified("the envelope is missing; without it, only the 13 fields are proved")
    receipt_type = type_of_model(receipt["model"])
    if receipt.get("receipt_type", receipt_type) != receipt_type:
        raise NotVerified("receipt_type does not match the model")


def _legacy_signer(keys: TrustedKeys, stored: StoredReceipt) -> str:
    # A legacy receipt has no key id, so any trusted key may have signed it.
    for key in keys.values():
        if is_valid_signature(key.public, stored.legacy_body, stored.legacy_signature):
            return key.kid
    raise NotVerified("no key of this server signed the receipt, or it was altered")
