"""Documents that must not verify. Each has one defect and is named after it."""

import json
from typing import Any

from tests.vectors.generate.bad_signatures import BODY, GOOD, SIG, Bad, signatures
from tests.vectors.generate.good import CALLS, LEGACY, legacy, response
from tests.vectors.generate.second_signer import (
    ACTIVE,
    STRANGER,
    Document,
    batch,
    call,
    proof,
    usage,
)


def signed(body: Document = BODY, **changes: Any) -> Document:
    """Sign an invalid receipt with a valid key."""
    return ACTIVE.envelope(body | changes)


def without(name: str) -> Document:
    return ACTIVE.envelope({key: each for key, each in BODY.items() if key != name})


def priced(**changes: Any) -> Document:
    return signed(cost=BODY["cost"] | changes)


def counted(**changes: Any) -> Document:
    return signed(tokens=BODY["tokens"] | changes)


def raw(before: str, after: str) -> bytes:
    text = json.dumps(GOOD)
    assert text.count(before) == 1, before
    return text.replace(before, after).encode()


def _numbers() -> dict[str, Bad]:
    return {
        "form-amount-a-number": (priced(amount=0.0025), "invalid value for cost"),
        "form-amount-of-two-places": (priced(amount="0.01"), "invalid value for cost"),
        "form-amount-below-zero": (priced(amount="-1.0000000000"), "invalid value for cost"),
        "form-amount-without-price": (priced(source="unpriced"), "invalid value for cost"),
        "form-no-amount": (priced(amount=None), "invalid value for cost"),
        "form-other-currency": (priced(currency="EUR"), "invalid value for cost"),
        "form-count-a-truth": (counted(input=True), "invalid value for tokens"),
        "form-count-below-zero": (counted(input=-1), "invalid value for tokens"),
        "form-count-a-float": (raw('"input": 1031', '"input": 1031.0'), "invalid value for tokens"),
        "form-count-of-2-to-the-53": (
            raw('"input": 1031', f'"input": {2**53}'),
            "invalid value for tokens",
        ),
    }


def _forms() -> dict[str, Bad]:
    at, three = BODY["issued_at"], call(1)
    return {
        "form-unknown-field": (signed(note="x"), "1 unknown field"),
        "form-field-missing": (without("status"), "missing field status"),
        "form-other-version": (signed(v="llmring-receipt/2"), "invalid value for v"),
        "form-other-kind": (signed(kind="refund"), "invalid value for kind"),
        "form-time-of-a-zone": (
            signed(issued_at=at.replace("Z", "+00:00")),
            "invalid value for issued_at",
        ),
        "form-time-of-three-digits": (
            signed(issued_at=at[:-4] + "Z"),
            "invalid value for issued_at",
        ),
        "form-time-that-never-was": (
            signed(issued_at="2026-02-30" + at[10:]),
            "invalid value for issued_at",
        ),
        "form-id-in-capitals": (signed(log_id=BODY["log_id"].upper()), "invalid value for log_id"),
        "form-id-in-arabic-digits": (
            signed(log_id=BODY["log_id"].replace("0", "\u0660")),
            "log_id",
        ),
        "form-batch-of-nothing": (
            ACTIVE.envelope(batch(42, CALLS, count=0)),
            "invalid value for count",
        ),
        "form-batch-with-a-call": (ACTIVE.envelope(batch(43, CALLS) | three), "unknown fields"),
        "form-no-signature": ({"receipt": BODY}, "envelope: missing field signature"),
        "form-old-without-prefix": (
            legacy(LEGACY) | {"signature": SIG},
            "invalid value for signature",
        ),
        "form-a-list": ([GOOD], "not a receipt"),
    }


def _texts() -> dict[str, Bad]:
    text = json.dumps(GOOD).encode()
    twice = '"model": "gpt-4o", "model": "gpt-4o-mini"'
    return {
        "json-name-twice": (raw('"model": "gpt-4o-mini"', twice), "duplicate member"),
        "json-receipt-twice": (text[:-1] + b', "receipt": {}}', "duplicate member"),
        "json-not-a-number": (raw('"latency_ms": 151', '"latency_ms": NaN'), "not valid JSON"),
        "json-byte-order-mark": (b"\xef\xbb\xbf" + text, "not valid JSON"),
        "json-not-utf-8": (text.replace(b"gpt", b"\xff"), "not valid JSON"),
        "json-cut-off": (text[:-1], "not valid JSON"),
        "json-two-documents": (text + text, "not valid JSON"),
        "json-too-deep": (b"[" * 100_000, "too deeply"),
        "json-half-a-character": (raw("gpt-4o-mini", "\\ud800"), "surrogate"),
    }


SEVEN = ACTIVE.envelope(batch(51, CALLS))
PROOF = proof(SEVEN, CALLS, 4)


def _responses() -> dict[str, Bad]:
    """Return responses whose legacy fields differ from their envelope."""
    good, other = response(batch(52, CALLS, tags=["x"])), response(batch(53, CALLS))
    stripped = {name: each for name, each in good.items() if name != "envelope"}
    summary = good["batch_summary"] | {"total_cost": 0.5}
    differ, fit = "differ from the receipt", "invalid signature of the fields beside"
    return {
        "answer-altered-cost": (good | {"total_cost": 0.5}, fit),
        "answer-altered-summary": (good | {"batch_summary": summary}, differ),
        "answer-huge-summary": (
            good | {"batch_summary": {"n": 2**53}},
            "invalid values in the fields beside",
        ),
        "answer-without-summary": (good | {"batch_summary": None}, differ),
        "answer-altered-description": (good | {"description": "paid"}, differ),
        "answer-altered-tags": (good | {"tags": []}, differ),
        "answer-altered-type": (good | {"receipt_type": "single"}, differ),
        "answer-around-another-envelope": (good | {"envelope": other["envelope"]}, differ),
        "answer-without-envelope": (
            good | {"envelope": None},
            "envelope of this receipt is missing",
        ),
        "answer-with-an-empty-envelope": (good | {"envelope": {}}, "envelope: missing field"),
        "answer-stripped-of-its-envelope": (stripped, "envelope of this receipt is missing"),
        "answer-without-signature": (good | {"signature": None}, "invalid value for signature"),
    }


def _proofs() -> dict[str, Bad]:
    """Return invalid proofs."""
    path = PROOF["path"]
    missing = "not in the batch"
    stranger = STRANGER.envelope(batch(51, CALLS, STRANGER))
    other = ACTIVE.envelope(batch(56, [*CALLS[1:], call(9)]))
    outside = batch(54, CALLS, **{"from": CALLS[5]["logged_at"]})
    return {
        "proof-altered-call": (altered_proof(call=CALLS[4] | {"model": "gpt-4o"}), missing),
        "proof-of-another-call": (altered_proof(call=call(99)), missing),
        "proof-altered-path": (altered_proof(path=["0" * 64, *path[1:]]), missing),
        "proof-path-too-short": (altered_proof(path=path[:-1]), missing),
        "proof-path-too-long": (altered_proof(path=[*path, "0" * 64]), missing),
        "proof-path-turned": (altered_proof(path=path[::-1]), missing),
        "proof-in-another-place": (altered_proof(leaf_index=5), missing),
        "proof-beyond-the-end": (altered_proof(leaf_index=7), missing),
        "proof-below-the-start": (altered_proof(leaf_index=-1), "invalid value for leaf_index"),
        "proof-for-another-size": (altered_proof(tree_size=8), "different numbers of calls"),
        "proof-path-endless": (altered_proof(path=["0" * 64] * 65), "invalid value for path"),
        "proof-call-of-other-form": (
            altered_proof(call=CALLS[4] | {"note": 1}),
            "call: 1 unknown field",
        ),
        "proof-against-one-call": (
            altered_proof(envelope=ACTIVE.envelope(usage(55))),
            "not a batch receipt",
        ),
        "proof-against-another-batch": (altered_proof(envelope=other), missing),
        "proof-by-a-stranger": (altered_proof(envelope=stranger), "not among your trusted keys"),
        "proof-of-a-call-out-of-time": (
            altered_proof(envelope=ACTIVE.envelope(outside)),
            "outside the time range",
        ),
    }


def altered_proof(**changes: Any) -> Document:
    return PROOF | changes


def bad() -> dict[str, Bad]:
    """Return each document by name, with a part of the expected error."""
    return {**signatures(), **_numbers(), **_forms(), **_texts(), **_responses(), **_proofs()}
