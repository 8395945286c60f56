"""The format of receipts: the call, the receipt, the bytes that are signed, and the envelope.

Read from top to bottom: a call as a receipt states it; how a call is rebuilt from a line of an
export; the two kinds of receipts, "usage" (one call) and "batch" (many calls, by a Merkle root);
the envelope that carries a receipt and its signature.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from decimal import Context, Decimal, Inexact, InvalidOperation
from hashlib import sha256
from typing import Any

from llmring_verify.canonical_json import NotVerified, canonicalize
from llmring_verify.schema import (
    is_amount,
    is_count,
    is_object,
    is_sha256,
    is_text,
    is_text_list,
    is_timestamp,
    is_uuid,
    matches,
    nullable,
    object_of,
    one_of,
    validate,
)

CALL_VERSION = "llmring-call/1"
RECEIPT_VERSION = "llmring-receipt/1"
ALGORITHM = "Ed25519"

TOKEN_COUNTS = {"input": is_count, "output": is_count, "cached_input": is_count}
# They are null if the usage of the call is unknown.
_REPORTED_COUNTS = ("input", "output")
_TOKENS_OF_CALL = object_of(TOKEN_COUNTS | dict.fromkeys(_REPORTED_COUNTS, nullable(is_count)))
_COST = object_of(
    {
        "currency": one_of("USD"),
        "amount": nullable(is_amount),
        "source": one_of("client", "override", "registry", "offline", "unpriced"),
    }
)
_is_detail_name = matches(r"[a-z0-9_]{1,64}")


def _is_tokens(value: Any) -> bool:
    return bool(_TOKENS_OF_CALL(value)) and (value["input"] is None) == (value["output"] is None)


def _is_cost(value: Any) -> bool:
    return bool(_COST(value)) and (value["amount"] is None) == (value["source"] == "unpriced")


def _is_details(value: Any) -> bool:
    if type(value) is not dict or not value:
        return False
    return all(
        _is_detail_name(name) and (is_text(detail) or is_count(detail))
        for name, detail in value.items()
    )


CALL_FIELDS = {
    "log_id": is_uuid,
    "logged_at": is_timestamp,
    "provider": is_text,
    "model": is_text,
    "alias": nullable(is_text),
    "profile": is_text,
    "origin": nullable(is_text),
    "id_at_origin": nullable(is_text),
    "conversation_id": nullable(is_uuid),
    "status": one_of("ok", "error", "timeout", "cancelled"),
    "latency_ms": nullable(is_count),
    "tokens": _is_tokens,
    "details": nullable(_is_details),
    "cost": _is_cost,
}
CALL_SCHEMA = {"v": one_of(CALL_VERSION), **CALL_FIELDS}

_CALL_PREFIX = f"{CALL_VERSION}\n".encode()
_RECEIPT_PREFIX = f"{RECEIPT_VERSION}\n".encode()


def validate_call(call: Any) -> None:
    """Raise NotVerified unless this is exactly a call."""
    validate(call, CALL_SCHEMA, "call")


def leaf_entry(call: dict[str, Any]) -> bytes:
    """Return the entry that a Merkle leaf hashes. It is canonical if the call is valid."""
    return _CALL_PREFIX + canonicalize(call)


_COST_QUANTUM = Decimal("1e-10")
_EXACT = Context(prec=40, traps=[Inexact, InvalidOperation])


def call_from_export(line: dict[str, Any]) -> dict[str, Any]:
    """Rebuild a call from a line of `GET /api/v1/logs/export?format=jsonl`, or raise NotVerified.

    The line must have been parsed with numbers as Decimals. The cost is `first_cost`, because
    `cost` changes when a call is re-rated. Metadata are not part of a receipt.
    """
    try:
        call = _call_from_export(line)
    except (KeyError, TypeError, ArithmeticError):
        raise NotVerified("not a line of a JSON lines export with `first_cost`") from None
    validate_call(call)
    return call


def _call_from_export(line: dict[str, Any]) -> dict[str, Any]:
    call = {name: line[name] for name in CALL_FIELDS if name in line}
    return call | {
        "v": CALL_VERSION,
        "log_id": line["id"],
        "logged_at": _with_six_digits(line["logged_at"]),
        "tokens": {name: line[f"{name}_tokens"] for name in TOKEN_COUNTS},
        "cost": {
            "currency": "USD",
            "amount": _with_ten_decimals(line["first_cost"]),
            "source": line["first_cost_source"],
        },
    }


def _with_ten_decimals(amount: Any) -> str | None:
    if amount is None:
        return None
    if type(amount) not in {int, Decimal}:
        raise TypeError
    return f"{_EXACT.quantize(Decimal(amount), _COST_QUANTUM):f}"


def _with_six_digits(timestamp: Any) -> str:
    if type(timestamp) is not str:
        raise TypeError
    if "." in timestamp:
        return timestamp
    return timestamp.removesuffix("Z") + ".000000Z"


_is_kid = matches(r"[0-9a-f]{8}")
_RECEIPT_FIELDS = {
    "v": one_of(RECEIPT_VERSION),
    "receipt_id": is_uuid,
    "issuer": is_text,
    "kid": _is_kid,
    "project_id": is_uuid,
    "issued_at": is_timestamp,
    "description": nullable(is_text),
    "tags": is_text_list,
}
USAGE_SCHEMA = {
    **_RECEIPT_FIELDS,
    "kind": one_of("usage"),
    **CALL_FIELDS,
    "lock_digest": nullable(is_text),
    "registry_snapshot": nullable(matches(r"sha256:[0-9a-f]{64}")),
    "content": nullable(object_of({"sha256": is_sha256})),
}
_TOTAL_COST = {"currency": one_of("USD"), "amount": is_amount, "unpriced": is_count}
BATCH_SCHEMA = {
    **_RECEIPT_FIELDS,
    "kind": one_of("batch"),
    "from": is_timestamp,
    "to": is_timestamp,
    "count": lambda value: is_count(value) and value > 0,
    "totals": object_of({"tokens": object_of(TOKEN_COUNTS), "cost": object_of(_TOTAL_COST)}),
    "leaves_root": is_sha256,
    "summary_sha256": is_sha256,
}
ENVELOPE_SCHEMA = {
    "receipt": is_object,
    "signature": object_of({"alg": one_of(ALGORITHM), "kid": _is_kid, "sig": is_text}),
    "signed_sha256": is_sha256,
}


def signed_bytes(receipt: dict[str, Any]) -> bytes:
    """Return the bytes that are signed for a receipt; raise NotVerified if it is invalid."""
    schema = BATCH_SCHEMA if receipt.get("kind") == "batch" else USAGE_SCHEMA
    validate(receipt, schema, "receipt")
    return _RECEIPT_PREFIX + canonicalize(receipt)


def call_from_receipt(receipt: dict[str, Any]) -> dict[str, Any]:
    """Return the call in a receipt of kind "usage"."""
    return {"v": CALL_VERSION, **{name: receipt[name] for name in CALL_FIELDS}}


def open_envelope(envelope: Any) -> tuple[str, bytes, bytes]:
    """Return key id, signed bytes and signature of an envelope, or raise NotVerified.

    The signature itself is not verified here.
    """
    validate(envelope, ENVELOPE_SCHEMA, "envelope")
    receipt, signature = envelope["receipt"], envelope["signature"]
    data = signed_bytes(receipt)
    if signature["kid"] != receipt["kid"]:
        raise NotVerified("the signature and the receipt name different keys")
    if not hmac.compare_digest(sha256(data).hexdigest(), envelope["signed_sha256"]):
        raise NotVerified("signed_sha256 is not the digest of the signed bytes")
    return receipt["kid"], data, from_base64url(signature["sig"], 64, "the signature")


def base64url(data: bytes) -> str:
    """Encode as base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(value: Any, length: int, name: str) -> bytes:
    """Decode exactly `length` bytes in their canonical spelling, or raise NotVerified."""
    try:
        data = urlsafe_b64decode(f"{value}{'=' * (-len(value) % 4)}")
    except (TypeError, ValueError):
        data = b""
    if len(data) != length or base64url(data) != value:
        raise NotVerified(f"{name} is not {length} bytes of base64url")
    return data
