"""Legacy receipts, from the first llmring servers: 13 flat fields, signed without a key id."""

from datetime import datetime
from typing import Any
from uuid import UUID

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from llmring_verify.canonical_json import NotVerified
from llmring_verify.keys import is_valid_signature
from llmring_verify.receipt import from_base64url
from llmring_verify.schema import is_count, is_text, is_uuid, matches, validate

SIGNATURE_PREFIX = "ed25519:"


def _is_number(value: Any) -> bool:
    return type(value) in {int, float}


_is_long_id = matches(r"rcpt_[0-9a-f]{32}")

FIELDS = {
    "receipt_id": is_text,
    "timestamp": matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?"),
    "alias": is_text,
    "profile": is_text,
    "lock_digest": is_text,
    "provider": is_text,
    "model": is_text,
    "prompt_tokens": is_count,
    "completion_tokens": is_count,
    "total_tokens": is_count,
    "input_cost": _is_number,
    "output_cost": _is_number,
    "total_cost": _is_number,
}


def flat_id(receipt_id: str) -> str:
    """Return the id beside the envelope of the receipt with this UUID."""
    return "rcpt_" + receipt_id.replace("-", "")


def envelope_id(receipt_id: Any) -> str | None:
    """Return the UUID in the envelope of a receipt with this id; None if it has no envelope.

    Beside an envelope the id is `rcpt_` and the digits of its UUID, in older receipts the UUID
    itself. The first servers, which knew no envelope, made ids of `rcpt_` and 16 digits.
    """
    if is_uuid(receipt_id):
        return str(receipt_id)
    return str(UUID(receipt_id.removeprefix("rcpt_"))) if _is_long_id(receipt_id) else None


def signed_bytes(receipt: dict[str, Any]) -> bytes:
    """Return the bytes that were signed: the 13 fields, with the time in Python's ISO format."""
    fields = {name: receipt[name] for name in FIELDS if name in receipt}
    validate(fields, FIELDS, "receipt")
    try:
        fields["timestamp"] = datetime.fromisoformat(fields["timestamp"]).isoformat()
        return rfc8785.dumps(fields)
    except ValueError:
        # rfc8785 raises it, too: for numbers that JSON implementations read differently.
        raise NotVerified("receipt: invalid timestamp or number") from None


def signature(receipt: dict[str, Any]) -> bytes:
    """Return the signature in a receipt, or raise NotVerified if it is malformed."""
    text = receipt.get("signature")
    if type(text) is not str or not text.startswith(SIGNATURE_PREFIX):
        raise NotVerified("receipt: invalid value for signature")
    return from_base64url(text.removeprefix(SIGNATURE_PREFIX), 64, "the signature")


def is_signed_by(receipt: dict[str, Any], public: Ed25519PublicKey) -> bool:
    """Return whether this key signed the 13 fields; other fields of the receipt are not signed."""
    return is_valid_signature(public, signed_bytes(receipt), signature(receipt))
