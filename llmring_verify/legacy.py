"""Receipts of the first llmring servers: 13 flat fields, under a signature that names no key."""

from datetime import datetime
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from llmring_verify import shape
from llmring_verify.keys import signed
from llmring_verify.receipt import from_base64url
from llmring_verify.schema import count, like, text
from llmring_verify.canonical_json import Refused

PREFIX = "ed25519:"


def _money(value: Any) -> bool:
    return type(value) in {int, float}


FIELDS = {
    "receipt_id": text,
    "timestamp": like(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?"),
    "alias": text,
    "profile": text,
    "lock_digest": text,
    "provider": text,
    "model": text,
    "prompt_tokens": count,
    "completion_tokens": count,
    "total_tokens": count,
    "input_cost": _money,
    "output_cost": _money,
    "total_cost": _money,
}


def canonical(receipt: dict[str, Any]) -> bytes:
    """Return the bytes that were signed: its 13 fields alone, its time as Python spells it."""
    body = {name: receipt[name] for name in FIELDS if name in receipt}
    shape.check(body, FIELDS, "receipt")
    try:
        body["timestamp"] = datetime.fromisoformat(body["timestamp"]).isoformat()
        return rfc8785.dumps(body)
    except ValueError:
        # Of rfc8785 too: a number that JSON's readers do not agree on.
        raise Refused("receipt: its time or a number is not of its form") from None


def signature(receipt: dict[str, Any]) -> bytes:
    """Return the signature that it carries; Refused."""
    told = receipt.get("signature")
    if type(told) is not str or not told.startswith(PREFIX):
        raise Refused("receipt: signature is not of its form")
    return from_base64url(told.removeprefix(PREFIX), 64, "the signature")


def check(receipt: dict[str, Any], public: Ed25519PublicKey) -> bool:
    """Say whether this key signed the 13 fields of a receipt; it proves no others. Refused."""
    return signed(public, canonical(receipt), signature(receipt))
