"""Documents that must verify."""

import json
from typing import Any

import rfc8785

from tests.vectors.generate.second_signer import (
    ACTIVE,
    COMMON,
    NEXT,
    RETIRED,
    SUMMARY,
    Document,
    Signer,
    b64,
    batch,
    call,
    proof,
    usage,
)

CALLS = [call(number) for number in range(1, 8)]
UNPRICED = {"currency": "USD", "amount": None, "source": "unpriced"}
MAX_SAFE_INTEGER = 2**53 - 1
STRANGE = 'é "\\\b\f\n\r\t\x01\x1f\x7f\u2028 \U0001f600 \ufb33 </script>'

LEGACY = {
    "receipt_id": "rcpt_0123456789abcdef",
    "timestamp": "2025-10-02T12:34:56.789012Z",
    "alias": "fast",
    "profile": "default",
    "lock_digest": "",
    "provider": "openai",
    "model": "gpt-4o-mini",
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "input_cost": 0.0004,
    "output_cost": 0.0006,
    "total_cost": 0.001,
}
LEGACY_BATCH = LEGACY | {
    "receipt_id": "rcpt_fedcba9876543210",
    "timestamp": "2025-01-01T00:00:00Z",
    "lock_digest": "sha256:é",
    "provider": "unknown",
    "model": "batch:2 calls",
    "input_cost": 0.0,
    "output_cost": 0.0,
    "total_cost": 1e-7,
}

# What the server adds to a legacy receipt in its responses.
LEGACY_RESPONSE_FIELDS: Document = {
    "receipt_type": "single",
    "batch_summary": None,
    "description": None,
    "tags": [],
    "envelope": None,
}


def legacy(receipt: Document, signer: Signer = ACTIVE) -> Document:
    """Sign a receipt as the first servers did: with the time in Python's ISO format."""
    data = rfc8785.dumps(receipt | {"timestamp": receipt["timestamp"].replace("Z", "+00:00")})
    return receipt | {"signature": f"ed25519:{b64(signer.sign(data))}"}


def response(body: Document, signer: Signer = ACTIVE) -> Document:
    """Return a receipt as the server does: the legacy fields and the envelope."""
    is_batch = body["kind"] == "batch"
    flat = LEGACY | {"receipt_id": body["receipt_id"], "timestamp": body["issued_at"]}
    return legacy(flat, signer) | {
        "receipt_type": "batch" if is_batch else "single",
        "batch_summary": SUMMARY if is_batch else None,
        **{name: body[name] for name in COMMON},
        "envelope": signer.envelope(body),
    }


def _usages() -> dict[str, Document]:
    details = {"cache_creation_input_tokens": 7, "service_tier": "flex"}
    linked = call(2, conversation_id=CALLS[0]["log_id"], origin="app", id_at_origin="7")
    most = dict.fromkeys(("input", "output", "cached_input"), MAX_SAFE_INTEGER)
    content = {"sha256": "0" * 64}
    snapshot = f"sha256:{'1' * 64}"
    return {
        "usage": usage(1),
        "usage-in-a-conversation": usage(2, linked),
        "usage-with-details": usage(3, call(3, details=details)),
        "usage-strange-text": usage(4, call(4, model=STRANGE, provider="\u65e5\u672c")),
        "usage-largest-counts": usage(5, call(5, tokens=most, latency_ms=0)),
        "usage-unpriced": usage(6, call(6, cost=UNPRICED, latency_ms=None, status="timeout")),
        "usage-with-digests": usage(
            7,
            lock_digest="x",
            registry_snapshot=snapshot,
            content=content,
            description="July",
            tags=["a"],
        ),
    }


def _batches() -> dict[str, Document]:
    three = [CALLS[0], call(2, cost=UNPRICED), CALLS[2]]
    return {
        "batch-of-one": batch(21, CALLS[:1]),
        "batch-of-three": batch(22, three),
        "batch-of-seven": batch(23, CALLS, description=STRANGE, tags=["q4", ""]),
    }


def good() -> dict[str, Any]:
    """Return the documents by name. Bytes are written unchanged."""
    plain = {name: ACTIVE.envelope(body) for name, body in {**_usages(), **_batches()}.items()}
    seven = plain["batch-of-seven"]
    return plain | {
        "usage-by-a-retired-key": RETIRED.envelope(usage(8, signer=RETIRED)),
        "usage-by-the-next-key": NEXT.envelope(usage(9, signer=NEXT)),
        "usage-spelled-otherwise": respelled(plain["usage-strange-text"]),
        "answer-usage": response(usage(11)),
        "answer-batch": response(batch(24, CALLS[:3], tags=["x"])),
        "answer-generate": {"receipt": response(batch(25, CALLS)), "certified_count": 7},
        "old": legacy(LEGACY),
        "old-in-an-answer": legacy(LEGACY) | LEGACY_RESPONSE_FIELDS,
        "old-batch": legacy(LEGACY_BATCH) | {"receipt_type": "batch", "tags": ["unsigned"]},
        "proof-of-the-first": proof(seven, CALLS, 0),
        "proof-of-the-last": proof(seven, CALLS, 6),
        "proof-in-the-middle": proof(seven, CALLS, 4),
        "proof-of-the-only": proof(plain["batch-of-one"], CALLS[:1], 0),
    }


def respelled(document: Document) -> bytes:
    """Write the same JSON differently: with another order, escapes and white space."""
    turned = dict(reversed(document.items()))
    return json.dumps(turned, indent="\t", separators=(" ,", " : ")).encode()
