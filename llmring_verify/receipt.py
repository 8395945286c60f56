"""A receipt: what a server states that it stored, the bytes that it signs, and the envelope."""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Any

from llmring_verify import call
from llmring_verify.schema import (
    amount,
    check,
    count,
    digest,
    like,
    moment,
    nullable,
    one_of,
    record,
    text,
    texts,
    uuid,
)
from llmring_verify.canonical_json import Refused, canonical

VERSION = "llmring-receipt/1"
ALGORITHM = "Ed25519"

_KID = like(r"[0-9a-f]{8}")
_COMMON = {
    "v": one_of(VERSION),
    "receipt_id": uuid,
    "issuer": text,
    "kid": _KID,
    "project_id": uuid,
    "issued_at": moment,
    "description": nullable(text),
    "tags": texts,
}
USAGE = {
    **_COMMON,
    "kind": one_of("usage"),
    **call.FIELDS,
    "lock_digest": nullable(text),
    "registry_snapshot": nullable(like(r"sha256:[0-9a-f]{64}")),
    "content": nullable(record({"sha256": digest})),
}
_TOTAL = {"currency": one_of("USD"), "amount": amount, "unpriced": count}
BATCH = {
    **_COMMON,
    "kind": one_of("batch"),
    "from": moment,
    "to": moment,
    "count": lambda value: count(value) and value > 0,
    "totals": record({"tokens": record(call.TOKENS), "cost": record(_TOTAL)}),
    "leaves_root": digest,
    "summary_sha256": digest,
}
ENVELOPE = {
    "receipt": lambda value: type(value) is dict,
    "signature": record({"alg": one_of(ALGORITHM), "kid": _KID, "sig": text}),
    "signed_sha256": digest,
}


def signed(body: dict[str, Any]) -> bytes:
    """Return the bytes that are signed for a receipt; Refused if it is none."""
    check(body, BATCH if body.get("kind") == "batch" else USAGE, "receipt")
    return f"{VERSION}\n".encode() + canonical(body)


def call_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the call that a receipt of kind "usage" tells of."""
    return {"v": call.VERSION, **{name: body[name] for name in call.FIELDS}}


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(value: Any, length: int, noun: str) -> bytes:
    """Read so many bytes, in their only spelling; Refused."""
    try:
        data = urlsafe_b64decode(f"{value}{'=' * (-len(value) % 4)}")
    except (TypeError, ValueError):
        data = b""
    if len(data) != length or base64url(data) != value:
        raise Refused(f"{noun} is not {length} bytes of base64url")
    return data


def envelope(body: dict[str, Any], signature: bytes) -> dict[str, Any]:
    """Return what is handed out: a receipt beside its signature."""
    return {
        "receipt": body,
        "signature": {"alg": ALGORITHM, "kid": body["kid"], "sig": base64url(signature)},
        "signed_sha256": sha256(signed(body)).hexdigest(),
    }


def opened(envelope: Any) -> tuple[str, bytes, bytes]:
    """Return a key's id, what it is said to have signed, and the signature, unverified; Refused."""
    check(envelope, ENVELOPE, "envelope")
    body, signature = envelope["receipt"], envelope["signature"]
    data = signed(body)
    if signature["kid"] != body["kid"]:
        raise Refused("the signature names another key than the receipt does")
    if not hmac.compare_digest(sha256(data).hexdigest(), envelope["signed_sha256"]):
        raise Refused("signed_sha256 is not the digest of what is signed")
    return body["kid"], data, from_base64url(signature["sig"], 64, "the signature")
