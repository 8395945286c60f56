"""Documents that must not verify. Each is wrong in one thing, that its name tells."""

import json
from typing import Any

from tests.vectors.generate.bad_proofs import answers, proofs
from tests.vectors.generate.bad_signatures import BODY, GOOD, SIG, Bad, signatures
from tests.vectors.generate.good import CALLS, OLD, old
from tests.vectors.generate.second_signer import ACTIVE, Doc, batch, call


def sealed(body: Doc = BODY, **changes: Any) -> Doc:
    """Sign honestly what no receipt may say."""
    return ACTIVE.seal(body | changes)


def without(name: str) -> Doc:
    return ACTIVE.seal({key: each for key, each in BODY.items() if key != name})


def priced(**changes: Any) -> Doc:
    return sealed(cost=BODY["cost"] | changes)


def counted(**changes: Any) -> Doc:
    return sealed(tokens=BODY["tokens"] | changes)


def raw(before: str, after: str) -> bytes:
    text = json.dumps(GOOD)
    assert text.count(before) == 1, before
    return text.replace(before, after).encode()


def _numbers() -> dict[str, Bad]:
    return {
        "form-amount-a-number": (priced(amount=0.0025), "cost is not"),
        "form-amount-of-two-places": (priced(amount="0.01"), "cost is not"),
        "form-amount-below-zero": (priced(amount="-1.0000000000"), "cost is not"),
        "form-amount-without-price": (priced(source="unpriced"), "cost is not"),
        "form-no-amount": (priced(amount=None), "cost is not"),
        "form-other-currency": (priced(currency="EUR"), "cost is not"),
        "form-count-a-truth": (counted(input=True), "tokens is not"),
        "form-count-below-zero": (counted(input=-1), "tokens is not"),
        "form-count-a-float": (raw('"input": 1031', '"input": 1031.0'), "tokens is not"),
        "form-count-of-2-to-the-53": (raw('"input": 1031', f'"input": {2**53}'), "tokens is not"),
    }


def _forms() -> dict[str, Bad]:
    at, three = BODY["issued_at"], call(1)
    return {
        "form-unknown-field": (sealed(note="x"), "1 unknown fields"),
        "form-field-missing": (without("status"), "lacks status"),
        "form-other-version": (sealed(v="llmring-receipt/2"), "v is not"),
        "form-other-kind": (sealed(kind="refund"), "kind is not"),
        "form-time-of-a-zone": (sealed(issued_at=at.replace("Z", "+00:00")), "issued_at is not"),
        "form-time-of-three-digits": (sealed(issued_at=at[:-4] + "Z"), "issued_at is not"),
        "form-time-that-never-was": (sealed(issued_at="2026-02-30" + at[10:]), "issued_at is not"),
        "form-id-in-capitals": (sealed(log_id=BODY["log_id"].upper()), "log_id is not"),
        "form-id-in-arabic-digits": (
            sealed(log_id=BODY["log_id"].replace("0", "\u0660")),
            "log_id",
        ),
        "form-batch-of-nothing": (ACTIVE.seal(batch(42, CALLS, count=0)), "count is not"),
        "form-batch-with-a-call": (ACTIVE.seal(batch(43, CALLS) | three), "unknown fields"),
        "form-no-signature": ({"receipt": BODY}, "envelope lacks signature"),
        "form-old-without-prefix": (old(OLD) | {"signature": SIG}, "signature is not"),
        "form-a-list": ([GOOD], "not a receipt"),
    }


def _texts() -> dict[str, Bad]:
    text = json.dumps(GOOD).encode()
    twice = '"model": "gpt-4o", "model": "gpt-4o-mini"'
    return {
        "json-name-twice": (raw('"model": "gpt-4o-mini"', twice), "twice"),
        "json-receipt-twice": (text[:-1] + b', "receipt": {}}', "twice"),
        "json-not-a-number": (raw('"latency_ms": 151', '"latency_ms": NaN'), "no JSON"),
        "json-byte-order-mark": (b"\xef\xbb\xbf" + text, "not JSON"),
        "json-not-utf-8": (text.replace(b"gpt", b"\xff"), "not JSON"),
        "json-cut-off": (text[:-1], "not JSON"),
        "json-two-documents": (text + text, "not JSON"),
        "json-too-deep": (b"[" * 100_000, "too deep"),
        "json-half-a-character": (raw("gpt-4o-mini", "\\ud800"), "surrogate"),
    }


def bad() -> dict[str, Bad]:
    """Return each by its name, and the words that tell why it is refused."""
    return {**signatures(), **_numbers(), **_forms(), **_texts(), **answers(), **proofs()}
