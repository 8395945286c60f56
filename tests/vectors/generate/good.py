"""Documents that must verify, with all that may vary."""

import json
from typing import Any

import rfc8785

from tests.vectors.generate.second_signer import (
    ACTIVE,
    COMMON,
    NEXT,
    RETIRED,
    SUMMARY,
    Doc,
    Signer,
    b64,
    batch,
    call,
    proof,
    usage,
)

CALLS = [call(number) for number in range(1, 8)]
UNPRICED = {"currency": "USD", "amount": None, "source": "unpriced"}
LARGEST = 2**53 - 1
STRANGE = 'é "\\\b\f\n\r\t\x01\x1f\x7f\u2028 \U0001f600 \ufb33 </script>'

OLD = {
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
OLD_BATCH = OLD | {
    "receipt_id": "rcpt_fedcba9876543210",
    "timestamp": "2025-01-01T00:00:00Z",
    "lock_digest": "sha256:é",
    "provider": "unknown",
    "model": "batch:2 calls",
    "input_cost": 0.0,
    "output_cost": 0.0,
    "total_cost": 1e-7,
}

# What a server of today adds to an old receipt that it hands out.
LATER: Doc = {
    "receipt_type": "single",
    "batch_summary": None,
    "description": None,
    "tags": [],
    "envelope": None,
}


def old(receipt: Doc, signer: Signer = ACTIVE) -> Doc:
    """Sign as the first servers did: the time not as it is on the wire, but as Python spells it."""
    data = rfc8785.dumps(receipt | {"timestamp": receipt["timestamp"].replace("Z", "+00:00")})
    return receipt | {"signature": f"ed25519:{b64(signer.sign(data))}"}


def answer(body: Doc, signer: Signer = ACTIVE) -> Doc:
    """Answer as a server does: the flat fields of old, and the envelope."""
    is_batch = body["kind"] == "batch"
    flat = OLD | {"receipt_id": body["receipt_id"], "timestamp": body["issued_at"]}
    return old(flat, signer) | {
        "receipt_type": "batch" if is_batch else "single",
        "batch_summary": SUMMARY if is_batch else None,
        **{name: body[name] for name in COMMON},
        "envelope": signer.seal(body),
    }


def _usages() -> dict[str, Doc]:
    details = {"cache_creation_input_tokens": 7, "service_tier": "flex"}
    linked = call(2, conversation_id=CALLS[0]["log_id"], origin="app", id_at_origin="7")
    most = dict.fromkeys(("input", "output", "cached_input"), LARGEST)
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


def _batches() -> dict[str, Doc]:
    three = [CALLS[0], call(2, cost=UNPRICED), CALLS[2]]
    return {
        "batch-of-one": batch(21, CALLS[:1]),
        "batch-of-three": batch(22, three),
        "batch-of-seven": batch(23, CALLS, description=STRANGE, tags=["q4", ""]),
    }


def good() -> dict[str, Any]:
    """Return each by its name; bytes are written as they are."""
    plain = {name: ACTIVE.seal(body) for name, body in {**_usages(), **_batches()}.items()}
    seven = plain["batch-of-seven"]
    return plain | {
        "usage-by-a-retired-key": RETIRED.seal(usage(8, signer=RETIRED)),
        "usage-by-the-next-key": NEXT.seal(usage(9, signer=NEXT)),
        "usage-spelled-otherwise": otherwise(plain["usage-strange-text"]),
        "answer-usage": answer(usage(11)),
        "answer-batch": answer(batch(24, CALLS[:3], tags=["x"])),
        "answer-generate": {"receipt": answer(batch(25, CALLS)), "certified_count": 7},
        "old": old(OLD),
        "old-in-an-answer": old(OLD) | LATER,
        "old-batch": old(OLD_BATCH) | {"receipt_type": "batch", "tags": ["unsigned"]},
        "proof-of-the-first": proof(seven, CALLS, 0),
        "proof-of-the-last": proof(seven, CALLS, 6),
        "proof-in-the-middle": proof(seven, CALLS, 4),
        "proof-of-the-only": proof(plain["batch-of-one"], CALLS[:1], 0),
    }


def otherwise(document: Doc) -> bytes:
    """Write the same JSON another way: other order, escapes, and white space."""
    turned = dict(reversed(document.items()))
    return json.dumps(turned, indent="\t", separators=(" ,", " : ")).encode()
